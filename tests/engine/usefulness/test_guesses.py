"""Guesses of a pool's labels, by few labelled pictures."""

from dataclasses import replace

import numpy as np
import pytest
from comparing import QUICK, SETUP

from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.judging import classifier
from noiseweave.engine.usefulness import guesses
from noiseweave.engine.usefulness.data import Pictures
from noiseweave.engine.usefulness.recipes import GuessRecipe


def test_guesses_are_sure_and_mostly_right(few, pool):
    none, some, fewer = (
        guesses.guess_labels(few, pool.image_NHWC, GuessRecipe(sure=sure, classifier=QUICK), SETUP).label_N
        for sure in (1.0, 0.5, 0.9)
    )
    assert (none == -1).all()
    assert (some >= 0).sum() > (fewer >= 0).sum() > 0
    assert (some == pool.label_N)[some >= 0].mean() > 0.8


def test_a_second_round_learns_from_the_first_ones_guesses(few, pool, monkeypatch):
    given = []
    train = classifier.train
    monkeypatch.setattr(
        classifier, "train", lambda *a: given.append(a[4]) or train(*a)
    )  # a[4] is what is added
    told = guesses.guess_labels(
        few, pool.image_NHWC, GuessRecipe(sure=0.6, rounds=2, classifier=QUICK), SETUP
    )
    assert given[0] is None
    image_MHWC, p_MK = given[1]
    first = guesses.guess_labels(few, pool.image_NHWC, GuessRecipe(sure=0.6, classifier=QUICK), SETUP)
    np.testing.assert_array_equal(image_MHWC, pool.image_NHWC[first.label_N >= 0])
    np.testing.assert_array_equal(p_MK.argmax(1), first.label_N[first.label_N >= 0])
    assert (told.label_N == pool.label_N)[told.label_N >= 0].mean() > 0.8


def test_guesses_by_features(few, pool):
    recipe = GuessRecipe(sure=0.6, features=FeatureRecipe(name="pixels", size=8))
    seen_ND = guesses.seen(recipe.features, pool.image_NHWC, "cpu")
    told = guesses.guess_labels(few, pool.image_NHWC, recipe, SETUP, seen_ND=seen_ND)
    assert (told.label_N >= 0).sum() > 60
    assert (told.label_N == pool.label_N)[told.label_N >= 0].mean() > 0.9
    with pytest.raises(ValueError, match=r"guess\.features\.name"):
        GuessRecipe(features=FeatureRecipe(name="unet"))


@pytest.mark.parametrize("features", [None, FeatureRecipe(name="pixels", size=8)])
def test_a_judge_of_the_few_is_the_first_guess(few, pool, features):
    recipe = GuessRecipe(sure=0.4, classifier=QUICK, features=features)
    told = guesses.guess_labels(few, pool.image_NHWC, recipe, SETUP).label_N
    p_NK = guesses.judge_of(few, recipe, SETUP)(pool.image_NHWC)
    np.testing.assert_array_equal(np.where(p_NK.max(1) >= 0.4, p_NK.argmax(1), -1), told)


@pytest.mark.parametrize("features", [None, FeatureRecipe(name="pixels", size=8)])
def test_classes_that_are_taken_for_each_other_are_hard(pool, features):
    """Two of the classes are the same pictures; the third is like none of them."""
    zeros, ones = (pool.image_NHWC[pool.label_N == k][:16] for k in (0, 1))
    few = Pictures(
        image_NHWC=np.concatenate([zeros[:8], zeros[:8], ones]), label_N=np.repeat([0, 1, 2], [8, 8, 16])
    )
    recipe = GuessRecipe(classifier=replace(QUICK, steps=60), features=features)
    hard_K = guesses.hardness(few, recipe, SETUP)
    assert min(hard_K[:2]) > 2 * hard_K[2]
    assert hard_K[2] == 1 / 18  # none is wrong, of 16
    np.testing.assert_array_equal(hard_K, guesses.hardness(few, recipe, SETUP))
