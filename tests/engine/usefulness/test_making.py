"""Each method adds what it says."""

from dataclasses import replace

import numpy as np
import pytest
from comparing import EVEN, FUSED, LATENT, QUICK, SETUP, TINY, added_by

from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.fusion.recipes import FusionRecipe
from noiseweave.engine.judging.recipes import QualityRecipe
from noiseweave.engine.usefulness import generators, guesses, making, pairs
from noiseweave.engine.usefulness.data import Added, Pictures
from noiseweave.engine.usefulness.recipes import GuessRecipe, Method


def test_pseudo_labels_are_the_pictures_with_a_guess(pool):
    told = replace(pool, label_N=np.where(np.arange(120) < 100, -1, pool.label_N))
    added = added_by(Method(made="pseudo_labels"), pool, guessed=told)
    np.testing.assert_array_equal(added.image_MHWC, pool.image_NHWC[100:])
    np.testing.assert_array_equal(added.p_MK.argmax(1), pool.label_N[100:])


def test_fusions_are_made_told_and_gated(few, weights):
    plain = added_by(FUSED, few, (TINY, weights))
    assert plain.image_MHWC.shape == (12, 8, 8, 1)
    assert (plain.p_MK.max(1) == 1).all()
    untold = added_by(replace(FUSED, conditional=False), few, (TINY, weights))
    assert not np.array_equal(untold.image_MHWC, plain.image_MHWC)
    strict = QualityRecipe(drift=0.0, copy=1.0, sharpness=0.0, redraw=1, classifier=QUICK)
    gated = added_by(replace(FUSED, gate=True, quality=strict), few, (TINY, weights))
    assert len(gated.p_MK) + gated.rejected.get("drifted", 0) == 12
    assert gated.rejected["drifted"] > 0


def test_parents_may_be_guessed_pictures_too(few, pool, weights):
    told = replace(pool, label_N=np.where(np.arange(120) < 100, -1, (pool.label_N + 1) % 3))
    method = replace(FUSED, parents="guessed", count=40)
    parents = pairs.parents_of(method, few, told)
    assert len(parents.label_N) == 12 + 20
    np.testing.assert_array_equal(parents.image_NHWC[12:], pool.image_NHWC[100:])
    ends = {end for p in pairs.pairs_of(method, parents, 0, EVEN) for end in (p.a, p.b)}
    assert max(ends) > 12 > min(ends)
    added = added_by(method, few, (TINY, weights), told)
    assert (len(added.p_MK), set(added.p_MK.max(1).tolist())) == (40, {1.0})
    assert pairs.parents_of(FUSED, few, told) is few
    with pytest.raises(ValueError, match=r"methods\.parents"):
        Method(made="samples", parents="guessed")
    with pytest.raises(ValueError, match=r"methods\.keep_parents"):
        Method(made="fusion", keep_parents=True)


def test_a_generator_of_latents_draws_pictures(photos, latent_weights):
    for made, count in (("samples", 5), ("fusion", 4)):
        method = Method(made=made, count=count, inversion=InversionRecipe(num_steps=3, skip=0))
        added = added_by(method, photos, (LATENT, latent_weights))
        assert added.image_MHWC.shape == (count, 32, 32, 3)


def test_fusions_in_latents_at_ratio_0_are_the_parents_as_the_vae_has_them(photos, latent_weights):
    recipe = FusionRecipe(ratio=0.0, modes=("linear",))
    method = Method(made="fusion", count=4, inversion=InversionRecipe(num_steps=3, skip=2), fusion=recipe)
    added = added_by(method, photos, (LATENT, latent_weights))
    first = [p.a for p in pairs.pairs_of(method, photos, SETUP.seed, EVEN)]
    system = generators.loaded(LATENT, latent_weights, SETUP, 32, 3)
    backbone = generators.backbone_of(system, SETUP)
    back = backbone.decode(backbone.encode(photos.image_NHWC[first]))
    np.testing.assert_allclose(added.image_MHWC.astype(int), back.astype(int), atol=1)


def test_a_generator_of_enlarged_pictures_gives_them_back_at_their_side(photos, latent_weights):
    """Of twice the side, a VAE keeps more of what is small, and the network is the same."""
    wide = replace(LATENT, enlarge=2)
    assert generators.views(wide, photos.image_NHWC[:2], SETUP).shape == (1, 2, 4, 8, 8)
    recipe = FusionRecipe(ratio=0.0, modes=("linear",))
    method = Method(made="fusion", count=4, inversion=InversionRecipe(num_steps=3, skip=2), fusion=recipe)
    striped_NHWC = photos.image_NHWC // 2
    striped_NHWC[:, :, np.arange(32) % 6 < 3] += 100
    photos = replace(photos, image_NHWC=striped_NHWC)
    first = [p.a for p in pairs.pairs_of(method, photos, SETUP.seed, EVEN)]
    small, large = (
        added_by(method, photos, (r, latent_weights)).image_MHWC.astype(int) for r in (LATENT, wide)
    )
    assert large.shape == small.shape == (4, 32, 32, 3)
    lost = [np.abs(image - photos.image_NHWC[first]).mean() for image in (small, large)]
    assert lost[1] < 0.8 * lost[0]
    samples = Method(made="samples", count=3, inversion=InversionRecipe(num_steps=3, skip=0))
    assert added_by(samples, photos, (wide, latent_weights)).image_MHWC.shape == (3, 32, 32, 3)


def test_samples_are_balanced_over_the_classes(few, weights):
    method = Method(made="samples", count=9, inversion=InversionRecipe(num_steps=3, skip=0))
    added = added_by(method, few, (TINY, weights))
    assert added.p_MK.sum(0).tolist() == [3, 3, 3]


