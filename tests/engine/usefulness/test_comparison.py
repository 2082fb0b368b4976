"""The parts of evaluate usefulness: nothing leaks, and each method adds what it says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits

from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.fusion.recipes import FusionRecipe
from noiseweave.engine.judging import classifier
from noiseweave.engine.judging.recipes import ClassifierRecipe, QualityRecipe
from noiseweave.engine.training.recipes import UnetRecipe
from noiseweave.engine.usefulness import comparison, generators, guesses
from noiseweave.engine.usefulness.data import Added, Pictures, Setup, few_of
from noiseweave.engine.usefulness.recipes import GeneratorRecipe, GuessRecipe, Method

SETUP = Setup(classes=3, seed=0)
TINY = GeneratorRecipe(
    steps=4, tuning_steps=4, batch=8, unet=UnetRecipe(channels=(8, 16), attention=(), head=8, groups=4)
)
QUICK = ClassifierRecipe(steps=30, batch=16, width=4)
FUSED = Method(made="fusion", count=12, inversion=InversionRecipe(num_steps=4, skip=1))


@pytest.fixture(scope="module")
def pool():
    data = load_digits(n_class=3)
    image = np.rint(data.images[:120] * 255 / 16).astype(np.uint8)[..., None]
    return Pictures(image_NHWC=image, label_N=data.target[:120].astype(np.int64))


def hidden(pool):
    return replace(pool, label_N=np.full(len(pool.label_N), -1, np.int64))


@pytest.fixture(scope="module")
def few(pool):
    rows = few_of(pool.label_N, [str(i) for i in range(120)], 4, 0)
    return Pictures(image_NHWC=pool.image_NHWC[rows], label_N=pool.label_N[rows])


@pytest.fixture(scope="module")
def weights(few, pool):
    start = generators.train_prior(pool, TINY, SETUP)
    return generators.tune_generator(few, hidden(pool), start, TINY, SETUP)


def test_the_few_are_balanced_nested_and_a_function_of_the_keys(pool):
    keys = [f"k{i}" for i in range(120)]
    small, large = (set(few_of(pool.label_N, keys, k, 0).tolist()) for k in (3, 7))
    assert small < large
    assert np.bincount(pool.label_N[sorted(large)]).tolist() == [7, 7, 7]
    back = few_of(pool.label_N[::-1], keys[::-1], 3, 0)
    assert {119 - i for i in back.tolist()} == small
    with pytest.raises(ValueError, match="per_class=99"):
        few_of(pool.label_N, keys, 99, 0)


def test_the_pools_labels_change_no_prior(pool):
    other = replace(pool, label_N=(pool.label_N + 1) % 3)
    assert generators.train_prior(pool, TINY, SETUP) == generators.train_prior(other, TINY, SETUP)


def test_the_closed_protocol_sees_the_few_alone(few, monkeypatch):
    seen = []
    monkeypatch.setattr(generators, "learn", lambda system, parts, *rest: seen.extend(parts))
    generators.tune_generator(few, None, None, TINY, SETUP)
    assert [(len(p.label_N), p.share) for p in seen] == [(len(few.label_N), 1.0)]


def test_guesses_are_sure_and_mostly_right(few, pool):
    none, some, fewer = (
        guesses.guess_labels(few, pool.image_NHWC, GuessRecipe(sure=sure), QUICK, SETUP).label_N
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
    told = guesses.guess_labels(few, pool.image_NHWC, GuessRecipe(sure=0.6, rounds=2), QUICK, SETUP)
    assert given[0] is None
    image_MHWC, p_MK = given[1]
    first = guesses.guess_labels(few, pool.image_NHWC, GuessRecipe(sure=0.6), QUICK, SETUP)
    np.testing.assert_array_equal(image_MHWC, pool.image_NHWC[first.label_N >= 0])
    np.testing.assert_array_equal(p_MK.argmax(1), first.label_N[first.label_N >= 0])
    assert (told.label_N == pool.label_N)[told.label_N >= 0].mean() > 0.8


def test_guesses_by_features(few, pool):
    recipe = GuessRecipe(sure=0.6, features=FeatureRecipe(name="pixels", size=8))
    seen_ND = guesses.seen(recipe.features, pool.image_NHWC, "cpu")
    told = guesses.guess_labels(few, pool.image_NHWC, recipe, QUICK, SETUP, seen_ND=seen_ND)
    assert (told.label_N >= 0).sum() > 60
    assert (told.label_N == pool.label_N)[told.label_N >= 0].mean() > 0.9
    with pytest.raises(ValueError, match=r"guess\.features\.name"):
        GuessRecipe(features=FeatureRecipe(name="unet"))


def test_pseudo_labels_are_the_pictures_with_a_guess(pool):
    told = replace(pool, label_N=np.where(np.arange(120) < 100, -1, pool.label_N))
    added = comparison.pseudo_labels(told, 3)
    np.testing.assert_array_equal(added.image_MHWC, pool.image_NHWC[100:])
    np.testing.assert_array_equal(added.p_MK.argmax(1), pool.label_N[100:])


def test_a_blend_is_the_mixture_of_its_parents(few):
    method = Method(made="blend", count=40, fusion=FusionRecipe(ratio=0.5))
    added = comparison.mix_pixels(method, few, 3, 0)
    pairs = comparison.pairs_of(method, few, 0)
    a, b = (few.image_NHWC[[getattr(p, end) for p in pairs]].astype(float) for end in "ab")
    np.testing.assert_allclose(added.image_MHWC, (a + b) / 2, atol=0.51)
    assert {few.label_N[p.a] == few.label_N[p.b] for p in pairs} == {True}
    # 3 classes x 6 pairs, 40 pictures: each pair two or three times, each time another draw
    times = np.unique([(min(p.a, p.b), max(p.a, p.b)) for p in pairs], axis=0, return_counts=True)[1]
    assert (len(times), set(times.tolist())) == (18, {2, 3})


def test_labels_of_two_classes_are_shared_or_the_larger(few):
    method = Method(made="blend", count=60, pairs="any", fusion=FusionRecipe(ratio=(0.3, 0.4)))
    soft, hard = (
        comparison.mix_pixels(replace(method, hard_labels=h), few, 3, 0).p_MK for h in (False, True)
    )
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-6)
    assert (soft.max(1) < 0.99).any()
    assert set(hard.flatten().tolist()) == {0.0, 1.0}
    assert (soft.argmax(1) == hard.argmax(1)).all()


def test_fusions_are_made_told_and_gated(few, weights):
    plain = comparison.make_pictures(FUSED, few, few, weights, TINY, SETUP)
    assert plain.image_MHWC.shape == (12, 8, 8, 1)
    assert (plain.p_MK.max(1) == 1).all()
    untold = comparison.make_pictures(replace(FUSED, conditional=False), few, few, weights, TINY, SETUP)
    assert not np.array_equal(untold.image_MHWC, plain.image_MHWC)
    strict = QualityRecipe(drift=0.0, copy=1.0, sharpness=0.0, redraw=1, classifier=QUICK)
    gated = comparison.make_pictures(
        replace(FUSED, gate=True, quality=strict), few, few, weights, TINY, SETUP
    )
    assert len(gated.p_MK) + gated.rejected.get("drifted", 0) == 12
    assert gated.rejected["drifted"] > 0


def test_parents_may_be_guessed_pictures_too(few, pool, weights):
    told = replace(pool, label_N=np.where(np.arange(120) < 100, -1, (pool.label_N + 1) % 3))
    method = replace(FUSED, parents="guessed", count=40)
    parents = comparison.parents_of(method, few, told)
    assert len(parents.label_N) == 12 + 20
    np.testing.assert_array_equal(parents.image_NHWC[12:], pool.image_NHWC[100:])
    ends = {end for p in comparison.pairs_of(method, parents, 0) for end in (p.a, p.b)}
    assert max(ends) > 12 > min(ends)
    added = comparison.make_pictures(method, few, parents, weights, TINY, SETUP)
    assert (len(added.p_MK), set(added.p_MK.max(1).tolist())) == (40, {1.0})
    assert comparison.parents_of(FUSED, few, told) is few
    with pytest.raises(ValueError, match=r"methods\.parents"):
        Method(made="samples", parents="guessed")
    with pytest.raises(ValueError, match=r"methods\.keep_parents"):
        Method(made="fusion", keep_parents=True)


@pytest.fixture(scope="module")
def photos():
    """30 pictures of 3 colours with some noise, 32 x 32, and their classes."""
    r = np.random.default_rng(0)
    label_N = np.arange(30) % 3
    colour_N3 = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])[label_N]
    image = colour_N3[:, None, None] + r.integers(-40, 40, (30, 32, 32, 3))
    return Pictures(image_NHWC=image.clip(0, 255).astype(np.uint8), label_N=label_N.astype(np.int64))


LATENT = replace(TINY, kind="flow", vae="taesd", precision="bf16")


@pytest.fixture(scope="module")
def latent_weights(photos):
    setup = replace(SETUP, flip=True)
    seen_VNCHW = generators.views(LATENT, photos.image_NHWC, setup)
    assert seen_VNCHW.shape == (2, 30, 4, 4, 4)
    start = generators.train_prior(photos, LATENT, setup, seen_VNCHW)
    assert start == generators.train_prior(photos, LATENT, setup)  # looked at once or again
    return generators.tune_generator(photos, hidden(photos), start, LATENT, setup, seen_VNCHW)


def test_a_generator_of_latents_draws_pictures(photos, latent_weights):
    for made, count in (("samples", 5), ("fusion", 4)):
        method = Method(made=made, count=count, inversion=InversionRecipe(num_steps=3, skip=0))
        added = comparison.make_pictures(method, photos, photos, latent_weights, LATENT, SETUP)
        assert added.image_MHWC.shape == (count, 32, 32, 3)


def test_fusions_in_latents_at_ratio_0_are_the_parents_as_the_vae_has_them(photos, latent_weights):
    recipe = FusionRecipe(ratio=0.0, modes=("linear",))
    method = Method(made="fusion", count=4, inversion=InversionRecipe(num_steps=3, skip=2), fusion=recipe)
    added = comparison.make_pictures(method, photos, photos, latent_weights, LATENT, SETUP)
    first = [p.a for p in comparison.pairs_of(method, photos, SETUP.seed)]
    system = generators.loaded(LATENT, latent_weights, SETUP, 32, 3)
    backbone = generators.backbone_of(system, SETUP)
    back = backbone.decode(backbone.encode(photos.image_NHWC[first]))
    np.testing.assert_allclose(added.image_MHWC.astype(int), back.astype(int), atol=1)


def test_a_mirrored_pictures_latents_are_its_own(photos):
    setup = replace(SETUP, flip=True)
    one, other = generators.views(LATENT, photos.image_NHWC[:2], setup)
    mirrored = photos.image_NHWC[:2, :, ::-1].copy()
    part = generators.Part(x_VNCHW=torch.stack([one, other]), label_N=torch.zeros(2))
    rows, both = torch.tensor([0, 1]), torch.tensor([True, True])
    torch.testing.assert_close(part.take(rows, both), generators.views(LATENT, mirrored, SETUP)[0])
    torch.testing.assert_close(part.take(rows, ~both), one)
    assert not torch.equal(other, one.flip(-1))


def test_a_generator_that_cannot_be_is_a_line(photos):
    with pytest.raises(ValueError, match="no-such-vae"):
        generators.built(replace(LATENT, vae="./no-such-vae"), SETUP, 32, 3)
    with pytest.raises(ValueError, match="a multiple of 8"):
        generators.built(LATENT, SETUP, 36, 3)
    with pytest.raises(ValueError, match=r"generator\.vae"):
        GeneratorRecipe(vae="")


def test_samples_are_balanced_over_the_classes(few, weights):
    method = Method(made="samples", count=9, inversion=InversionRecipe(num_steps=3, skip=0))
    added = comparison.make_pictures(method, few, few, weights, TINY, SETUP)
    assert added.p_MK.sum(0).tolist() == [3, 3, 3]


def test_a_score_is_an_accuracy_that_made_pictures_move(few, pool):
    wrong = Added(
        image_MHWC=few.image_NHWC, p_MK=np.eye(3, dtype=np.float32)[(few.label_N + 1) % 3], rejected={}
    )
    plain = comparison.score_method(Method(), few, None, pool, QUICK, SETUP)
    spoilt = comparison.score_method(Method(share=0.9), few, wrong, pool, QUICK, SETUP)
    assert plain > 0.8 > spoilt


def test_the_interval_is_students():
    values = [0.9, 0.92, 0.88, 0.95]
    mean, half = comparison.mean_interval(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert np.isnan(comparison.mean_interval([1.0])[1])
