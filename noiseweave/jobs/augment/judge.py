"""``augment --gate``: the judge of made pictures, and the drawing again of those that it rejects.

The judge is made once a run, after the features: class chances of a small classifier that is trained on the input's own
labelled pictures, or class means of the features. In window scope it is made anew of each window's pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from noiseweave.cluster import pipeline, storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Committed, Phase
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine.pictures import images
from noiseweave.engine.records import Location, Pair
from noiseweave.jobs.augment import masks, worker
from noiseweave.jobs.augment.reference import Reference
from noiseweave.jobs.augment.task import Task
from noiseweave.jobs.reading import shard_pictures

if TYPE_CHECKING:
    from noiseweave.engine.judging.judge import Learnt
    from noiseweave.engine.judging.quality import Judge, QualityCheck
    from noiseweave.engine.networks.backbone import Backbone

LEARNT = 20_000  # most pictures that the classifier is trained on, spread evenly over a larger input
Extract = Callable[[np.ndarray], np.ndarray]
Labelled = tuple[np.ndarray, np.ndarray]
"""uint8 [N, size, size, C] and int64 [N], -1 where there is no label."""


# the judge


def extractor(reference: Reference, extract: Extract) -> Extract:
    """The run's extractor, for pictures of the model's size and channels."""

    def features(image_PHWC: np.ndarray) -> np.ndarray:
        seen = np.stack([images.fit(x, reference.feature_side) for x in image_PHWC])
        return extract(seen.repeat(3, -1) if seen.shape[-1] == 1 else seen)

    return features


def judge(
    reference: Reference, extract: Extract, f_ND: np.ndarray, learnt: Learnt, backbone: Backbone | None = None
) -> Judge:
    """The judge, from real pictures' features and what was learnt of classes; ``backbone`` is asked of photos."""
    from noiseweave.engine.features.choice import of_photos
    from noiseweave.engine.judging import denoising, quality

    asked = reference.quality.strange and of_photos(reference.channels, reference.size)
    return quality.Judge(
        extract=extractor(reference, extract),
        real_ND=f_ND[spread(len(f_ND), reference.quality.pool)],
        chances=learnt.chances(),
        unexplained=partial(denoising.unexplained, backbone) if backbone is not None and asked else None,
    )


def spread(count: int, most: int) -> np.ndarray:
    """Row numbers, int64: at most ``most`` of ``count`` rows, evenly spread."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)


# in dataset scope: a phase of one unit, then a file that every worker reads


def make(
    reference: Reference,
    book: Ledger,
    s: Session,
    places: Callable[[int], Sequence[Location]],
    features: Callable[[int], np.ndarray],
) -> Outcome:
    """Train the judge once, on a worker.

    Args:
        places: at most so many pictures of the input, evenly spread.
        features: of as many.
    """
    phase = Phase(
        name="judge",
        fetch=partial(_read, reference, places),
        make_compute=partial(_learner, reference, features),
        commit=partial(_keep, book),
    )
    return pipeline.run(Plan.of([None]), phase, book, s)


def _read(reference: Reference, places: Callable[[int], Sequence[Location]], unit: Unit) -> Labelled:
    where = places(LEARNT)
    found: dict[int, np.ndarray] = {}
    label_N = np.array([-1 if p.label is None else p.label for p in where], np.int64)
    if reference.quality.judge == "centroid":  # it looks at no pictures
        return np.zeros((len(where), 0, 0, reference.channels), np.uint8), label_N
    for rows in masks.by_shard(where, range(len(where))):
        good, _ = shard_pictures.read(
            [where[i] for i in rows], reference.size, reference.channels, reference.max_pixels
        )
        found |= {rows[n]: picture for n, picture in good.items()}
    label_N = label_N[sorted(found)]
    return shard_pictures.stacked(found, reference.size, reference.channels), label_N


def _learner(
    reference: Reference, features: Callable[[int], np.ndarray]
) -> Callable[[Labelled], tuple[dict[str, bytes], int]]:
    from noiseweave.engine.judging import judge

    recipe, seed = reference.quality, reference.seed

    def compute(data: Labelled) -> tuple[dict[str, bytes], int]:
        image_NHWC, label_N = data
        f_ND = features(LEARNT) if recipe.judge == "centroid" else np.zeros((0, 0), np.float32)
        learnt = judge.learn(recipe, image_NHWC, f_ND, label_N, seed, worker.device(reference))
        return learnt.files(), len(label_N)

    return compute


def _keep(book: Ledger, unit: Unit, result: tuple[dict[str, bytes], int]) -> Committed:
    files, count = result
    for name, data in files.items():
        storage.write(book.path(name), data)
    return UnitReport(id=unit.id, produced=count), []


def load(book: Ledger, device: str) -> Learnt:
    """What the judge of this run knows of classes, as ``make`` left it."""
    from noiseweave.engine.judging import judge

    files = {name: storage.read(book.path(name)) for name in (judge.NETWORK, judge.WEIGHTS)}
    return judge.of_files(files, device)


def redrawn(task: Task, keys: Sequence[str], pair: Pair, attempt: int) -> Pair:
    """The pair with another order, mode, ratio and noise."""
    from noiseweave.engine.fusion import groups

    a, b = sorted((pair.a, pair.b))
    config = task.config
    return groups.draw_pair(
        (a, b),
        (keys[a], keys[b]),
        pair.similarity,
        config.fusion,
        config.seed,
        config.pairing.threshold,
        (pair.number, attempt),
    )


def rounded(check: QualityCheck) -> QualityCheck:
    """Four digits of each figure, as the lineage has them."""
    from noiseweave.engine.judging.quality import FIGURES

    values = {name: getattr(check, name) for name in FIGURES}
    return replace(check, **{name: round(v, 4) for name, v in values.items() if v is not None})
