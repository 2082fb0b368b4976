"""Is a made picture worth keeping: not a copy, still of its parents' class, not broken.

P made pictures, N real ones, D features, K classes. Features have length 1, so a dot product is a cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from noiseweave.engine.quality_recipes import QualityRecipe

Verdict = Literal["kept", "copy", "drifted", "broken"]
FLAT = 1e-6  # sharpness below which a picture has no edges at all


@dataclass(frozen=True, kw_only=True)
class Check:
    """What is known of a made picture.

    Attributes:
        verdict: kept, or why it is rejected.
        nearest: cosine to the nearest real picture, its parents among them.
        parent: cosine to the nearer parent.
        drift: chance that it is of none of its parents' classes, 0 to 1; None where they have no labels.
        sharpness: its own over the mean of its parents'.
    """

    verdict: Verdict
    nearest: float
    parent: float
    drift: float | None
    sharpness: float


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What made pictures are held against.

    Attributes:
        extract: uint8 pictures of the model [P, H, W, C] -> unit features, float32 [P, D].
        real_ND: unit features of real pictures.
        chances: uint8 pictures [P, H, W, C], float32 [P, D] -> float32 [P, K]; None where there are no classes.
    """

    extract: Callable[[np.ndarray], np.ndarray]
    real_ND: np.ndarray
    chances: Callable[[np.ndarray, np.ndarray], np.ndarray] | None


def sharpness(image_HWC: np.ndarray) -> float:
    """Variance of the Laplacian of the grey picture (Pech-Pacheco et al., ICPR 2000), in squared grey levels."""
    return float(ndimage.laplace(image_HWC.astype(np.float32).mean(-1)).var())


def nearest(f_PD: np.ndarray, real_ND: np.ndarray, block: int = 8192) -> np.ndarray:
    """The largest cosine of each row to any of N others, block by block: float32 [P], -1 where N is 0."""
    best_P = np.full(len(f_PD), -1.0, np.float32)
    for start in range(0, len(real_ND), block):
        best_P = np.maximum(best_P, (f_PD @ np.asarray(real_ND[start : start + block]).T).max(1))
    return best_P


def centroids(f_ND: np.ndarray, label_N: np.ndarray, classes: int) -> np.ndarray:
    """Class means of unit features, brought to length 1: float32 [K, D]; a class without pictures is 0."""
    sums = np.zeros((classes, f_ND.shape[1]), np.float64)
    known = label_N >= 0
    np.add.at(sums, label_N[known], f_ND[known])
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return (sums / np.where(length > 0, length, 1)).astype(np.float32)


def centroid_chances(f_PD: np.ndarray, mean_KD: np.ndarray, sharpness: float = 20.0) -> np.ndarray:
    """Softmax of the cosines to the class means, float32 [P, K]: 1/2 half way between two classes."""
    score = sharpness * (f_PD @ mean_KD.T)
    score = np.exp(score - score.max(1, keepdims=True))
    return score / score.sum(1, keepdims=True)


def checks(
    judge: Judge, image_PHWC: np.ndarray, finite_P: np.ndarray, parents: Sequence[tuple[int, int]],
    parent_BHWC: np.ndarray, label_B: Sequence[int | None], recipe: QualityRecipe,
) -> list[Check]:  # fmt: skip
    """A verdict on each of P made pictures.

    Args:
        image_PHWC: uint8, made.
        finite_P: where False, the picture is none.
        parents: positions in ``parent_BHWC`` of the two that each was made of.
        parent_BHWC: uint8, real, at the model's size.
        label_B: their labels.
    """
    if not len(image_PHWC):
        return []
    f_PD, f_BD = judge.extract(image_PHWC), judge.extract(parent_BHWC)
    sharp_B = [sharpness(x) for x in parent_BHWC]
    chance_PK = judge.chances(image_PHWC, f_PD) if judge.chances else None
    near_P = nearest(f_PD, judge.real_ND)
    out = []
    for i, (a, b) in enumerate(parents):
        mean = max((sharp_B[a] + sharp_B[b]) / 2, FLAT)
        parent = float(max(f_PD[i] @ f_BD[a], f_PD[i] @ f_BD[b]))
        drift = drifted(None if chance_PK is None else chance_PK[i], {label_B[a], label_B[b]})
        found = {
            "nearest": max(parent, float(near_P[i])), "parent": parent, "drift": drift,
            "sharpness": sharpness(image_PHWC[i]) / mean,
        }  # fmt: skip
        out.append(Check(verdict=verdict(found, bool(finite_P[i]), recipe), **found))  # type: ignore[arg-type]
    return out


def drifted(chance_K: np.ndarray | None, labels: set[int | None]) -> float | None:
    """1 - the chance of the parents' classes together."""
    known = [y for y in labels if y is not None]
    if chance_K is None or not known or max(known) >= len(chance_K):
        return None
    return max(0.0, 1.0 - float(chance_K[known].sum()))


def verdict(found: dict[str, float | None], finite: bool, recipe: QualityRecipe) -> Verdict:
    """The first reason to reject a picture, broken before copied before drifted."""
    sharp, drift = found["sharpness"], found["drift"]
    assert sharp is not None
    assert found["nearest"] is not None
    low = recipe.sharpness
    if not finite or (low and not low <= sharp <= 1 / low):
        return "broken"
    if found["nearest"] > recipe.copy:
        return "copy"
    return "drifted" if drift is not None and drift > recipe.drift else "kept"
