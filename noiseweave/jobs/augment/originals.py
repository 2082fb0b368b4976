"""The input's good samples beside the new ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from noiseweave.cluster import pipeline, shards, stages, storage
from noiseweave.cluster.arrays import table
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Committed, Phase
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine.records import Location
from noiseweave.jobs.augment.dataset import INDEX, rows_of
from noiseweave.jobs.augment.skipping import skip_failed
from noiseweave.jobs.augment.task import Task
from noiseweave.jobs.outputs import ShardName
from noiseweave.jobs.reading import shard_pictures


def copy_original(task: Task, found: Sequence[str], book: Ledger, s: Session) -> Outcome:
    """Write every shard's good samples again, as original-*.tar."""
    units = [unit for unit, _ in rows_of(book)]
    phase = Phase(
        name="copy",
        fetch=partial(_fetch_original, book),
        make_compute=stages.unchanged,
        commit=partial(_commit_original, task),
    )
    outcome = pipeline.run(Plan.of(units, units), phase, book, s)
    skip_failed(task, book, "copy", outcome, lambda unit: [found[int(unit)]])
    return outcome


def _fetch_original(book: Ledger, unit: Unit) -> list[tuple[str, dict[str, bytes]]]:
    index = table(book.path("index", f"{unit.payload}.parquet"), INDEX)
    places = {row["key"]: Location(**row) for row in index.to_pylist()}
    url = index["shard"][0].as_py()
    out = []
    for entry in (e for e in shards.index(url)[0] if e.key in places):
        ranges = [(m.offset, m.size) for m in entry.members.values()]
        files = dict(zip(entry.members, storage.read_ranges(url, ranges), strict=True))
        shard_pictures.check_same(places[entry.key], files.get(entry.picture or "", b""))
        out.append((entry.key, files))
        del places[entry.key]
    for place in places.values():  # it is no longer there
        shard_pictures.check_same(place, b"")
    return out


def _commit_original(task: Task, unit: Unit, result: list[tuple[str, dict[str, bytes]]]) -> Committed:
    storage.write(
        storage.join(task.output, "shards", str(ShardName(kind="original", unit=unit.id))),
        shards.pack(result),
    )
    return UnitReport(id=unit.id, produced=len(result)), []
