"""The augment job in this process."""

import json
from pathlib import Path

from flows import inline

from noiseweave.cluster import shards, storage


def through(output: Path, *arguments: object) -> tuple[dict, dict[str, dict[str, bytes]]]:
    """The report of a run, and its samples: key -> files."""
    assert inline("augment", *arguments, "--output", output) == 0
    made = {}
    for shard in sorted(map(str, output.glob("shards/*.tar"))):
        for e in shards.index(shard)[0]:
            made[e.key] = {x: storage.read(shard, m.offset, m.size) for x, m in e.members.items()}
    return json.loads((output / "report.json").read_text()), made
