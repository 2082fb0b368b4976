"""What a made picture shows of its parents: photos, their means, copies and noise, whose answers are known."""

import numpy as np
import pytest
from PIL import Image
from skimage import data

from noiseweave.engine.judging import quality
from noiseweave.engine.judging.recipes import QualityRecipe
from noiseweave.engine.judging.traces import look, traces


def square(name, side=128):
    image = Image.fromarray(getattr(data, name)()).convert("RGB")
    cut = min(image.size)
    return np.asarray(image.crop((0, 0, cut, cut)).resize((side, side)))


A, B, C = (square(name) for name in ("astronaut", "chelsea", "coffee"))


def against(made, *parents):
    return traces(look(made), [look(p) for p in parents])


def mean(a, b, share=0.5):
    return np.rint((1 - share) * a.astype(float) + share * b).astype(np.uint8)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_the_mean_of_two_photos_is_a_double_exposure(share):
    usual = QualityRecipe()
    seen = against(mean(A, B, share), A, B)
    assert seen.double > usual.double
    stretched = np.clip((mean(A, B, share).astype(float) - 120) * 1.4 + 120, 0, 255).astype(np.uint8)
    assert against(stretched, A, B).double > usual.double
    assert against(mean(A, B, share), A).double is None


def test_a_photo_or_a_collage_of_its_parents_is_none():
    collage = np.where(np.arange(128)[None, :, None] < 64, A, B)
    for made in (A, C, collage):
        assert against(made, A, B).double < 0.05
    assert against(collage, A, B).traced < QualityRecipe().traced


def test_one_parent_slightly_changed_is_a_copy_and_another_photo_is_none():
    brighter = np.clip(A * 0.9 + 20, 0, 255).astype(np.uint8)
    assert against(A, A, B).traced == pytest.approx(1, abs=1e-3)
    assert against(brighter, B, A).traced > 0.95
    assert against(C, A, B).traced < 0.05
    assert against(brighter, B, A).bits <= 4 < 16 < against(C, A, B).bits
    moved = np.roll(A, 2, axis=1)
    assert against(moved, A, B).bits <= 6


def test_noise_is_as_strong_in_the_finest_band():
    noise = np.random.default_rng(0).normal(0, 10, A.shape)
    for photo in (A, B, C):
        noisy = np.clip(photo + noise, 0, 255).astype(np.uint8)
        assert against(noisy, photo, photo).speckle > 1.8 * against(photo, photo, photo).speckle
        grey = np.clip(photo + noise[..., :1], 0, 255).astype(np.uint8)
        assert against(grey, photo, photo).speckle > 1.8
        assert against(photo, photo, noisy).speckle < 1


def test_grain_that_nobody_sees_in_an_enlarged_photo_is_no_speckle():
    parents = [
        np.asarray(Image.fromarray(square(name, 32)).resize((256, 256))) for name in ("coffee", "chelsea")
    ]
    noise = np.random.default_rng(0).normal(0, 1, parents[0].shape)
    for strength, seen in ((1, False), (8, True)):
        made = np.clip(parents[0] + strength * noise, 0, 255).round().astype(np.uint8)
        assert (against(made, *parents).speckle > QualityRecipe().speckle) == seen


def test_flat_pictures_have_nothing_and_small_ones_are_not_looked_at():
    flat = np.full_like(A, 90)
    seen = against(flat, flat, flat)
    assert (seen.double, seen.traced, seen.bits) == (0, 0, 0)
    assert seen.speckle == 0
    small = square("astronaut", 48)
    assert traces(look(small), [look(small)]) == against(A)


def unit(image_PHWC):
    f_PD = np.stack([np.asarray(Image.fromarray(x).resize((8, 8))).ravel() for x in image_PHWC]).astype(
        np.float32
    )
    f_PD -= f_PD.mean(1, keepdims=True)
    return f_PD / np.linalg.norm(f_PD, axis=1, keepdims=True)


def test_verdicts_of_photos():
    """A model that says twice as much of a double exposure is asked last, of what else is right."""
    collage = np.where(np.arange(128)[None, :, None] < 64, A, B)
    noisy = np.clip(collage + np.random.default_rng(0).normal(0, 25, A.shape), 0, 255).astype(np.uint8)
    copy = np.clip(A * 0.9 + 20, 0, 255).astype(np.uint8)
    shares = {collage.tobytes(): 0.2, C.tobytes(): 0.6}
    judge = quality.Judge(
        extract=unit,
        real_ND=unit(np.stack([C[::-1]])),
        chances=None,
        unexplained=lambda image: np.array([shares.get(x.tobytes(), 0.2) for x in image], np.float32),
    )
    recipe = QualityRecipe(copy=1, sharpness=0.05)
    made = np.stack([collage, noisy, copy, mean(A, B), C])
    found = quality.checks(
        judge, made, np.ones(5, bool), [(1, 2)] * 5, np.stack([C, A, B]), [None] * 3, recipe
    )
    assert [c.verdict for c in found] == ["kept", "speckled", "copy", "double_exposure", "strange"]
    assert found[4].strange == pytest.approx(3)
    assert found[0].strange == pytest.approx(1)
    off = QualityRecipe(copy=1, sharpness=0.05, speckle=0, traced=1, double=1, strange=0, hash=None)
    found = quality.checks(judge, made, np.ones(5, bool), [(1, 2)] * 5, np.stack([C, A, B]), [None] * 3, off)
    assert {c.verdict for c in found} == {"kept"}
