"""Which pictures are made of which."""

from dataclasses import replace

import numpy as np
import pytest
from comparing import EVEN, FUSED, added_by

from noiseweave.engine.fusion.recipes import FusionRecipe
from noiseweave.engine.usefulness import pairs
from noiseweave.engine.usefulness.data import Pictures
from noiseweave.engine.usefulness.recipes import Method


def test_a_blend_is_the_mixture_of_its_parents(few):
    method = Method(made="blend", count=40, fusion=FusionRecipe(ratio=0.5))
    added = added_by(method, few)
    drawn = pairs.pairs_of(method, few, 0, EVEN)
    a, b = (few.image_NHWC[[getattr(p, end) for p in drawn]].astype(float) for end in "ab")
    np.testing.assert_allclose(added.image_MHWC, (a + b) / 2, atol=0.51)
    assert {few.label_N[p.a] == few.label_N[p.b] for p in drawn} == {True}
    # 3 classes x 6 pairs, 40 pictures: each pair two or three times, each time another draw
    times = np.unique([(min(p.a, p.b), max(p.a, p.b)) for p in drawn], axis=0, return_counts=True)[1]
    assert (len(times), set(times.tolist())) == (18, {2, 3})


def test_labels_of_two_classes_are_shared_or_the_larger(few):
    method = Method(made="blend", count=60, pairs="any", fusion=FusionRecipe(ratio=(0.3, 0.4)))
    soft, hard = (added_by(replace(method, hard_labels=h), few).p_MK for h in (False, True))
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-6)
    assert (soft.max(1) < 0.99).any()
    assert set(hard.flatten().tolist()) == {0.0, 1.0}
    assert (soft.argmax(1) == hard.argmax(1)).all()


def test_quotas_are_whole_and_follow_the_weights():
    assert pairs.quotas(np.array([1.0, 1.0, 1.0]), 10) == [4, 3, 3]
    assert pairs.quotas(np.array([3.0, 0.0, 1.0]), 8) == [6, 0, 2]
    labels = pairs.labels_of(np.array([2.0, 1.0, 1.0]), 8)
    assert np.bincount(labels).tolist() == [4, 2, 2]
    assert len(set(labels[:4].tolist())) == 3  # in turn


def test_made_pairs_follow_the_weights_of_the_classes(few):
    method = Method(made="blend", count=40)
    drawn = pairs.pairs_of(method, few, 0, np.array([3.0, 1.0, 0.0]))
    assert np.bincount([few.label_N[p.a] for p in drawn], minlength=3).tolist() == [30, 10, 0]
    some = [(min(p.a, p.b), max(p.a, p.b), p.number) for p in drawn]
    assert len(set(some)) == 40  # none is drawn twice alike


def test_a_class_of_one_picture_has_no_pair(few):
    lone = Pictures(image_NHWC=few.image_NHWC[:6], label_N=np.array([0, 0, 0, 0, 1, 2]))
    drawn = pairs.pairs_of(Method(made="blend", count=10), lone, 0, EVEN)
    assert {lone.label_N[p.a] for p in drawn} == {0}
    with pytest.raises(ValueError, match="no two of the parents are a pair"):
        pairs.pairs_of(Method(made="blend"), replace(lone, label_N=np.arange(6)), 0, np.ones(6))


def test_a_pairs_skip_is_one_of_the_methods_and_stays(few):
    method = replace(FUSED, count=60, skips=(0, 2, 3))
    drawn = pairs.pairs_of(method, few, 0, EVEN)
    skips = [pairs.skip_of(method, p, 0) for p in drawn]
    assert set(skips) == {0, 2, 3}
    again = [pairs.draw(method, (p.b, p.a), 0, (p.number, 1)) for p in drawn]
    assert [pairs.skip_of(method, p, 0) for p in again] == skips
    assert {pairs.skip_of(FUSED, p, 0) for p in drawn} == {1}
