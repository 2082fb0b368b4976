"""What a photo model was trained on, written into its folder anew, as train does at its end.

    python scripts/training_features.py SHARDS MODEL

SHARDS are those that it was trained with, MODEL is its folder. For models that were trained without it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from noiseweave.cluster import shards
from noiseweave.engine.features import training_set
from noiseweave.jobs.train import subject


def main() -> None:
    source, model = sys.argv[1:]
    content = subject.learner("cpu")(subject.pictures(shards.find(source)))
    (Path(model) / training_set.FILE).write_bytes(content)
    found = training_set.read(model, Path(model))
    assert found is not None
    print(f"{model}: {len(found.centre_KD)} means, {len(content) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
