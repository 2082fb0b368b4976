"""The masks of ``fusion.region.source: file``: read beside their pictures; a pair that lacks its own is left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np

from noiseweave.cluster import storage
from noiseweave.engine.pictures import images, masks
from noiseweave.engine.records import Group, Location, Quarantined
from noiseweave.jobs.augment.task import Task

Mask = np.ndarray | str
"""uint8 [size, size], 255 where the picture shows as the second of a pair, or ``"reason: detail"``: why none."""


def read(task: Task, where: Sequence[Location], wanted: Collection[int]) -> list[Mask]:
    """The masks at the ``wanted`` positions by range reads, each cut and resized as its picture is."""
    out: list[Mask] = ["no_mask: no .mask.png in its sample"] * len(where)
    if task.config.fusion.region.source != "file":
        return out
    for places in by_shard(where, (i for i in wanted if where[i].mask is not None)):
        ranges = [r for i in places for r in ((where[i].offset, where[i].size), where[i].mask)]
        data = storage.read_ranges(where[places[0]].shard, [r for r in ranges if r is not None])
        for i, picture, mask in zip(places, data[::2], data[1::2], strict=True):
            out[i] = _fitted(task, picture, mask)
    return out


def by_shard(where: Sequence[Location], wanted: Iterable[int]) -> list[list[int]]:
    """The wanted positions of each shard."""
    found = defaultdict(list)
    for i in wanted:
        found[where[i].shard].append(i)
    return list(found.values())


def _fitted(task: Task, picture: bytes, mask: bytes) -> Mask:
    try:
        masks.check_aspect(masks.read(mask, task.config.max_pixels).shape, images.upright_size(picture))
        return masks.region(mask, task.size, task.config.max_pixels)
    except ValueError as e:
        return str(e)


def with_masks(task: Task, group: Group, masks_B: Sequence[Mask]) -> tuple[Group, list[Quarantined]]:
    """The group with the pairs whose second picture has its mask, where one is needed, and the others as bad."""
    if task.config.fusion.region.source != "file":
        return group, []
    kept, bad = [], []
    for pair in group.pairs:
        first, second, mask = group.images[pair.a], group.images[pair.b], masks_B[pair.b]
        if isinstance(mask, str):
            detail = f"{mask}; it would have been the second of a pair with {first.key}"
            bad.append(Quarantined.of(detail, shard=second.shard, key=second.key))
        else:
            kept.append(pair)
    return replace(group, pairs=tuple(kept)), bad
