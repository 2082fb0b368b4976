"""RePaint against the conditional law of a Gaussian, and its walk and step against diffusers'."""

from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, RePaintScheduler

from noiseweave.engine.diffusion.path import even_sigmas, preserving_path, straight_path
from noiseweave.engine.inpainting.recipes import repaint_levels
from noiseweave.engine.inpainting.repaint import repaint


@pytest.mark.parametrize(
    ("steps", "jump", "resample"), [(20, 5, 3), (50, 10, 10), (10, 1, 2), (7, 10, 4), (9, 3, 1)]
)
def test_the_walk_is_the_papers_as_diffusers_has_it(steps, jump, resample):
    theirs = RePaintScheduler(num_train_timesteps=steps)
    theirs.set_timesteps(steps, jump, resample)
    levels = repaint_levels(steps, jump, resample)
    unit = [levels[0]]
    for a, b in pairwise(levels):
        unit += range(a + 1, b + 1) if b > a else [b]
    assert [level - 1 for level in unit[:-1]] == theirs.timesteps.tolist()
    assert levels[0] == steps
    assert levels[-1] == 0


@pytest.mark.parametrize("steps", [1000, 50])
def test_a_step_is_the_one_of_diffusers_scheduler_with_eta_1(steps):
    theirs = RePaintScheduler(eta=1.0)
    theirs.set_timesteps(steps, steps, 1)
    s = preserving_path(theirs.timesteps, theirs.alphas_cumprod, steps - 5)
    g = torch.Generator().manual_seed(0)
    known, output = torch.rand(2, 1, 8, 8, generator=g) * 2 - 1, torch.randn(2, 1, 8, 8, generator=g)
    hole = torch.rand(2, 1, 8, 8, generator=g) > 0.5
    ours, other = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)

    def believe(x, i):
        # without clipping their direction is that of the posterior
        return s.clean(x, output, i)

    theirs.register_to_config(clip_sample=False)
    x = repaint(
        believe,
        s,
        known,
        hole,
        torch.zeros_like(known),
        repaint_levels(5, 9, 1),
        lambda: torch.randn(known.shape, generator=ours),
    )
    y = s.alpha_T[0] * torch.where(hole, 0, known) + s.sigma_T[0] * torch.randn(known.shape, generator=other)
    for t in s.t_T:
        y = theirs.step(output, t, y, known, (~hole).float(), other).prev_sample
    torch.testing.assert_close(x, y.float(), rtol=1e-4, atol=1e-4)


MEAN = torch.tensor([0.3, -0.2, 0.1, 0.4], dtype=torch.float64)
ROOT = 0.7 * torch.tensor([[1, 0, 0, 0], [0.8, 0.6, 0, 0], [0.7, 0.3, 0.5, 0], [0.5, 0.5, 0.4, 0.5]]).double()


def preserving(steps):
    lib = DDIMScheduler(1000, beta_schedule="squaredcos_cap_v2")
    lib.set_timesteps(steps)
    return preserving_path(lib.timesteps, lib.alphas_cumprod, 0)


def straight(steps):
    return straight_path(even_sigmas(steps), 1000.0)


PATHS = pytest.mark.parametrize("path", [preserving, straight])


def gaussian(path, covariance, known, steps, jump, resample, count=2500):
    """What RePaint with the exact denoiser of N(MEAN, covariance) makes of the last two of four values."""
    s = path(steps)
    one = torch.eye(4, dtype=torch.float64)

    def believe(x, i):
        alpha, sigma = s.alpha_T[i], s.sigma_T[i]
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * one)
        return MEAN + (x - alpha * MEAN) @ gain.T

    x_0 = torch.cat([known, torch.full((2,), 9.0, dtype=torch.float64)]).expand(count, 1, 1, 4)
    g = torch.Generator().manual_seed(0)
    x = repaint(
        believe,
        s,
        x_0,
        torch.tensor([False, False, True, True]),
        torch.zeros_like(x_0),
        repaint_levels(steps, jump, resample),
        lambda: torch.randn(x_0.shape, generator=g, dtype=torch.float64),
    ).view(count, 4)
    assert torch.equal(x[:, :2], x_0.view(count, 4)[:, :2])
    return x[:, 2:]


@PATHS
def test_with_the_exact_denoiser_a_hole_is_filled_with_the_conditional_distribution(path):
    """Sigma_uk Sigma_kk^-1 (known - mean) away from the mean; with replacement alone it falls short of it."""
    covariance, known = ROOT @ ROOT.T, torch.tensor([1.0, -0.8], dtype=torch.float64)
    slope = covariance[2:, :2] @ torch.linalg.inv(covariance[:2, :2])
    mean = MEAN[2:] + slope @ (known - MEAN[:2])
    spread = covariance[2:, 2:] - slope @ covariance[:2, 2:]
    x = gaussian(path, covariance, known, 150, 10, 20)
    assert (x.mean(0) - mean).abs().max() < 0.1
    torch.testing.assert_close(x.T.cov(), spread, rtol=0.15, atol=0)
    alone = gaussian(path, covariance, known, 150, 10, 1)
    assert (alone.mean(0) - mean).abs().max() > 0.3


@PATHS
def test_values_that_have_nothing_to_do_with_the_known_ones_keep_their_own_distribution(path):
    covariance = torch.diag(torch.tensor([0.3, 0.2, 0.7, 0.4]).double())
    for resample in (1, 3):
        x = gaussian(path, covariance, torch.tensor([5.0, -5.0]).double(), 200, 10, resample)
        torch.testing.assert_close(x.mean(0), MEAN[2:], rtol=0, atol=0.05)
        torch.testing.assert_close(x.var(0), torch.tensor([0.7, 0.4]).double(), rtol=0.12, atol=0)
