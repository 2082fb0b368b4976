"""How well a classifier does that was trained with a method, and what several of them say together.

S choices of the few, each with n classifiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from noiseweave.engine.judging import classifier
from noiseweave.engine.judging.classifier import soft_labels
from noiseweave.engine.usefulness import finetuned
from noiseweave.engine.usefulness.data import Added, Pictures, Setup
from noiseweave.engine.usefulness.recipes import ClassifierChoice, Method


def score_method(
    method: Method, few: Pictures, added: Added | None, test: Pictures, recipe: ClassifierChoice, setup: Setup
) -> float:
    """Test accuracy of a classifier that was trained with a method: the one place where test pictures are looked at."""
    made = None
    if added is not None and len(added.p_MK):
        made = (added.image_MHWC, smoothed(torch.from_numpy(added.p_MK), method.smoothing))
    own = replace(recipe, classical=method.classical, share=method.share or recipe.share)
    known = few.image_NHWC, soft_labels(few.label_N, setup.classes)
    if own.pretrained is None:
        network: nn.Module = classifier.train(*known, own, setup.seed, made, setup.device)
    else:
        build = partial(finetuned.build, own, setup.classes, few.image_NHWC.shape[1])
        network = classifier.taught(build, *known, own, setup.seed, made, setup.device)
    return classifier.accuracy(network, test.image_NHWC, test.label_N)


def smoothed(p_MK: Tensor, share: float) -> Tensor:
    """Labels of which a share is spread evenly over all classes (Szegedy et al., arXiv 1512.00567)."""
    return (1 - share) * p_MK + share / p_MK.shape[1]


def mean_interval(value_SN: Sequence[Sequence[float]]) -> tuple[float, float]:
    """(mean, half of the 95 % interval of the mean by Student's t); nan of a single value.

    Classifiers of one choice of the few share its pictures, guesses and generator: they are no independent values. So
    the mean of each choice counts as one value; with one choice alone its classifiers do, and the interval says nothing
    of other choices.
    """
    from scipy import stats

    mean_S = np.array([np.mean(values) for values in value_SN]) if len(value_SN) > 1 else value_SN[0]
    n = len(mean_S)
    if n < 2:
        return float(np.mean(mean_S)), float("nan")
    return float(np.mean(mean_S)), float(stats.t.ppf(0.975, n - 1) * np.std(mean_S, ddof=1) / n**0.5)
