"""The last of training a photo model: what its pictures are of goes beside its weights, for augment to compare with."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from noiseweave.cluster import storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Committed
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine.features import choice, networks, training_set
from noiseweave.engine.networks.recipes import UNETS
from noiseweave.jobs.reading import looks
from noiseweave.jobs.train.config import Config
from noiseweave.jobs.train.task import Source


def write(config: Config, source: Source, s: Session) -> None:
    """Write the model's ``training_set.FILE``, where it is of photos and the features' network is here.

    A failure is a warning: the model is as good without the file.
    """
    from noiseweave.cluster import pipeline
    from noiseweave.cluster.stages import Phase

    photos = choice.of_photos(config.data.channels, config.data.size) and config.model.kind in UNETS
    if not photos or source.count < training_set.LEAST or not networks.is_here(training_set.SPACE):
        return
    phase = Phase(
        name="subject",
        fetch=_read,
        make_compute=partial(learner, "cuda" if s.gpus_per_worker > 0 else "cpu"),
        commit=partial(_commit, config),
        size=len,
    )
    outcome = pipeline.run(
        Plan.of([[shard.url for shard in source.shards]]), phase, Ledger(output=config.output), s
    )
    for error in outcome.failed.values():
        looks.warn(
            f"what the model was trained on is not written beside it, and augment will not compare: {error}"
        )


def _read(unit: Unit) -> np.ndarray:
    return pictures(unit.payload)


def pictures(found: list[str]) -> np.ndarray:
    """A sample of the pictures of shards, as the features' network sees them: uint8 [N, 224, 224, 3]."""
    return looks.some(found, training_set.MOST, training_set.SIDE, 3)


def learner(device: str) -> Callable[[np.ndarray], bytes]:
    """Pictures -> the content of the file.

    Raises:
        ValueError: fewer than ``training_set.LEAST`` pictures open.
    """
    extract, digest = training_set.extractor(device), training_set.weights()

    def compute(image_NHWC: np.ndarray) -> bytes:
        if len(image_NHWC) < training_set.LEAST:
            raise ValueError(f"{len(image_NHWC)} pictures open, {training_set.LEAST} are needed")
        return training_set.learn(extract(image_NHWC), digest).encoded()

    return compute


def _commit(config: Config, unit: Unit, content: bytes) -> Committed:
    storage.write(storage.join(config.output, training_set.FILE), content)
    return UnitReport(id=unit.id, produced=1), []
