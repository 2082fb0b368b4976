"""Inversion and replay: the exact Gaussian denoiser, the library's step, a real model in float32 and bf16."""

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel

from noiseweave.engine.diffusion.inversion import draw_noise, invert, replay
from noiseweave.engine.diffusion.path import preserving_path
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion.groups import invert_pictures
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.networks.recipes import ModelConfig


def scheduler(steps=20, spacing="leading"):
    s = DDIMScheduler(1000, beta_schedule="squaredcos_cap_v2", clip_sample=False, timestep_spacing=spacing)
    s.set_timesteps(steps)
    return s


def gaussian(alpha_bar, m, s2):
    """The optimal denoiser of data N(m, s2): E[epsilon | x_t], linear in x_t."""

    def epsilon(x, t):
        a = alpha_bar.double()[t].view(-1, *[1] * (x.dim() - 1))
        return (1 - a).sqrt() * (x - a.sqrt() * m) / (a * s2 + 1 - a)

    return epsilon


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
    )
    return unet


def psnr(x, y):
    return 10 * torch.log10(4 / (x.double() - y.double()).square().mean())


def there_and_back(backbone, x_0, steps, skip):
    recipe = InversionRecipe(num_steps=steps, skip=skip)
    s = backbone.path(recipe)
    noise = [draw_noise(recipe, len(s), x_0.shape[1:], 0, str(i)) for i in range(len(x_0))]
    return replay(backbone.denoise, s, invert(backbone.denoise, s, x_0, torch.stack(noise, 1)))


@pytest.mark.parametrize(("steps", "skip"), [(1, 0), (20, 0), (20, 19), (50, 10)])
def test_replay_of_an_inversion_gives_the_picture_back(tiny, steps, skip):
    backbone = Backbone(tiny, scheduler())
    x_0 = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    for batch in (1, 3):
        assert psnr(there_and_back(backbone, x_0[:batch], steps, skip), x_0[:batch]) >= 100


@pytest.mark.parametrize(("precision", "decibel"), [("fp32", 100), ("bf16", 55)])
@pytest.mark.parametrize(("steps", "skip", "batch"), [(1, 0, 2), (20, 0, 2), (50, 10, 1), (100, 0, 1)])
def test_the_shipped_model_gives_digits_back(digits_model, digits, precision, decibel, steps, skip, batch):
    backbone = digits_model(ModelConfig(name="digits-ddpm", precision=precision))
    x_0 = backbone.encode(digits[0][:batch])
    assert psnr(there_and_back(backbone, x_0, steps, skip), x_0) >= decibel


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_the_exact_denoiser_of_a_gaussian_in_float64(spacing):
    g = torch.Generator().manual_seed(2)
    m, s2 = torch.randn(1, 2, 3, generator=g).double(), torch.rand(1, 2, 3, generator=g).double() + 0.1
    lib = scheduler(30, spacing)
    s = preserving_path(lib.timesteps, lib.alphas_cumprod, 1)
    epsilon = gaussian(lib.alphas_cumprod, m, s2)
    x_0 = m + s2.sqrt() * torch.randn(5, 1, 2, 3, generator=g, dtype=torch.float64)
    maps = invert(epsilon, s, x_0, torch.randn(29, 5, 1, 2, 3, generator=g, dtype=torch.float64))
    assert (replay(epsilon, s, maps) - x_0).abs().max() < 1e-8


def test_residuals_of_the_exact_denoiser_have_their_closed_form_spread():
    """x_{t-1} and x_t share x_0 alone, so r = x_{t-1} - A x_t - const has variance
    (sqrt(a_prev) - A sqrt(a))^2 s2 + (1 - a_prev) + A^2 (1 - a)."""
    m, s2, n = 0.3, 0.5, 8_000
    lib = scheduler(20)
    s = preserving_path(lib.timesteps, lib.alphas_cumprod, 2)
    g = torch.Generator().manual_seed(3)
    x_0 = m + s2**0.5 * torch.randn(n, 1, 1, 1, generator=g, dtype=torch.float64)
    noise = torch.randn(len(s), n, 1, 1, 1, generator=g, dtype=torch.float64)
    maps = invert(gaussian(lib.alphas_cumprod, m, s2), s, x_0, noise)
    r_TN = torch.stack([x.residual_TCHW.flatten() for x in maps], 1)
    a, a_prev = s.alpha_T**2, s.alpha_next_T**2
    # A: the factor of x_t in mu, from DDIM's own words: x_0 estimate, then direction to x_t, with eta = 1
    slope = (1 - a).sqrt() / (a * s2 + 1 - a)
    sigma2 = (1 - a_prev) / (1 - a) * (1 - a / a_prev)
    x_0_slope = (1 - (1 - a).sqrt() * slope) / a.sqrt()
    A = a_prev.sqrt() * x_0_slope + (1 - a_prev - sigma2).clamp(min=0).sqrt() * slope
    expected = ((a_prev.sqrt() - A * a.sqrt()) ** 2 * s2 + (1 - a_prev) + A**2 * (1 - a)).sqrt()
    torch.testing.assert_close(r_TN.std(1), expected, rtol=0.05, atol=1e-6)
    assert (r_TN.mean(1).abs() < 5 * expected / n**0.5).all()


