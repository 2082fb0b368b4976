"""Where the time of a run went, from its done-markers: a row for each stage, and one for each worker of it."""

from __future__ import annotations

from collections import Counter, defaultdict

from noiseweave.cluster import storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.records import Json, JsonMapping
from noiseweave.jobs.report.faults import LINES
from noiseweave.jobs.report.records import Damage

ORDER = ("embed", "pair", "generate", "window", "copy", "sample", "inpaint")
NOUNS = {"embed": "pictures", "pair": "candidates", "copy": "samples"}


def times(output: str, report: JsonMapping, job: str, damage: Damage) -> tuple[list[Json], list[Json]]:
    """(stages, workers) of a run."""
    book = Ledger(output=output)
    names = storage.folders_in(book.path("done"))
    stages, workers = [], []
    for name in sorted(names, key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), n)):
        stage, by_worker = _stage(book, name, damage)
        phases = report.get("phases") or {job: report}
        wall = phases.get(name, {}).get("seconds")
        stages.append(stage | {"name": name, "noun": NOUNS.get(name, "pictures"), "wall": wall})
        workers += [{"stage": name, "worker": w, **row} for w, row in sorted(by_worker.items())]
    return stages, workers[:LINES]


def _stage(book: Ledger, name: str, damage: Damage) -> tuple[Json, dict[str, Json]]:
    spent: Counter[str] = Counter()
    workers: dict[str, Json] = defaultdict(lambda: {"units": 0, "produced": 0, "compute": 0.0})
    units = produced = 0
    seconds, slowest = 0.0, ("", 0.0)
    for _, record in book.found(name):
        if record is None:
            damage["done-markers"] += 1
            continue
        units += 1
        produced += record["produced"]
        seconds += record["seconds"]
        slowest = max(slowest, (record["id"], record["seconds"]), key=lambda pair: pair[1])
        parts = record.get("spent") or {}
        spent.update(parts)
        if record.get("worker"):
            row = workers[record["worker"]]
            row["units"] += 1
            row["produced"] += record["produced"]
            row["compute"] += parts.get("compute", 0.0)
    return {
        "units": units,
        "produced": produced,
        "seconds": seconds,
        "spent": dict(spent),
        "slowest": {"unit": slowest[0], "seconds": slowest[1]},
    }, workers
