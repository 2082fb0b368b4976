"""What the pictures of an unlabelled pool are taken for, by few labelled ones: pseudo-labels (Lee 2013).

N pictures of the pool, M known ones, K classes, D of a feature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import softmax

from noiseweave.engine.features import spaces
from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.judging import classifier
from noiseweave.engine.judging.classifier import soft_labels
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.pictures.images import fit
from noiseweave.engine.seeding import rng
from noiseweave.engine.usefulness.data import Pictures, Setup
from noiseweave.engine.usefulness.recipes import GuessRecipe

Chances = Callable[[np.ndarray], np.ndarray]
"""Things, [N, ...] -> how probable each of K classes is, float [N, K]."""


def guess_labels(
    few: Pictures,
    image_NHWC: np.ndarray,
    recipe: GuessRecipe,
    setup: Setup,
    seen_ND: np.ndarray | None = None,
) -> Pictures:
    """The pool with what a classifier of the few takes its pictures for, -1 where it is not sure.

    Args:
        seen_ND: ``seen`` of the pool by ``recipe.features``, where there are any.
    """
    p_NK = np.zeros((len(image_NHWC), setup.classes), np.float32)
    rounds = recipe.rounds if recipe.sure < 1 else 0
    if rounds:
        own = looked_at(recipe, few.image_NHWC, setup)
        pool = looked_at(recipe, image_NHWC, setup) if seen_ND is None else seen_ND
    for number in range(rounds):
        sure = p_NK.max(1) >= recipe.sure
        more = (pool[sure], p_NK[sure].argmax(1)) if sure.any() else None
        again = replace(setup, seed=setup.seed + number)
        p_NK = learnt(recipe, (own, few.label_N), again, more)(pool)
    label_N = np.where(p_NK.max(1) >= recipe.sure, p_NK.argmax(1), -1)
    return Pictures(image_NHWC=image_NHWC, label_N=label_N.astype(np.int64))


def judge_of(few: Pictures, recipe: GuessRecipe, setup: Setup) -> Chances:
    """Pictures -> what the guesses' classifier of the few takes them for."""
    own = looked_at(recipe, few.image_NHWC, setup)
    chances = learnt(recipe, (own, few.label_N), setup)
    return lambda image_NHWC: chances(looked_at(recipe, image_NHWC, setup))


def hardness(few: Pictures, recipe: GuessRecipe, setup: Setup, folds: int = 5) -> np.ndarray:
    """How often each class is taken for another by the guesses' classifier, cross-validated on the few: float [K].

    (errors + 1) / (pictures + 2), Laplace's rule: never 0, and of few pictures nothing is sure.
    """
    own, label_N = looked_at(recipe, few.image_NHWC, setup), few.label_N
    fold_N = np.empty(len(label_N), int)
    for k in np.unique(label_N):
        rows = np.flatnonzero(label_N == k)
        rng(setup.seed, "folds", int(k)).shuffle(shuffled := rows.tolist())
        fold_N[shuffled] = np.arange(len(rows)) % folds
    wrong_N = np.zeros(len(label_N))
    for fold in np.unique(fold_N):
        out = fold_N == fold
        chances = learnt(recipe, (own[~out], label_N[~out]), setup)
        wrong_N[out] = chances(own[out]).argmax(1) != label_N[out]
    count_K, wrong_K = (np.bincount(label_N, weights, setup.classes) for weights in (None, wrong_N))
    return (wrong_K + 1) / (count_K + 2)


def looked_at(recipe: GuessRecipe, image_NHWC: np.ndarray, setup: Setup) -> np.ndarray:
    """What a classifier sees of pictures: their features, or themselves."""
    return image_NHWC if recipe.features is None else seen(recipe.features, image_NHWC, setup.device)


def learnt(
    recipe: GuessRecipe,
    known: tuple[np.ndarray, np.ndarray],
    setup: Setup,
    more: tuple[np.ndarray, np.ndarray] | None = None,
) -> Chances:
    """A classifier of what ``looked_at`` gives.

    Args:
        known: things and their labels, int64.
        more: others, with labels that were guessed.
    """
    if recipe.features is None:
        given = None if more is None else (more[0], soft_labels(more[1], setup.classes))
        own = known[0], soft_labels(known[1], setup.classes)
        network = classifier.train(*own, recipe.classifier, setup.seed, given, setup.device)
        return lambda image_NHWC: classifier.probabilities(network, image_NHWC)
    f_MD, label_M = (np.concatenate(parts) for parts in zip(known, *([more] if more else []), strict=True))
    fitted = Regression.of(f_MD, label_M)

    def chances(f_ND: np.ndarray) -> np.ndarray:
        p_NK = np.zeros((len(f_ND), setup.classes), np.float32)
        p_NK[:, fitted.class_K] = fitted.chances(f_ND)
        return p_NK

    return chances


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
