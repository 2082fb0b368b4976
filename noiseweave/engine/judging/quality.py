"""Is a made picture worth keeping: not a copy, still of its parents' class, not broken.

P made pictures, N real ones, D features, K classes. Features have length 1, so a dot product is a cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import ndimage

from noiseweave.engine.judging import traces
from noiseweave.engine.judging.recipes import QualityRecipe

Verdict = Literal["kept", "copy", "drifted", "broken", "speckled", "double_exposure", "strange", "unlike"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
FIGURES = (
    "nearest",
    "parent",
    "drift",
    "sharpness",
    "double",
    "traced",
    "bits",
    "speckle",
    "rough",
    "strange",
)
"""What is measured of a picture, by the names of QualityCheck and Figures."""
FLAT = 1e-6  # sharpness below which a picture has no edges at all


@dataclass(frozen=True, kw_only=True)
class QualityCheck:
    """What is known of a made picture.

    Attributes:
        verdict: kept, or why it is rejected.
        nearest: cosine to the nearest real picture, its parents among them.
        parent: cosine to the nearer parent; None where no parent is known.
        drift: chance that it is of none of its parents' classes, 0 to 1; None where they have no labels.
        sharpness: its own over the mean of its parents'; without parents, over what is typical.
        double, traced, bits, speckle, rough: see ``traces.Traces``; None where it is small or without parents.
        strange: the share of it that the model does not see through noise (``denoising``), over its parents' geometric
            mean; None where no model was asked.
    """

    verdict: Verdict
    nearest: float
    parent: float | None
    drift: float | None
    sharpness: float
    double: float | None = None
    traced: float | None = None
    bits: int | None = None
    speckle: float | None = None
    rough: float | None = None
    strange: float | None = None


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What made pictures are held against.

    Attributes:
        extract: uint8 pictures of the model [P, H, W, C] -> unit features, float32 [P, D].
        real_ND: unit features of real pictures.
        chances: uint8 pictures [P, H, W, C], float32 [P, D] -> float32 [P, K]; None where there are no classes.
        unexplained: uint8 pictures [P, H, W, C] -> float32 [P], see ``denoising``; None where no model is asked.
    """

    extract: Callable[[np.ndarray], np.ndarray]
    real_ND: np.ndarray
    chances: Callable[[np.ndarray, np.ndarray], np.ndarray] | None
    unexplained: Callable[[np.ndarray], np.ndarray] | None = None


def sharpness(image_HWC: np.ndarray) -> float:
    """Variance of the Laplacian of the grey picture (Pech-Pacheco et al., ICPR 2000), in squared grey levels."""
    return float(ndimage.laplace(image_HWC.astype(np.float32).mean(-1)).var())


