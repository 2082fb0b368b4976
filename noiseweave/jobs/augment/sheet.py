"""contact_sheet.png: some new pictures between their parents, of every class about as many.

Which ones is a function of the units' counts alone, and of no more than those units' shards is anything read.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from noiseweave.cluster import shards, storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.pictures import images
from noiseweave.engine.pictures.provenance import MIXED, Mark
from noiseweave.engine.records import Json, JsonMapping
from noiseweave.jobs import outputs
from noiseweave.jobs.augment import paired
from noiseweave.jobs.augment.reference import above
from noiseweave.jobs.augment.task import Task
from noiseweave.jobs.reading import looks

if TYPE_CHECKING:
    import numpy as np

NAME = "contact_sheet.png"
ROWS = 12
TILES = 96, 192  # pixels of a picture, at least and at most
LONGEST = 24  # characters of a class's name in a caption


class Sample(NamedTuple):
    """A new picture: its lineage, and where its bytes lie (a size of None is to the file's end)."""

    lineage: Json
    url: str
    offset: int
    size: int | None


def write(task: Task, book: Ledger, phase: str) -> str | None:
    """Write the sheet; None when there are no pictures.

    Args:
        phase: whose units made them.
    """
    from noiseweave.engine.pictures import collage

    counts = {record["id"]: record["tallies"].get("classes", {}) for record in book.records(phase)}
    rows = [_row(task, sample) for sample in _samples(task, book, chosen(counts))]
    if not rows:
        return None
    tile = min(TILES[1], max(TILES[0], *(picture.shape[0] for pictures, _ in rows for picture in pictures)))
    page = collage.sheet([r[0] for r in rows], [r[1] for r in rows], ("first", "fused", "second"), tile)
    path = storage.join(task.output, NAME)
    storage.write(path, collage.png(page, _mark(task)))
    return path


def shares(count_C: Sequence[int], rows: int = ROWS) -> list[int]:
    """Rows of each class: as even as what there is of it allows; of more classes than rows, some that are spread."""
    of_class = [0] * len(count_C)
    shown = looks.spread(len(count_C), rows)
    while shown and rows:
        for c in shown[:rows]:
            of_class[c] += 1
        rows -= min(rows, len(shown))
        shown = [c for c in shown if of_class[c] < count_C[c]]
    return of_class


def chosen(counts: Mapping[str, Mapping[str, int]]) -> Iterator[tuple[str, str, list[int]]]:
    """Unit -> class -> its pictures, to (class, unit, which of them in it): classes in their order, each one's
    pictures spread over all that there are of it."""
    units: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for unit, of_class in sorted(counts.items()):
        for name, n in of_class.items():
            if n > 0:
                units[name].append((unit, n))
    names = sorted(units, key=lambda name: (len(name), name))
    totals = [sum(n for _, n in units[name]) for name in names]
    for name, total, rows in zip(names, totals, shares(totals), strict=True):
        left, first = looks.spread(total, rows) if rows else [], 0
        for unit, n in units[name]:
            if here := [i - first for i in left if first <= i < first + n]:
                yield name, unit, here
            first += n


def _samples(task: Task, book: Ledger, wanted: Iterator[tuple[str, str, list[int]]]) -> Iterator[Sample]:
    of_files = task.config.files == "folder"
    folder = book.path(outputs.ROWS, outputs.PICTURES) if of_files else storage.join(task.output, "shards")
    look = _in_rows if of_files else _in_shard
    written: dict[str, list[str]] = defaultdict(list)
    for file in storage.names_in(folder):
        if (name := outputs.ShardName.of(file)) and name.kind == "augmented":
            written[name.unit].append(storage.join(folder, file))
    read: dict[str, list[Sample]] = {}  # of ROWS units at most
    for of, unit, which in wanted:
        if unit not in read:
            read[unit] = [sample for path in written[unit] for sample in look(task, path)]
        here = [sample for sample in read[unit] if _class_of(sample.lineage) == of]
        yield from (here[i] for i in which if i < len(here))  # forget may have left fewer than were made


def _class_of(lineage: JsonMapping) -> str:
    return paired.class_of(*(parent["label"] for parent in lineage["parents"]))


def _in_shard(task: Task, shard: str) -> Iterator[Sample]:
    entries = shards.index(shard)[0]
    with storage.open_read(shard) as f:
        for entry in entries:
            assert entry.picture is not None
            where = entry.members[entry.picture]
            lineage = json.loads(shards.small(f, entry, "json") or b"{}")
            yield Sample(lineage, shard, where.offset, where.size)


def _in_rows(task: Task, path: str) -> Iterator[Sample]:
    """The same of the lines of a unit's files."""
    for row in outputs.read_json_lines(path):
        picture = storage.join(task.output, outputs.PICTURES, row["file_name"])
        yield Sample(json.loads(row["json"]), picture, 0, None)


def _row(task: Task, sample: Sample) -> tuple[list[np.ndarray], str]:
    """(first parent, fused, second parent) and a caption."""
    lineage = sample.lineage
    parents = [_parent(task, p) for p in lineage["parents"]]
    name = paired.named(_class_of(lineage), task.classes)
    short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    text = f"{short}: {lineage['mode']} {lineage['ratio']:.2f}, sim {lineage['similarity']:.2f}"
    picture = storage.read(sample.url, sample.offset, sample.size)
    return [parents[0], images.decode(picture, task.channels), parents[1]], text


def _parent(task: Task, parent: Json) -> np.ndarray:
    """A parent as the model saw it."""
    url = (above(task.pool_root) if "guess" in parent else task.root) + parent["shard"]
    entry = next(e for e in shards.index(url)[0] if e.key == parent["key"])
    assert entry.picture is not None
    where = entry.members[entry.picture]
    picture = images.decode(
        storage.read(url, where.offset, where.size), task.channels, task.config.max_pixels
    )
    return images.fit(picture, task.size)


def _mark(task: Task) -> Mark | None:
    """What the sheet's file says."""
    config = task.config
    if not config.samples.provenance:
        return None
    return Mark(source=MIXED, model=config.model.name, model_hash=task.model_hash, seed=config.seed)
