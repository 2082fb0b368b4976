"""Scores and what they say together; the choice of the few."""

import numpy as np
import pytest
import torch
from comparing import SETUP
from scipy import stats

from noiseweave.engine.judging import classifier
from noiseweave.engine.usefulness import comparison
from noiseweave.engine.usefulness.data import Added, few_of
from noiseweave.engine.usefulness.recipes import ClassifierChoice, Method

SMALL = ClassifierChoice(steps=30, batch=16, width=4)


def test_the_few_are_balanced_nested_and_a_function_of_the_keys(pool):
    keys = [f"k{i}" for i in range(120)]
    small, large = (set(few_of(pool.label_N, keys, k, 0).tolist()) for k in (3, 7))
    assert small < large
    assert np.bincount(pool.label_N[sorted(large)]).tolist() == [7, 7, 7]
    back = few_of(pool.label_N[::-1], keys[::-1], 3, 0)
    assert {119 - i for i in back.tolist()} == small
    with pytest.raises(ValueError, match="per_class=99"):
        few_of(pool.label_N, keys, 99, 0)


def test_a_score_is_an_accuracy_that_made_pictures_move(few, pool):
    wrong = Added(
        image_MHWC=few.image_NHWC, p_MK=np.eye(3, dtype=np.float32)[(few.label_N + 1) % 3], rejected={}
    )
    plain = comparison.score_method(Method(), few, None, pool, SMALL, SETUP)
    spoilt = comparison.score_method(Method(share=0.9), few, wrong, pool, SMALL, SETUP)
    assert plain > 0.8 > spoilt


def test_the_labels_of_made_pictures_are_smoothed_and_no_others(few, pool, monkeypatch):
    p_MK = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0]])
    expected = torch.tensor([[0.8 + 0.2 / 3, 0.2 / 3, 0.2 / 3], [0.4 + 0.2 / 3, 0.4 + 0.2 / 3, 0.2 / 3]])
    torch.testing.assert_close(comparison.smoothed(p_MK, 0.2), expected)
    given, train = [], classifier.train
    monkeypatch.setattr(classifier, "train", lambda *a: given.append(a) or train(*a))
    added = Added(image_MHWC=few.image_NHWC[:2], p_MK=p_MK.numpy(), rejected={})
    comparison.score_method(Method(made="blend", smoothing=0.2), few, added, pool, SMALL, SETUP)
    torch.testing.assert_close(given[0][4][1], expected)
    assert set(given[0][1].flatten().tolist()) == {0.0, 1.0}
    with pytest.raises(ValueError, match=r"methods\.smoothing"):
        Method(smoothing=0.2)


def test_the_interval_is_students():
    values = [0.9, 0.92, 0.88, 0.95]
    mean, half = comparison.mean_interval([values])
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert np.isnan(comparison.mean_interval([[1.0]])[1])


def test_classifiers_of_one_choice_of_the_few_are_one_value():
    """However many they are: the interval is that of the choices' means."""
    means = [0.9, 0.92, 0.88]
    few, many = ([[m - 0.01, m + 0.01] * n for m in means] for n in (1, 50))
    half = comparison.mean_interval([[m] for m in means])[1]
    assert comparison.mean_interval(few) == pytest.approx((0.9, half))
    assert comparison.mean_interval(many) == pytest.approx((0.9, half))
