"""The augment job in this process."""

import json
from pathlib import Path
from types import SimpleNamespace

from flows import run_here

from noiseweave.cluster import ledger, pipeline, shards, storage
from noiseweave.jobs import augment, augment_dataset, augment_report, augment_window, cli


def through(monkeypatch, output: Path, *arguments: object) -> tuple[dict, dict[str, dict[str, bytes]]]:
    """The report of a run, with the units of each phase one after another, and its samples: key -> files."""
    monkeypatch.setattr(pipeline, "run", run_here)
    _, config = cli.parse("augment", [*map(str, arguments), "--output", str(output)])
    found = shards.find(config.input)
    task = augment._task(config, str(output), found)
    book = ledger.open_run(str(output), augment.identity(task, found), False, augment_report.OWNED)
    phases = augment_window if config.pairing.scope == "window" else augment_dataset
    session = SimpleNamespace(workers=1)
    assert augment_report.finish(task, book, phases.run(task, found, book, session), session) == 0
    made = {}
    for shard in sorted(map(str, output.glob("shards/*.tar"))):
        for e in shards.index(shard)[0]:
            made[e.key] = {x: storage.read(shard, m.offset, m.size) for x, m in e.members.items()}
    return json.loads((output / "report.json").read_text()), made
