"""Edits: strength 0 is the picture, more strength is more of the effect, the structure stays."""

import functools

import numpy as np
import pytest
import torch

from noiseweave.engine.diffusion.inversion import replay
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion.edits import contrast, edit, fresh_noise, smooth, style, variation
from noiseweave.engine.fusion.groups import invert_pictures
from noiseweave.engine.fusion.recipes import EDITS
from noiseweave.engine.fusion.regions import blur

STRENGTHS = (0.0, 0.25, 0.5, 1.0)


def grainy(image_BHWC):
    noise = np.random.default_rng(0).normal(0, 22, image_BHWC.shape)
    return np.clip(image_BHWC + noise, 0, 255).astype(np.uint8)


def faint(image_BHWC):
    return (image_BHWC * 0.6 + 25).astype(np.uint8)


@pytest.fixture(scope="module")
def edited(digits_model, digits):
    """edited(name, pictures) -> (x_0 [B, ...], pictures [strength, B, 1, 16, 16]) of the shipped model."""
    backbone, B = digits_model(), 3

    @functools.cache
    def run(name, change=None):
        image_BHWC = (change or (lambda x: x))(digits[0][3 : 3 + B])
        keys = [str(i) for i in range(B)]
        s, maps = invert_pictures(backbone, image_BHWC, keys, InversionRecipe(num_steps=16, skip=3), 0)
        made = [
            edit(m, s, name, k, fresh_noise(m, 0, key))
            for k in STRENGTHS
            for m, key in zip(maps, keys, strict=True)
        ]
        return backbone.encode(image_BHWC), replay(backbone.denoise, s, made).unflatten(0, (-1, B))

    return run


@pytest.fixture(scope="module")
def one(digits_model, digits):
    """(schedule, two maps) of two digits."""
    recipe = InversionRecipe(num_steps=10, skip=2)
    return invert_pictures(digits_model(), digits[0][:2], ["a", "b"], recipe, 0)


def total_variation(x):
    return (x.diff(dim=-1).abs().sum((-3, -2, -1)) + x.diff(dim=-2).abs().sum((-3, -2, -1))).mean(-1).tolist()


def distance(x, y):
    return (x - y).square().mean((-4, -3, -2, -1)).sqrt().tolist()


def correlation(x, y):
    x, y = (v - v.mean((-3, -2, -1), keepdim=True) for v in (x, y))
    return (
        (x * y).sum((-3, -2, -1)) / (x.square().sum((-3, -2, -1)) * y.square().sum((-3, -2, -1))).sqrt()
    ).amin(-1)


def test_smooth_takes_the_grain_off(edited, digits):
    x_0, made = edited("smooth", grainy)
    variation_S = total_variation(made)
    assert variation_S == sorted(variation_S, reverse=True)
    assert variation_S[-1] < 0.85 * variation_S[0]
    clean = torch.from_numpy(digits[0][3:6]).permute(0, 3, 1, 2) / 127.5 - 1
    assert distance(made[-1], clean) < distance(made[0], clean)
    assert correlation(made[-1], x_0).min() > 0.95


def test_contrast_raises_the_deviation_of_faint_pictures(edited):
    x_0, made = edited("contrast", faint)
    spread = made.std((-3, -2, -1)).mean(-1).tolist()
    assert spread == sorted(spread)
    assert spread[-1] > 1.3 * spread[0]
    assert correlation(made[-1], x_0).min() > 0.8


@pytest.mark.parametrize(("name", "kept"), [("variation", 0.85), ("style", 0.85)])
def test_variation_and_style_go_away_from_the_picture_and_keep_its_structure(edited, name, kept):
    x_0, made = edited(name)
    apart = distance(made, x_0)
    assert apart[0] < 1e-4
    assert apart == sorted(apart)
    assert apart[-1] > 0.1
    assert correlation(made, x_0).min() > kept


def test_variation_stays_as_sharp_as_the_picture(edited):
    _, made = edited("variation")
    sharp = total_variation(made)
    assert max(sharp) < 1.08 * sharp[0]
    assert min(sharp) > 0.92 * sharp[0]


