"""The augment job in this process."""

import json
from pathlib import Path

import numpy as np
from flows import DIGITS, inline

from noiseweave.cluster import shards, storage

BASE = [
    *DIGITS,
    "--inversion.num_steps",
    "6",
    "--inversion.skip",
    "1",
    "--pairing.upper",
    "0.97",
    "--pairing.max_pairs",
    "24",
    "--pairing.group_images",
    "8",
]


def digits():
    from sklearn.datasets import load_digits

    data = load_digits()
    grey = np.rint(data.images[:90] / 16 * 255).astype(np.uint8)
    return grey.repeat(2, 1).repeat(2, 2)[..., None], data.target[:90]


def write_shard(path, samples):
    storage.write(str(path), shards.pack(samples))


def through(output: Path, *arguments: object) -> tuple[dict, dict[str, dict[str, bytes]]]:
    """The report of a run, and its samples: key -> files."""
    assert inline("augment", *arguments, "--output", output) == 0
    made = {}
    for shard in sorted(map(str, output.glob("shards/*.tar"))):
        for e in shards.index(shard)[0]:
            made[e.key] = {x: storage.read(shard, m.offset, m.size) for x, m in e.members.items()}
    return json.loads((output / "report.json").read_text()), made


def report(output):
    return json.loads((output / "report.json").read_text())