@pytest.mark.parametrize("steps", [10, 50])
def test_mu_is_what_diffusers_ddim_step_gives_with_eta_one_and_no_noise(steps):
    lib = scheduler(steps)
    s = preserving_path(lib.timesteps, lib.alphas_cumprod, 0)
    g = torch.Generator().manual_seed(4)
    x, e = torch.randn(2, 2, 3, 4, 4, generator=g)
    for i, t in enumerate(s.t_T):
        theirs = lib.step(e, t, x, eta=1.0, variance_noise=torch.zeros_like(x)).prev_sample
        torch.testing.assert_close(s.mean(x, e, i), theirs, rtol=1e-4, atol=1e-4)


def test_all_time_steps_at_once_equal_one_at_a_time(tiny):
    backbone = Backbone(tiny, scheduler(), micro_batch=7)
    s = backbone.path(InversionRecipe(num_steps=12, skip=2))
    g = torch.Generator().manual_seed(5)
    x_0, noise = torch.rand(2, 3, 8, 8, generator=g) * 2 - 1, torch.randn(10, 2, 3, 8, 8, generator=g)
    maps = invert(backbone.denoise, s, x_0, noise)
    for b in range(2):
        x = [
            alpha.float() * x_0[b] + sigma.float() * n
            for alpha, sigma, n in zip(s.alpha_T, s.sigma_T, noise[:, b], strict=True)
        ]
        for i, t in enumerate(s.t_T):
            e = tiny(x[i][None], t).sample[0]
            r = ([*x, x_0[b]])[i + 1] - s.mean(x[i], e, i)
            assert (maps[b].residual_TCHW[i] - r).abs().max() < 1e-5
        assert torch.equal(maps[b].x_T_CHW, x[0])


def test_skipped_steps_are_never_evaluated():
    lib, seen = scheduler(20), []
    s = preserving_path(lib.timesteps, lib.alphas_cumprod, 5)
    invert(
        lambda x, t: seen.extend(t.tolist()) or torch.zeros_like(x),
        s,
        torch.zeros(2, 1, 2, 2),
        torch.zeros(15, 2, 1, 2, 2),
    )
    assert sorted(set(seen), reverse=True) == lib.timesteps[5:].tolist()
    assert len(seen) == 30


def test_noise_depends_on_seed_and_key_and_a_smaller_skip_changes_none_of_it():
    recipe = InversionRecipe()
    one = draw_noise(recipe, 40, (1, 4, 4), 7, "a")
    assert torch.equal(one, draw_noise(recipe, 40, (1, 4, 4), 7, "a"))
    assert torch.equal(one, draw_noise(recipe, 50, (1, 4, 4), 7, "a")[10:])
    assert not torch.equal(one, draw_noise(recipe, 40, (1, 4, 4), 8, "a"))
    assert not torch.equal(one, draw_noise(recipe, 40, (1, 4, 4), 7, "b"))
    assert abs(torch.corrcoef(one.flatten(1))[~torch.eye(40, dtype=bool)].mean()) < 0.05


def test_shared_noise_is_the_same_for_all_keys():
    recipe = InversionRecipe(noise="shared")
    assert torch.equal(draw_noise(recipe, 5, (1, 4, 4), 7, "a"), draw_noise(recipe, 5, (1, 4, 4), 7, "b"))


def test_maps_do_not_depend_on_the_batch_that_a_picture_is_in(tiny):
    backbone = Backbone(tiny, scheduler())
    image = torch.randint(0, 256, (3, 8, 8, 3), generator=torch.Generator().manual_seed(6)).byte().numpy()
    recipe = InversionRecipe(num_steps=6, skip=1)
    _, together = invert_pictures(backbone, image, ["a", "b", "c"], recipe, 0)
    _, alone = invert_pictures(backbone, image[1:2], ["b"], recipe, 0)
    torch.testing.assert_close(together[1].residual_TCHW, alone[0].residual_TCHW, rtol=0, atol=1e-5)


def test_maps_of_another_schedule_are_refused_and_so_is_pure_noise():
    lib = scheduler(20)
    epsilon = gaussian(lib.alphas_cumprod, 0.0, 1.0)
    s, other = (preserving_path(lib.timesteps, lib.alphas_cumprod, skip) for skip in (0, 1))
    maps = invert(epsilon, s, torch.zeros(1, 1, 2, 2), torch.zeros(20, 1, 1, 2, 2))
    with pytest.raises(ValueError, match="other time steps"):
        replay(epsilon, other, maps)
    alpha_bar = lib.alphas_cumprod.clone()
    alpha_bar[lib.timesteps[0]] = 0
    with pytest.raises(ValueError, match=r"inversion\.skip"):
        preserving_path(lib.timesteps, alpha_bar, 0)