@pytest.mark.parametrize("name", EDITS)
def test_strength_zero_is_the_same_map_and_the_structure_is_never_touched(one, name):
    s, (m, _) = one
    fresh = fresh_noise(m, 0, "a")
    assert edit(m, s, name, 0.0, fresh) is m
    changed = edit(m, s, name, 0.5, fresh)
    assert torch.equal(changed.x_T_CHW, m.x_T_CHW)
    T = len(s)
    begin = next(i for i in range(T) if i / (T - 1) >= (2 / 3 if name == "smooth" else 1 / 3))
    assert torch.equal(changed.residual_TCHW[:begin], m.residual_TCHW[:begin])
    moved = (changed.residual_TCHW - m.residual_TCHW).abs().amax((1, 2, 3))
    assert (moved[begin:-1] > 1e-3).all()
    assert (moved[-1] > 1e-3) == (name != "style")  # no white noise where no noise is


def test_smooth_and_contrast_split_a_residual_into_grain_and_tone(one):
    r = one[1][0].residual_TCHW
    torch.testing.assert_close(smooth(r, 1.0), blur(r, 1.0))
    torch.testing.assert_close(smooth(r, 0.3), 0.7 * r + 0.3 * blur(r, 1.0))
    tone = blur(r, 1.0)
    torch.testing.assert_close(contrast(r, 1.0), r - tone + tone.mean((2, 3), keepdim=True))


def test_style_takes_the_references_spectrum_and_keeps_the_phase(one):
    s, (m, other) = one
    r, ref = (x.residual_TCHW.double() for x in (m, other))
    made = style(r, 1.0, ref)
    F = [torch.fft.rfft2(v - v.mean((2, 3), keepdim=True)) for v in (r, ref, made)]
    torch.testing.assert_close(F[2].abs(), F[1].abs(), rtol=0, atol=1e-9)
    torch.testing.assert_close(made.mean((2, 3)), ref.mean((2, 3)))
    torch.testing.assert_close(made.std((2, 3)), ref.std((2, 3)))  # Parseval
    assert (F[2] * F[0].conj()).real.sum() / (F[2].abs() * F[0].abs()).sum() > 0.9999
    torch.testing.assert_close(style(r, 0.0, ref), r)
    taken = edit(m, s, "style", 1.0, fresh_noise(m, 0, "a"), other)
    torch.testing.assert_close(taken.residual_TCHW[-1], made[-1].float(), rtol=0, atol=1e-5)


def test_variation_at_strength_one_is_the_samplers_own_noise(one):
    s, (m, _) = one
    T = len(s)
    big = torch.randn(T, 1, 100, 100, generator=torch.Generator().manual_seed(0))
    r = torch.zeros_like(big)
    a, a_prev = s.alpha_T**2, s.alpha_next_T**2
    posterior = ((1 - a_prev) / (1 - a) * (1 - a / a_prev)).sqrt().float()
    torch.testing.assert_close(variation(r, 1.0, s, big).std((1, 2, 3)), posterior, rtol=0.03, atol=1e-6)
    assert posterior[-1] == 0
    half = variation(m.residual_TCHW, 0.5, s, torch.zeros_like(m.residual_TCHW))
    torch.testing.assert_close(half, m.residual_TCHW * 0.5**0.5)


def test_fresh_noise_is_a_function_of_seed_and_key(one):
    m = one[1][0]
    assert torch.equal(fresh_noise(m, 0, "a"), fresh_noise(m, 0, "a"))
    assert not torch.equal(fresh_noise(m, 0, "a"), fresh_noise(m, 0, "b"))
    assert not torch.equal(fresh_noise(m, 0, "a"), fresh_noise(m, 1, "a"))


def test_wrong_input_is_one_clear_error(one, digits_model):
    s, (m, _) = one
    fresh = fresh_noise(m, 0, "a")
    with pytest.raises(ValueError, match=r"edit\.name='blur'"):
        edit(m, s, "blur", 0.5, fresh)
    for strength in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"edit\.strength"):
            edit(m, s, "smooth", strength, fresh)
    with pytest.raises(ValueError, match="other time steps"):
        edit(m, digits_model().path(InversionRecipe(num_steps=10, skip=3)), "smooth", 0.5, fresh)