def nearest_real(f_PD: np.ndarray, real_ND: np.ndarray, block: int = 8192) -> tuple[np.ndarray, np.ndarray]:
    """The largest cosine of each row to any of N others, block by block.

    Returns:
        float32 [P] and the others' rows, int64 [P]; -1 and -1 where N is 0.
    """
    best_P, row_P = np.full(len(f_PD), -1.0, np.float32), np.full(len(f_PD), -1, np.int64)
    for start in range(0, len(real_ND), block):
        cosine_PN = f_PD @ np.asarray(real_ND[start : start + block]).T
        found_P = cosine_PN.max(1)
        row_P = np.where(found_P > best_P, start + cosine_PN.argmax(1), row_P)
        best_P = np.maximum(best_P, found_P)
    return best_P, row_P


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


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What is measured of a made picture; names as of ``QualityCheck``.

    Attributes:
        row: of ``Judge.real_ND``, the nearest picture; None where a parent is as near.
        closest: the nearer parent's position in ``parent_BHWC``; None where no parent is known.
    """

    nearest: float
    parent: float | None
    drift: float | None
    sharpness: float
    double: float | None = None
    traced: float | None = None
    bits: int | None = None
    speckle: float | None = None
    rough: float | None = None
    strange: float | None = None
    row: int | None = None
    closest: int | None = None


def checks(
    judge: Judge,
    image_PHWC: np.ndarray,
    finite_P: np.ndarray,
    parents: Sequence[Sequence[int]],
    parent_BHWC: np.ndarray,
    label_B: Sequence[int | None],
    recipe: QualityRecipe,
) -> list[QualityCheck]:
    """A verdict on each of P made pictures.

    Args:
        image_PHWC: uint8, made.
        finite_P: where False, the picture is none.
        parents: positions in ``parent_BHWC`` of those that each was made of.
        parent_BHWC: uint8, real, at the model's size.
        label_B: their labels.
    """
    labels = [{label_B[i] for i in places} for places in parents]
    used = sorted({i for places in parents for i in places})
    among = [[used.index(i) for i in places] for places in parents]
    return [
        QualityCheck(
            verdict=judge_figures(f, bool(finite), recipe), **{name: getattr(f, name) for name in FIGURES}
        )
        for f, finite in zip(
            measure(judge, image_PHWC, among, parent_BHWC[used], labels), finite_P, strict=True
        )
    ]


def measure(
    judge: Judge,
    image_PHWC: np.ndarray,
    parents: Sequence[Sequence[int]],
    parent_BHWC: np.ndarray,
    labels: Sequence[set[int | None]],
    typical: float = FLAT,
) -> list[Figures]:
    """What is measured of each of P made pictures.

    Args:
        image_PHWC: uint8, made.
        parents: positions in ``parent_BHWC`` of those that each was made of, any number of them.
        parent_BHWC: uint8, real, at the size of the made ones.
        labels: the classes that each may be of.
        typical: sharpness that a picture without parents is held against.
    """
    if not len(image_PHWC):
        return []
    f_PD = judge.extract(image_PHWC)
    f_BD = judge.extract(parent_BHWC) if len(parent_BHWC) else f_PD[:0]
    sharp_B = [sharpness(x) for x in parent_BHWC]
    chance_PK = judge.chances(image_PHWC, f_PD) if judge.chances else None
    strange_P = _strange(judge, image_PHWC, parents, parent_BHWC)
    looked_B = [traces.look(x) for x in parent_BHWC]
    near_P, row_P = nearest_real(f_PD, judge.real_ND)
    out = []
    for i, places in enumerate(parents):
        cosine = {j: float(f_PD[i] @ f_BD[j]) for j in places}
        closest = max(cosine, key=cosine.__getitem__, default=None)
        parent, near = None if closest is None else cosine[closest], float(near_P[i])
        seen = traces.traces(traces.look(image_PHWC[i]), [looked_B[j] for j in places])
        usual = sum(sharp_B[j] for j in places) / len(places) if places else typical
        out.append(
            Figures(
                nearest=near if parent is None else max(parent, near),
                parent=parent,
                drift=drifted(None if chance_PK is None else chance_PK[i], labels[i]),
                sharpness=sharpness(image_PHWC[i]) / max(usual, FLAT),
                double=seen.double,
                traced=seen.traced,
                bits=seen.bits,
                speckle=seen.speckle,
                rough=seen.rough,
                strange=strange_P[i],
                row=int(row_P[i]) if near > (-1 if parent is None else parent) else None,
                closest=closest,
            )
        )
    return out


def _strange(
    judge: Judge, image_PHWC: np.ndarray, parents: Sequence[Sequence[int]], parent_BHWC: np.ndarray
) -> list[float | None]:
    """The share that the model does not see of each, over its parents' geometric mean; None where there is none."""
    if judge.unexplained is None or not len(parent_BHWC):
        return [None] * len(image_PHWC)
    mine_P, theirs_B = np.log(judge.unexplained(image_PHWC)), np.log(judge.unexplained(parent_BHWC))
    return [
        float(np.exp(mine - theirs_B[list(places)].mean())) if len(places) else None
        for mine, places in zip(mine_P, parents, strict=True)
    ]


def drifted(chance_K: np.ndarray | None, labels: set[int | None]) -> float | None:
    """1 - the chance of the parents' classes together."""
    known = [y for y in labels if y is not None]
    if chance_K is None or not known or max(known) >= len(chance_K):
        return None
    return max(0.0, 1.0 - float(chance_K[known].sum()))


def judge_figures(found: Figures, finite: bool, recipe: QualityRecipe) -> Verdict:
    """The first reason to reject a picture: what is wrong with it before what it is, drifted last."""
    low = recipe.settled(photos=False).sharpness
    assert low is not None
    if not finite or (low and not low <= found.sharpness <= 1 / low):
        return "broken"
    if _is_over(found.speckle, recipe.speckle) or _is_over(found.rough, recipe.rough):
        return "speckled"
    if (found.double or 0) > recipe.double:
        return "double_exposure"
    if _is_copy(found, recipe):
        return "copy"
    if _is_over(found.strange, recipe.strange):
        return "strange"
    if recipe.unlike and found.nearest < recipe.unlike:
        return "unlike"
    return "drifted" if found.drift is not None and found.drift > recipe.drift else "kept"


def _is_over(value: float | None, limit: float) -> bool:
    """A limit of 0 is none."""
    return bool(limit) and value is not None and value > limit


def _is_copy(found: Figures, recipe: QualityRecipe) -> bool:
    same_hash = recipe.hash is not None and found.bits is not None and found.bits <= recipe.hash
    return found.nearest > recipe.copy or (found.traced or 0) > recipe.traced or same_hash
