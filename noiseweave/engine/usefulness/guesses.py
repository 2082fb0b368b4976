"""What the pictures of an unlabelled pool are taken for, by few labelled ones: pseudo-labels (Lee 2013).

N pictures of the pool, M known ones, K classes, D of a feature.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from noiseweave.engine.features import spaces
from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.judging import classifier
from noiseweave.engine.judging.classifier import soft_labels
from noiseweave.engine.judging.recipes import ClassifierRecipe
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.pictures.images import fit
from noiseweave.engine.usefulness.data import Pictures, Setup
from noiseweave.engine.usefulness.recipes import GuessRecipe


def guess_labels(
    few: Pictures,
    image_NHWC: np.ndarray,
    recipe: GuessRecipe,
    judge: ClassifierRecipe,
    setup: Setup,
    seen_ND: np.ndarray | None = None,
) -> Pictures:
    """The pool with what a classifier of the few takes its pictures for, -1 where it is not sure.

    Args:
        seen_ND: ``seen`` of the pool by ``recipe.features``, where there are any.
    """
    p_NK = np.zeros((len(image_NHWC), setup.classes), np.float32)
    rounds = recipe.rounds if recipe.sure < 1 else 0
    own_ND = None
    if recipe.features is not None and rounds:
        own_ND = seen(recipe.features, few.image_NHWC, setup.device)
    for number in range(rounds):
        sure = p_NK.max(1) >= recipe.sure
        more = (image_NHWC[sure], soft_labels(p_NK[sure].argmax(1), setup.classes)) if sure.any() else None
        if own_ND is None:
            own = few.image_NHWC, soft_labels(few.label_N, setup.classes)
            network = classifier.train(*own, judge, setup.seed + number, more, setup.device)
            p_NK = classifier.probabilities(network, image_NHWC)
        else:
            assert seen_ND is not None
            p_NK = _regressed(own_ND, seen_ND, few.label_N, sure, p_NK.argmax(1), setup.classes)
    label_N = np.where(p_NK.max(1) >= recipe.sure, p_NK.argmax(1), -1)
    return Pictures(image_NHWC=image_NHWC, label_N=label_N.astype(np.int64))


def _regressed(
    own_MD: np.ndarray,
    f_ND: np.ndarray,
    label_M: np.ndarray,
    sure_N: np.ndarray,
    guess_N: np.ndarray,
    classes: int,
) -> np.ndarray:
    """What a logistic regression of the few, and of the guesses that are sure, makes of each picture: [N, K]."""
    known = np.concatenate([label_M, guess_N[sure_N]])
    fitted = Regression.of(np.concatenate([own_MD, f_ND[sure_N]]), known)
    p_NK = np.zeros((len(f_ND), classes), np.float32)
    p_NK[:, fitted.class_K] = fitted.chances(f_ND)
    return p_NK


@dataclass(frozen=True, kw_only=True)
class Regression:
    """A logistic regression that was fitted: float64 [K, D] and [K], and the K classes that it knows, int64."""

    weight_KD: np.ndarray
    bias_K: np.ndarray
    class_K: np.ndarray

    @classmethod
    def of(cls, f_MD: np.ndarray, label_M: np.ndarray) -> Regression:
        """Fit it to unit features and labels of at least two classes."""
        from sklearn.linear_model import LogisticRegression

        # unit features are small numbers: a weak penalty lets them speak
        fitted = LogisticRegression(C=100.0, max_iter=1000).fit(f_MD, label_M)
        weight_KD, bias_K = fitted.coef_.astype(np.float64), fitted.intercept_.astype(np.float64)
        if len(fitted.classes_) == 2:  # of two classes it keeps the second's alone
            weight_KD = np.concatenate([np.zeros_like(weight_KD), weight_KD])
            bias_K = np.concatenate([np.zeros_like(bias_K), bias_K])
        return cls(weight_KD=weight_KD, bias_K=bias_K, class_K=fitted.classes_.astype(np.int64))

    def chances(self, f_ND: np.ndarray) -> np.ndarray:
        """Features -> probabilities of its classes, float64 [N, K]."""
        return softmax(f_ND.astype(np.float64) @ self.weight_KD.T + self.bias_K, axis=1)


def seen(recipe: FeatureRecipe, image_NHWC: np.ndarray, device: str) -> np.ndarray:
    """Unit features of square pictures of any size and of one or three channels."""
    extract = spaces.load(recipe, _no_backbone, device)
    side = spaces.side(recipe, "")
    rgb_NHWC = np.broadcast_to(image_NHWC, (*image_NHWC.shape[:3], 3))
    parts = []
    for i in range(0, len(rgb_NHWC), recipe.batch):
        part = rgb_NHWC[i : i + recipe.batch]
        parts.append(extract(part if spaces.takes_whole(recipe) else np.stack([fit(x, side) for x in part])))
    return np.concatenate(parts)


def _no_backbone() -> Backbone:
    raise AssertionError("the recipe does not allow features of the diffusion model")
