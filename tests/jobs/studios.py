"""What the tabs Pairs and Fuse send, and the input's features."""

import time

from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.jobs.studio.config import Config
from noiseweave.jobs.studio.features import Features

PAIRS = {
    **{"threshold": 0.5, "upper": 0.97, "top_k": 5, "max_uses": 4, "quota": "balanced", "per_class": 20},
    **{"draw": "range", "pair_classes": "same_class", "max_pairs": 0},
}
FUSE = {
    **{"mode": "linear", "ratio": 0.3, "region": "everywhere", "steps": 4, "skip": 1, "noise": "shared"},
    **{"variation": 0.1, "seed": 7, "source": "", "target": "", "guidance_source": 0, "guidance_target": 0},
}


def table_of(features):
    features.begin()
    while features.busy:
        time.sleep(0.01)
    if features.error:
        raise features.error
    return features.table


def read_table(place, name="digits-ddpm", **more):
    config = Config(input=str(place), output="out", model=ModelConfig(name=name), **more)
    return table_of(Features(config, None, lambda work: work()))
