"""The input's good samples in a folder of their own, at the size of the made ones.

They are not among the made ones, so that whoever reads ``shards/`` or judges it has what was made and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial

import numpy as np

from noiseweave.cluster import pipeline, shards, stages, storage
from noiseweave.cluster.arrays import array, npy, table
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Committed, Phase
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine.pictures import images
from noiseweave.engine.records import Location, Quarantined
from noiseweave.jobs import class_folders
from noiseweave.jobs.augment import writing
from noiseweave.jobs.augment.index import INDEX, rows_of
from noiseweave.jobs.augment.skipping import skip_failed
from noiseweave.jobs.augment.task import Task
from noiseweave.jobs.outputs import COPIED_FROM, ORIGINALS, ShardName
from noiseweave.jobs.reading import shard_pictures

Files = dict[str, bytes]
Copied = tuple[list[tuple[str, Files]], list[Quarantined], str]
"""Samples, what was quarantined, and the name of the shard that they are of."""
TWICE = "twice.npy"


def copy_original(task: Task, found: Sequence[str], book: Ledger, s: Session) -> Outcome:
    """Write every shard's good samples again, as originals/original-*.tar."""
    units = [unit for unit, _ in rows_of(book)]
    if task.config.files == "folder" and not storage.exists(book.path(TWICE)):
        numbers = (_numbers(task, book, unit) for unit in units)
        storage.write(book.path(TWICE), npy(class_folders.repeated(numbers)))
    phase = Phase(
        name="copy",
        fetch=partial(_fetch_original, task, book),
        make_compute=stages.unchanged,
        commit=partial(_commit_original, task, book),
        size=stages.length_of_first,
    )
    outcome = pipeline.run(Plan.of(units, units), phase, book, s)
    skip_failed(task, book, "copy", outcome, lambda unit: [found[int(unit)]])
    return outcome


def _fetch_original(task: Task, book: Ledger, unit: Unit) -> Copied:
    index = table(book.path("index", f"{unit.payload}.parquet"), INDEX)
    places = {row["key"]: Location(**row) for row in index.to_pylist()}
    url = index["shard"][0].as_py()
    out: list[tuple[str, Files]] = []
    bad: list[Quarantined] = []
    for entry in (e for e in shards.index(url)[0] if e.key in places):
        ranges = [(m.offset, m.size) for m in entry.members.values()]
        files = dict(zip(entry.members, storage.read_ranges(url, ranges), strict=True))
        shard_pictures.check_same(places[entry.key], files.get(entry.picture or "", b""))
        try:
            out.append((entry.key, fitted(task, places.pop(entry.key), files, entry.picture or "")))
        except ValueError as e:
            bad.append(Quarantined.of(e, shard=url, key=entry.key))
    for place in places.values():  # it is no longer there
        shard_pictures.check_same(place, b"")
    return out, bad, task.name_of(url)


def fitted(task: Task, place: Location, files: Files, main: str) -> Files:
    """A sample at the made ones' size and channels; its .json says besides what it is a copy of.

    A picture that has both already stays byte for byte.

    Raises:
        ValueError: ``"reason: detail"``: a picture beside it (.mask.png) does not open.
    """
    data, size, most = files[main], task.size, task.config.max_pixels
    image_HWC = images.decode(data, task.channels, most)
    as_is = image_HWC.shape[:2] == (size, size) and images.kind_of(data, most)[0] == task.channels
    kind = task.config.samples.image_format
    picture = (main, data) if as_is else (kind, images.encode(images.fit(image_HWC, size), kind))
    out = shard_pictures.cut_alike(files, main, picture, size)
    known = json.loads(
        files.get("json") or b"{}"
    )  # it was read when its shard was: what is no JSON is not here
    mark = {"shard": task.name_of(place.shard), "key": place.key, "sha256": hashlib.sha256(data).hexdigest()}
    known = {**(known if isinstance(known, dict) else {}), COPIED_FROM: mark}
    return out | {"json": json.dumps(known, ensure_ascii=False).encode()}


def _numbers(task: Task, book: Ledger, unit: str) -> np.ndarray:
    """Of each sample of a shard, what two of one name in one class share."""
    index = table(book.path("index", f"{unit}.parquet"), ["key", "label"]).to_pylist()
    folders = (class_folders.folder_of(row["label"], task.classes) for row in index)
    numbers = [class_folders.number_of(of, row["key"]) for of, row in zip(folders, index, strict=True)]
    return np.array(numbers, np.uint64)


def _commit_original(task: Task, book: Ledger, unit: Unit, result: Copied) -> Committed:
    rows, bad, shard = result
    source = None
    if task.config.files == "folder":
        source = writing.Source(shard=shard, twice=frozenset(array(storage.read(book.path(TWICE))).tolist()))
    writing.put(task, ORIGINALS, ShardName(kind="original", unit=unit.id), rows, source)
    return UnitReport(id=unit.id, produced=len(rows)), bad
