"""Whether an input is of what the model was trained on, where the model's folder says what that was.

In dataset scope the run's own features are compared, where they are of the same network; otherwise those of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from noiseweave.cluster import storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.records import Json, JsonMapping
from noiseweave.jobs.augment import index
from noiseweave.jobs.augment.task import Task
from noiseweave.jobs.reading import looks

if TYPE_CHECKING:
    from noiseweave.engine.features.training_set import TrainingSet

COMPARED = 2000  # most of the run's own features
SAMPLED = 200  # pictures whose features are computed for this alone
FILE = "subject.json"  # in _run


def known(name: str) -> TrainingSet | None:
    """What the model's folder says of its training pictures.

    Raises:
        ValueError: it is damaged, in one line.
    """
    from noiseweave.engine.features import training_set
    from noiseweave.engine.networks.facts import read_facts

    return training_set.read(name, read_facts(name).folder)


def look(task: Task, book: Ledger, found: Sequence[str]) -> None:
    """Compare once a run, and warn where the input is far from it.

    Args:
        found: the input's shards; in dataset scope embedded.
    """
    if not storage.exists(book.path(FILE)):
        trained_on = known(task.config.model.name)
        f_ND = np.zeros((0, 0)) if trained_on is None else _features(task, book, found, trained_on)
        if trained_on is None or not len(f_ND):
            return
        nearness = trained_on.nearness(f_ND)
        storage.write_json(book.path(FILE), asdict(nearness) | {"far": nearness.far})
    looks.warn(warning(task.config.model.name, storage.read_json(book.path(FILE))))


def _features(task: Task, book: Ledger, found: Sequence[str], trained_on: TrainingSet) -> np.ndarray:
    """Of the input's pictures, float32 [N, D], unit or raw; none where they cannot be had."""
    from noiseweave.engine.features import networks, training_set

    config = task.config
    if config.pairing.scope == "dataset" and config.features.name == training_set.SPACE:
        path = networks.weights_of(config.features.name, config.features.weights)
        if networks.sha256(path) == trained_on.weights:
            return index.spread_features(book, COMPARED, own=True)
    if not networks.is_here(training_set.SPACE) or training_set.weights() != trained_on.weights:
        return np.zeros((0, 0))
    image_NHWC = looks.some(found, SAMPLED, training_set.SIDE, 3, config.max_pixels)
    return training_set.extractor("cpu")(image_NHWC) if len(image_NHWC) else np.zeros((0, 0))


def warning(model: str, about: JsonMapping) -> str | None:
    """The line, where the pictures are far; None where they are not."""
    if not about["far"]:
        return None
    return (
        f"the pictures are far from what {model} was trained on (median cosine to the nearest kind of its photographs "
        f"{about['cosine']:.2f}; other photographs of its subject have {about['of_held_out']:.2f}, and "
        f"19 of 20 of them more than {about['far_below']:.2f}): expect texture"
    )


def report(book: Ledger) -> Json:
    """What report.json says of it; {} where nothing was compared."""
    return {"subject": storage.read_json(book.path(FILE))} if storage.exists(book.path(FILE)) else {}


def rows(about: JsonMapping) -> list[tuple[str, str]]:
    """What the screen says of it."""
    verdict = "far from it: expect texture" if about["far"] else "near it"
    cosine, of_held_out = f"{about['cosine']:.2f}", f"{about['of_held_out']:.2f}"
    return [("the model's subject", f"{verdict} (median cosine {cosine}, others of it {of_held_out})")]
