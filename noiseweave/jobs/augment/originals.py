"""The input's good samples, and the pool's, in folders of their own, at the size of the made ones.

They are not among the made ones, so that whoever reads ``shards/`` or judges it has what was made and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
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
from noiseweave.jobs.augment.config import SampleRecipe
from noiseweave.jobs.augment.index import INDEX, rows_of
from noiseweave.jobs.augment.skipping import skip_failed
from noiseweave.jobs.augment.task import Task
from noiseweave.jobs.outputs import COPIED_FROM, GUESSED, ORIGINALS, Kind, ShardName
from noiseweave.jobs.reading import shard_pictures

Files = dict[str, bytes]
Copied = tuple[list[tuple[str, Files]], list[Quarantined], str]
"""Samples, what was quarantined, and the name of the shard that they are of."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where copies go.

    Attributes:
        folder: of the output.
        kind: of its shards.
        phase: that writes them.
        of_pool: they are of the pool, with guessed labels.
    """

    folder: str
    kind: Kind
    phase: str
    of_pool: bool = False


INPUT = Place(folder=ORIGINALS, kind="original", phase="copy")
POOL = Place(folder=GUESSED, kind="guessed", phase="keep", of_pool=True)


def wanted(samples: SampleRecipe) -> list[Place]:
    """The copies that a config asks for."""
    return [INPUT] * samples.copy_original + [POOL] * samples.keep_pool


def copy(task: Task, place: Place, every: Sequence[str], book: Ledger, s: Session) -> Outcome:
    """Write every shard's good samples again.

    Args:
        every: the shards of the input, then those of the pool.
    """
    own = rows_of(book, own=True)
    units = [unit for unit, _ in (rows_of(book)[len(own) :] if place.of_pool else own)]
    twice = book.path(f"{place.folder}-twice.npy")
    if task.config.files == "folder" and not storage.exists(twice):
        numbers = (_numbers(task, book, unit) for unit in units)
        storage.write(twice, npy(class_folders.repeated(numbers)))
    phase = Phase(
        name=place.phase,
        fetch=partial(_fetch_original, task, book),
        make_compute=stages.unchanged,
        commit=partial(_commit_original, task, place, twice),
        size=stages.length_of_first,
    )
    outcome = pipeline.run(Plan.of(units, units), phase, book, s)
    skip_failed(task, book, place.phase, outcome, lambda unit: [every[int(unit)]])
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
    if place.guess is not None:
        known["guess"] = {"label": place.label, "confidence": place.guess}
        out["cls"] = str(place.label).encode()
    return out | {"json": json.dumps(known, ensure_ascii=False).encode()}


def _numbers(task: Task, book: Ledger, unit: str) -> np.ndarray:
    """Of each sample of a shard, what two of one name in one class share."""
    index = table(book.path("index", f"{unit}.parquet"), ["key", "label"]).to_pylist()
    folders = (class_folders.folder_of(row["label"], task.classes) for row in index)
    numbers = [class_folders.number_of(of, row["key"]) for of, row in zip(folders, index, strict=True)]
    return np.array(numbers, np.uint64)


def _commit_original(task: Task, place: Place, twice: str, unit: Unit, result: Copied) -> Committed:
    rows, bad, shard = result
    source = None
    if task.config.files == "folder":
        source = writing.Source(shard=shard, twice=frozenset(array(storage.read(twice)).tolist()))
    writing.put(task, place.folder, ShardName(kind=place.kind, unit=unit.id), rows, source)
    return UnitReport(id=unit.id, produced=len(rows)), bad
