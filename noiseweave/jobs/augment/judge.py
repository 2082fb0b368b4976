"""``augment --gate``: the judge of made pictures, and the drawing again of those that it rejects.

The judge is made once a run, after the features: class chances of a small classifier that is trained on the input's own
labelled pictures, or class means of the features. In window scope it is made anew of each window's pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

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
from noiseweave.jobs.augment.task import Task
from noiseweave.jobs.reading import shard_pictures

if TYPE_CHECKING:
    from noiseweave.engine.judging.quality import Check, Judge

LEARNT = 20_000  # most pictures that the classifier is trained on, spread evenly over a larger input
Extract = Callable[[np.ndarray], np.ndarray]


# the judge


def extractor(task: Task, extract: Extract) -> Extract:
    """The run's extractor, for pictures of the model's size and channels."""

    def features(image_PHWC: np.ndarray) -> np.ndarray:
        seen = np.stack([images.fit(x, task.feature_side) for x in image_PHWC])
        return extract(seen.repeat(3, -1) if seen.shape[-1] == 1 else seen)

    return features


def learn(task: Task, image_NHWC: np.ndarray, f_ND: np.ndarray, label_N: np.ndarray, device: str) -> Any:
    """What the judge knows of classes: a classifier, or means [K, D]; None where fewer than two are labelled.

    Args:
        image_NHWC: uint8 at the model's size; only the classifier looks at them.
        f_ND: their features; only the means do.
        label_N: int64, -1 where there is none.
    """
    from noiseweave.engine.judging import classifier, quality

    recipe, known = task.config.quality, label_N >= 0
    if len(np.unique(label_N[known])) < 2:
        return None
    classes = int(label_N.max()) + 1
    if recipe.judge == "centroid":
        return quality.centroids(f_ND, label_N, classes)
    p_NK = classifier.soft_labels(label_N[known], classes)
    return classifier.train(image_NHWC[known], p_NK, recipe.classifier, task.config.seed, device=device)


def judge(task: Task, extract: Extract, f_ND: np.ndarray, learnt: Any) -> Judge:
    """The judge, from what ``learn`` gave."""
    from noiseweave.engine.judging import classifier, quality

    if learnt is None:
        chances = None
    elif isinstance(learnt, np.ndarray):
        chances = lambda image_PHWC, f_PD: quality.centroid_chances(f_PD, learnt)  # noqa: E731
    else:
        chances = lambda image_PHWC, f_PD: classifier.probabilities(learnt, image_PHWC)  # noqa: E731
    return quality.Judge(
        extract=extractor(task, extract), real_ND=spread(f_ND, task.config.quality.pool), chances=chances
    )


def spread(rows: Any, most: int) -> Any:
    """At most so many rows, evenly spread."""
    if len(rows) <= most:
        return rows
    places = np.linspace(0, len(rows) - 1, most).round().astype(int)
    return [rows[i] for i in places.tolist()] if isinstance(rows, range) else rows[places]


# in dataset scope: a phase of one unit, then a file that every worker reads


def make(
    task: Task,
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
        fetch=partial(_read, task, places),
        make_compute=partial(_learner, task, features),
        commit=partial(_keep, task, book),
    )
    return pipeline.run(Plan.of([None]), phase, book, s)


def _read(task: Task, places: Callable[[int], Sequence[Location]], unit: Unit) -> Any:
    where = places(LEARNT)
    found: dict[int, np.ndarray] = {}
    if task.config.quality.judge == "classifier":
        for rows in masks.by_shard(where, range(len(where))):
            good, _ = shard_pictures.read(
                [where[i] for i in rows], task.size, task.channels, task.config.max_pixels
            )
            found |= {rows[n]: picture for n, picture in good.items()}
    else:
        found = {i: np.zeros((task.size, task.size, task.channels), np.uint8) for i in range(len(where))}
    label_N = np.array([-1 if where[i].label is None else where[i].label for i in sorted(found)], np.int64)
    return shard_pictures.stacked(found, task.size, task.channels), label_N


def _learner(task: Task, features: Callable[[int], np.ndarray]) -> Callable[[Any], Any]:

    def compute(data: Any) -> Any:
        image_NHWC, label_N = data
        f_ND = features(LEARNT) if task.config.quality.judge == "centroid" else np.zeros((0, 0), np.float32)
        learnt = learn(task, image_NHWC, f_ND, label_N, worker.device(task))
        return to_bytes(learnt), len(label_N)

    return compute


def to_bytes(learnt: Any) -> bytes:
    """Weights as safetensors, with what the network is; b"" for none."""
    import safetensors.torch
    import torch

    if learnt is None:
        return b""
    if isinstance(learnt, np.ndarray):
        return safetensors.torch.save({"means": torch.from_numpy(learnt)})
    return safetensors.torch.save(dict(learnt.state_dict()), {"shape": json.dumps(learnt.shape)})


def from_bytes(data: bytes, device: str) -> Any:
    """What ``to_bytes`` wrote."""
    import safetensors.torch

    from noiseweave.engine.judging import classifier

    if not data:
        return None
    weights = safetensors.torch.load(data)
    if "means" in weights:
        return weights["means"].numpy()
    header = json.loads(
        data[8 : 8 + int.from_bytes(data[:8], "little")]
    )  # safetensors.torch.load leaves it out
    network = classifier.Classifier(**json.loads(header["__metadata__"]["shape"]))
    network.load_state_dict(weights)
    return network.to(device).eval().requires_grad_(False)


def _keep(task: Task, book: Ledger, unit: Unit, result: Any) -> Committed:
    data, count = result
    storage.write(book.path("judge.safetensors"), data)
    return UnitReport(id=unit.id, produced=count), []


def load(task: Task, book: Ledger, device: str) -> Any:
    """What the judge of this run knows of classes, as ``make`` left it."""
    return from_bytes(storage.read(book.path("judge.safetensors")), device)


def redrawn(task: Task, keys: Sequence[str], pair: Pair, attempt: int) -> Pair:
    """The pair with another order, mode, ratio and noise."""
    from noiseweave.engine.fusion import groups

    a, b = sorted((pair.a, pair.b))
    config = task.config
    return groups.draw_pair(
        a,
        b,
        keys[a],
        keys[b],
        pair.similarity,
        config.fusion,
        config.seed,
        config.pairing.threshold,
        pair.number,
        attempt,
    )


def rounded(check: Check) -> Check:
    """Four digits of each figure, as the lineage has them."""
    drift, parent = (None if v is None else round(v, 4) for v in (check.drift, check.parent))
    return replace(
        check,
        nearest=round(check.nearest, 4),
        parent=parent,
        drift=drift,
        sharpness=round(check.sharpness, 4),
    )
