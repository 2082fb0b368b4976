"""The first flow of unpack: a shard -> its labels, and a number for each name that it brings.

What a file is called depends on all shards: two samples of one name and class must not become one file. So the names
are looked at first, as 64 bits each, and those that come twice are known before any file is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np

from noiseweave.cluster import pipeline, shards, stages, storage
from noiseweave.cluster.arrays import array, npy
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Committed, Phase
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine.records import Location, Quarantined
from noiseweave.jobs import class_folders
from noiseweave.jobs.unpack.task import Task

NAME = "list"
TWICE = "twice.npy"
FOLDERS = "folders.json"
Listed = tuple[str, list[Location], list[Quarantined]]
"""What changes when the shard's content does, its samples, and what was quarantined."""


def run(found: Sequence[str], book: Ledger, s: Session) -> Outcome:
    """Look at every shard."""
    phase = Phase(
        name=NAME, fetch=_fetch, make_compute=stages.unchanged, commit=partial(_commit, book), noun="samples"
    )
    return pipeline.run(Plan.of(found), phase, book, s)


def _fetch(unit: Unit) -> Listed:
    content = storage.content_of(unit.payload)
    return content, *shards.locate(unit.payload)


def _commit(book: Ledger, unit: Unit, result: Listed) -> Committed:
    content, places, bad = result
    labels = Counter("" if p.label is None else str(p.label) for p in places)
    keys = [[p.key, p.label] for p in places]
    storage.write_json(book.path(NAME, f"{unit.id}.json"), {"content": content, "keys": keys})
    return UnitReport(id=unit.id, produced=len(places), tallies={"labels": dict(labels)}), bad


def content_of(book: Ledger, unit: str) -> str:
    """What a shard was when it was looked at."""
    return str(storage.read_object(book.path(NAME, f"{unit}.json"))["content"])


def decide(task: Task, outcome: Outcome, book: Ledger) -> dict[int | None, str]:
    """Label -> folder; and, kept for the workers, the names that come twice."""
    labels = [int(name) if name else None for name in outcome.tallies["labels"]]
    folders = {label: class_folders.folder_of(label, task.classes) for label in labels}
    if not storage.exists(book.path(TWICE)):
        twice = class_folders.repeated(_numbers(task, book))
        # what a later --overwrite has to remove
        storage.write_json(book.path(FOLDERS), sorted(folders.values()))
        storage.write(book.path(TWICE), npy(twice))
    return folders


def _numbers(task: Task, book: Ledger) -> Iterable[np.ndarray]:
    for name in storage.names_in(book.path(NAME)):
        keys = storage.read_object(book.path(NAME, name))["keys"]
        folders = (class_folders.folder_of(label, task.classes) for _, label in keys)
        numbers = [
            class_folders.number_of(folder, key) for folder, (key, _) in zip(folders, keys, strict=True)
        ]
        yield np.array(numbers, np.uint64)


def twice(book: Ledger) -> frozenset[int]:
    """The names that several samples have."""
    return frozenset(array(storage.read(book.path(TWICE))).tolist())