VARIED = Method(
    made="variations",
    count=12,
    inversion=InversionRecipe(num_steps=4, skip=1),
    fusion=FusionRecipe(variation=1.0),
)


def test_variations_are_of_one_picture_and_of_its_class(few, weights):
    added = added_by(VARIED, few, (TINY, weights))
    drawn = pairs.pairs_of(VARIED, few, SETUP.seed, EVEN)
    assert sorted((p.a, p.b) for p in drawn) == [(i, i) for i in range(12)]
    np.testing.assert_array_equal(added.p_MK, np.eye(3)[[few.label_N[p.a] for p in drawn]])
    parent = few.image_NHWC[[p.a for p in drawn]].astype(float)
    far, near = (
        np.abs(
            added_by(replace(VARIED, fusion=FusionRecipe(variation=v)), few, (TINY, weights)).image_MHWC
            - parent
        ).mean()
        for v in (1.0, 1e-6)
    )
    assert near < 1 < far
    with pytest.raises(ValueError, match=r"methods\.fusion\.variation=0"):
        Method(made="variations")


def test_variations_of_guessed_pictures_have_their_guesses(few, pool, weights):
    told = replace(pool, label_N=np.where(np.arange(120) < 100, -1, (pool.label_N + 1) % 3))
    method = replace(VARIED, parents="guessed", count=32, keep_parents=True)
    added = added_by(method, few, (TINY, weights), told)
    assert len(added.p_MK) == 20 + 32
    parents = pairs.parents_of(method, few, told)
    drawn = pairs.pairs_of(method, parents, SETUP.seed, EVEN)
    assert max(p.a for p in drawn) >= 12
    np.testing.assert_array_equal(added.p_MK[20:].argmax(1), [parents.label_N[p.a] for p in drawn])


def test_several_skips_are_several_strengths(few, weights):
    """Each picture is what its skip alone makes of its pair."""
    method = replace(FUSED, skips=(0, 3))
    mixed = added_by(method, few, (TINY, weights))
    drawn = pairs.pairs_of(method, few, SETUP.seed, EVEN)
    alone = {}
    for skip in (0, 3):
        one = added_by(replace(FUSED, skips=(skip,)), few, (TINY, weights))
        alone[skip] = dict(zip([(p.a, p.b, p.number) for p in drawn], one.image_MHWC, strict=True))
    expected = [
        alone[skip][p.a, p.b, p.number]
        for skip in (0, 3)
        for p in drawn
        if pairs.skip_of(method, p, SETUP.seed) == skip
    ]
    np.testing.assert_allclose(mixed.image_MHWC.astype(int), np.stack(expected), atol=1)
    with pytest.raises(ValueError, match=r"methods\.skips=\(4,\): each 0 to 3"):
        replace(FUSED, skips=(4,))
    with pytest.raises(ValueError, match=r"methods\.skips"):
        Method(made="samples", skips=(1,))


def test_what_the_judge_is_not_sure_of_is_left_out(few):
    """A judge that knows the brightness: of labels of two classes both count."""
    image = np.array([10, 90, 200], np.uint8).reshape(3, 1, 1, 1)
    p_MK = np.array([[1, 0, 0], [1, 0, 0], [0.5, 0.5, 0]], np.float32)
    chances = np.array([[0.9, 0.1, 0], [0.4, 0.6, 0], [0.4, 0.5, 0.1]])
    method = Method(made="samples", confidence=0.8)
    kept = making.confident(
        method, Added(image_MHWC=image, p_MK=p_MK, rejected={"drifted": 2}), lambda x: chances
    )
    assert kept.image_MHWC.ravel().tolist() == [10, 200]
    assert kept.rejected == {"drifted": 2, "unsure": 1}
    with pytest.raises(ValueError, match=r"methods\.confidence"):
        Method(made="blend", confidence=0.5)


def test_confidence_asks_the_judge_of_the_guesses(few, weights):
    guess = GuessRecipe(features=FeatureRecipe(name="pixels", size=8))
    method = Method(made="samples", count=30, inversion=InversionRecipe(num_steps=2, skip=0))
    every = added_by(method, few, (TINY, weights), guess=guess)
    sure = added_by(replace(method, confidence=0.4), few, (TINY, weights), guess=guess)
    chance = guesses.judge_of(few, guess, SETUP)(every.image_MHWC)[np.arange(30), every.p_MK.argmax(1)]
    np.testing.assert_array_equal(sure.image_MHWC, every.image_MHWC[chance >= 0.4])
    assert 0 < len(sure.p_MK) < 30
    assert sure.rejected == {"unsure": 30 - len(sure.p_MK)}


def test_hard_classes_get_more(few, pool, weights):
    alike = Pictures(
        image_NHWC=np.concatenate([few.image_NHWC[:4]] * 2 + [few.image_NHWC[8:]]), label_N=few.label_N
    )
    guess = GuessRecipe(features=FeatureRecipe(name="pixels", size=8))
    for method in (
        Method(made="samples", inversion=InversionRecipe(num_steps=2, skip=0)),
        Method(made="blend"),
    ):
        hard = replace(method, weights="hard", count=60)
        counts = added_by(hard, alike, (TINY, weights), guess=guess).p_MK.sum(0)
        assert counts.sum() == 60
        assert min(counts[:2]) > 2 * counts[2] > 0
    with pytest.raises(ValueError, match=r"methods\.weights"):
        Method(made="blend", weights="hard", pairs="any")
