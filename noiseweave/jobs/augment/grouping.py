"""Selected pairs become groups, whose pictures are inverted once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from noiseweave.engine.records import Group, Location
from noiseweave.jobs.augment.task import Task

if TYPE_CHECKING:
    from noiseweave.engine.pairing.selection import Selected


def make_groups(
    task: Task, selected: Selected, locate: Callable[[np.ndarray], Sequence[Location]]
) -> Iterator[tuple[Group, np.ndarray]]:
    """Selected pairs of rows -> groups, each with its images' row numbers.

    ``locate`` gives the Locations of the rows of one group, so that no more of the index is held as records.
    """
    from noiseweave.engine.fusion import groups
    from noiseweave.engine.pairing import nearest

    config, a, b = task.config, selected.a, selected.b
    for n, members in enumerate(nearest.split_into_groups(a, b, config.pairing)):
        rows, places = np.unique(np.stack([a[members], b[members]]), return_inverse=True)
        where = locate(rows)
        keys = [task.key_of(p.shard, p.key) for p in where]
        ends = [(int(i), int(j)) for i, j in places.reshape(2, -1).T]
        pairs = groups.draw_pairs(
            ends, keys, selected.similarity[members], config.fusion, config.seed, config.pairing.threshold
        )
        yield Group(id=f"{n:06d}", images=tuple(where), pairs=tuple(pairs)), rows
