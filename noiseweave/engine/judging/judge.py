"""What a judge of made pictures knows of classes: a small classifier, or the classes' mean features.

It is learnt once, from labelled real pictures, and kept as files that every worker reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch

from noiseweave.engine.judging import classifier, quality
from noiseweave.engine.judging.classifier import Classifier
from noiseweave.engine.judging.recipes import QualityRecipe

NETWORK, WEIGHTS = "judge.json", "judge.safetensors"
"""The classifier's shape, {} where it is none; weights or means, b"" where nothing was learnt."""


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """At most one of the two; neither where fewer than two classes were labelled.

    Attributes:
        network: a classifier of pictures at the model's size.
        means_KD: float32 [K, D], of unit features.
    """

    network: Classifier | None = None
    means_KD: np.ndarray | None = None

    def chances(self) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
        """uint8 pictures [P, H, W, C] and their features, float32 [P, D] -> float32 [P, K]; None where nothing was
        learnt."""
        network, means_KD = self.network, self.means_KD
        if network is not None:
            return lambda image_PHWC, _: classifier.probabilities(network, image_PHWC)
        if means_KD is not None:
            return lambda _, f_PD: quality.centroid_chances(f_PD, means_KD)
        return None

    def files(self) -> dict[str, bytes]:
        """Name -> bytes; ``of_files`` gives it back."""
        shape = {} if self.network is None else self.network.shape
        tensors = {} if self.network is None else dict(self.network.state_dict())
        if self.means_KD is not None:
            tensors = {"means": torch.from_numpy(self.means_KD)}
        data = safetensors.torch.save(tensors) if tensors else b""
        return {NETWORK: json.dumps(shape).encode(), WEIGHTS: data}


def of_files(files: Mapping[str, bytes], device: str) -> Learnt:
    """What ``Learnt.files`` wrote."""
    tensors = safetensors.torch.load(files[WEIGHTS]) if files[WEIGHTS] else {}
    if "means" in tensors:
        return Learnt(means_KD=tensors["means"].numpy())
    if not tensors:
        return Learnt()
    network = Classifier(**json.loads(files[NETWORK]))
    network.load_state_dict(tensors)
    return Learnt(network=network.to(device).eval().requires_grad_(False))


def learn(
    recipe: QualityRecipe,
    image_NHWC: np.ndarray,
    f_ND: np.ndarray,
    label_N: np.ndarray,
    seed: int,
    device: str,
) -> Learnt:
    """Learn the classes of labelled pictures.

    Args:
        image_NHWC: uint8 at the model's size; only the classifier looks at them.
        f_ND: their features; only the means do.
        label_N: int64, -1 where there is none.
    """
    known = label_N >= 0
    count_K = np.unique(label_N[known], return_counts=True)[1]
    if recipe.drift == 1 or len(count_K) < 2:  # nothing would be rejected, or there is no choice
        return Learnt()
    if np.median(count_K) < (recipe.least or 1):  # they say too little of their classes
        return Learnt()
    classes = int(label_N.max()) + 1
    if recipe.judge == "centroid":
        return Learnt(means_KD=quality.centroids(f_ND, label_N, classes))
    p_NK = classifier.soft_labels(label_N[known], classes)
    network = classifier.train(image_NHWC[known], p_NK, recipe.classifier, seed, device=device)
    return Learnt(network=network)
