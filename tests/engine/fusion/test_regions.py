"""Regional fusion: the mask's ends, a local denoiser, the spread; what saliency sees."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from noiseweave.engine.diffusion.inversion import invert, replay
from noiseweave.engine.diffusion.path import preserving_path
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion.groups import invert_pictures
from noiseweave.engine.fusion.modes import fuse
from noiseweave.engine.fusion.recipes import MODES
from noiseweave.engine.fusion.regions import blend, blur, fit_mask, fuse_region, saliency
from noiseweave.engine.records import NoiseMaps

T = 6


def maps(n=2, seed=0, size=8):
    g = torch.Generator().manual_seed(seed)
    return [
        NoiseMaps(
            x_T_CHW=torch.randn(2, size, size, generator=g),
            residual_TCHW=(1 + k) * torch.randn(T, 2, size, size, generator=g) + 0.1 * k,
            timesteps_T=torch.arange(T, 0, -1) * 10,
        )
        for k in range(n)
    ]


def steps(m):
    return torch.cat([m.x_T_CHW[None], m.residual_TCHW])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("keep_spread", [True, False])
def test_mask_zero_is_the_first_and_mask_one_is_the_second_bit_for_bit(mode, keep_spread):
    one, two = maps()
    for value, parent in ((0.0, one), (1.0, two)):
        fused = fuse_region([one, two], [0, 1], mode, torch.full((8, 8), value), keep_spread)
        assert torch.equal(steps(fused), steps(parent))
        assert torch.equal(fused.timesteps_T, parent.timesteps_T)


@pytest.mark.parametrize("mode", MODES)
def test_mask_one_is_the_fusion_at_its_ratio_and_mask_zero_the_first(mode):
    three = maps(3)
    mask = torch.zeros(8, 8)
    mask[:, 3:] = 1
    fused, whole = fuse_region(three, [0.5, 0.3, 0.2], mode, mask), fuse(three, [0.5, 0.3, 0.2], mode)
    assert torch.equal(steps(fused)[..., :3], steps(three[0])[..., :3])
    assert torch.equal(steps(fused)[..., 3:], steps(whole)[..., 3:])


@pytest.mark.parametrize("value", [0.2, 0.5, 0.9])
def test_a_mask_of_one_value_is_a_linear_fusion_at_that_ratio(value):
    one, two = maps()
    fused = blend(one, two, torch.full((8, 8), value))
    torch.testing.assert_close(
        steps(fused), steps(fuse([one, two], [1 - value, value], "linear")), rtol=1e-4, atol=1e-5
    )


def test_a_soft_border_keeps_the_spread_place_by_place():
    """Over many maps, the deviation at each place is that interpolated from the parents, 1 and 2."""
    one, two = maps(size=64)
    ramp = torch.linspace(0, 1, 64).expand(64, 64)
    kept_spread, bare = (steps(blend(one, two, ramp, keep))[1:].std((0, 1, 2)) for keep in (True, False))
    expected = 1 + torch.linspace(0, 1, 64)
    torch.testing.assert_close(kept_spread, expected, rtol=0.15, atol=0)
    assert bare[24:40].mean() < 0.85 * expected[24:40].mean()


def test_each_half_is_its_parent_where_the_denoiser_is_local():
    """The optimal denoiser of independent pixels N(m, s2) looks at no neighbour: the halves do not mix."""
    lib = DDIMScheduler(1000, beta_schedule="squaredcos_cap_v2", clip_sample=False)
    lib.set_timesteps(20)
    s = preserving_path(lib.timesteps, lib.alphas_cumprod, 2)
    g = torch.Generator().manual_seed(1)
    m, s2 = torch.randn(1, 8, 8, generator=g).double(), torch.rand(1, 8, 8, generator=g).double() + 0.1

    def epsilon(x, t):
        a = lib.alphas_cumprod.double()[t].view(-1, 1, 1, 1)
        return (1 - a).sqrt() * (x - a.sqrt() * m) / (a * s2 + 1 - a)

    x_0 = m + s2.sqrt() * torch.randn(2, 1, 8, 8, generator=g, dtype=torch.float64)
    made = invert(epsilon, s, x_0, torch.randn(18, 2, 1, 8, 8, generator=g, dtype=torch.float64))
    mask = torch.zeros(8, 8)
    mask[4:] = 1
    back = replay(epsilon, s, [fuse_region(made, [0, 1], "linear", mask)])[0]
    assert (back[:, :4] - x_0[0, :, :4]).abs().max() < 1e-8
    assert (back[:, 4:] - x_0[1, :, 4:]).abs().max() < 1e-8
    soft = replay(epsilon, s, [blend(*made, blur(mask, 1.0))])[0]
    assert (soft[:, 3:5] - x_0[0, :, 3:5]).abs().max() > 1e-2


def test_a_mask_of_another_size_is_fitted():
    half = torch.zeros(64, 48)
    half[32:] = 1
    fitted = fit_mask(half, (8, 8))
    assert fitted.shape == (8, 8)
    assert (fitted[:3] == 0).all()
    assert (fitted[5:] == 1).all()
    assert fitted.mean() == pytest.approx(0.5, abs=1e-6)
    assert fit_mask(torch.ones(1, 1), (5, 3)).eq(1).all()
    assert torch.equal(fit_mask(half, (64, 48)), half)


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (torch.zeros(1, 8, 8), "shape"),
        (torch.zeros(0, 8), "shape"),
        (torch.full((8, 8), 1.5), "outside"),
        (torch.full((8, 8), float("nan")), "outside"),
    ],
)
def test_a_wrong_mask_is_one_clear_error(mask, match):
    with pytest.raises(ValueError, match=f"region mask: .*{match}"):
        blend(*maps(), mask)


def test_maps_of_other_time_steps_do_not_blend():
    one, two = maps()
    late = NoiseMaps(x_T_CHW=two.x_T_CHW, residual_TCHW=two.residual_TCHW, timesteps_T=two.timesteps_T - 1)
    with pytest.raises(ValueError, match="different time steps"):
        blend(one, late, torch.ones(8, 8))


def test_blur_is_a_mean_with_gaussian_weights():
    x = torch.zeros(1, 21, 21, dtype=torch.float64)
    x[0, 10, 10] = 1
    row = torch.exp(-(torch.arange(-10, 11).double() ** 2) / (2 * 1.5**2))
    expected = torch.outer(row, row) / row.sum() ** 2
    torch.testing.assert_close(blur(x, 1.5)[0], expected, rtol=0, atol=1e-7)
    assert torch.allclose(blur(torch.ones(3, 4), 2.0), torch.ones(3, 4))


@pytest.mark.parametrize("T", [1, 2, 3, 7])
def test_saliency_finds_where_the_noise_is_strong(T):
    r = torch.randn(T, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    r[:, :, 4:8, 10:14] *= 6
    m = NoiseMaps(x_T_CHW=r[0], residual_TCHW=r, timesteps_T=torch.arange(T, 0, -1))
    found = saliency(m)
    assert found.shape == (16, 16)
    assert (float(found.min()), float(found.max())) == (0, 1)
    assert found[4:8, 10:14].min() > found[10:, :8].max()


def test_saliency_of_nothing_is_everywhere():
    m = NoiseMaps(
        x_T_CHW=torch.zeros(1, 4, 4),
        residual_TCHW=torch.zeros(3, 1, 4, 4),
        timesteps_T=torch.arange(3, 0, -1),
    )
    assert (saliency(m) == 1).all()


def test_saliency_follows_the_ink_of_digits(digits_model, digits):
    image = digits[0][:8]
    _, made = invert_pictures(
        digits_model(), image, [str(i) for i in range(8)], InversionRecipe(num_steps=20, skip=4), 0
    )
    r = [np.corrcoef(saliency(m).numpy().ravel(), x.ravel())[0, 1] for m, x in zip(made, image, strict=True)]
    assert np.mean(r) > 0.4
