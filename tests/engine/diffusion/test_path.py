"""Any Gaussian path: both ends from every prediction, and a step against Bayes, DDPM's posterior and Euler."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler

from noiseweave.engine.diffusion.dpm_solver import SOLVERS
from noiseweave.engine.diffusion.inversion import invert, replay
from noiseweave.engine.diffusion.path import even_sigmas, preserving_path, straight_path
from noiseweave.engine.records import NoiseMaps

D = torch.float64


def preserving(prediction="epsilon", steps=12, **more):
    lib = DDIMScheduler(1000, beta_schedule="squaredcos_cap_v2")
    lib.set_timesteps(steps)
    return preserving_path(lib.timesteps, lib.alphas_cumprod, prediction=prediction, **more)


def straight(prediction="flow", steps=12, **more):
    return straight_path(even_sigmas(steps), 1000.0, prediction=prediction, **more)


def said(path, x_0, eps, i):
    """What a network of this prediction says where the ends are x_0 and eps."""
    alpha, sigma = path.alpha_T[i], path.sigma_T[i]
    return {"epsilon": eps, "sample": x_0, "v_prediction": alpha * eps - sigma * x_0, "flow": eps - x_0}[
        path.prediction
    ]


def gaussian(path, m, s2):
    """The exact denoiser of data N(m, s2) on a path, whatever it is to predict."""
    place = {float(t): i for i, t in enumerate(path.t_T.tolist())}

    def denoise(x, t):
        i = [place[float(one)] for one in t]
        shape = (-1, *[1] * (x.dim() - 1))
        alpha, sigma = path.alpha_T[i].view(shape), path.sigma_T[i].view(shape)
        spread = alpha**2 * s2 + sigma**2
        x_0 = m + alpha * s2 * (x - alpha * m) / spread
        eps = sigma * (x - alpha * m) / spread
        return {"epsilon": eps, "sample": x_0, "v_prediction": alpha * eps - sigma * x_0, "flow": eps - x_0}[
            path.prediction
        ]

    return denoise


WAYS = [(preserving, p) for p in ("epsilon", "sample", "v_prediction")] + [
    (straight, p) for p in ("flow", "sample")
]


@pytest.mark.parametrize(("make", "prediction"), WAYS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_what_a_network_says_becomes_both_ends_and_the_mean(make, prediction, eta):
    path, g = make(prediction, eta=eta), torch.Generator().manual_seed(0)
    x_0, eps = torch.randn(2, 5, 3, generator=g, dtype=D)
    for i in range(len(path)):
        x = path.alpha_T[i] * x_0 + path.sigma_T[i] * eps
        out = said(path, x_0, eps, i)
        torch.testing.assert_close(path.clean(x, out, i), x_0, rtol=1e-9, atol=1e-9)
        mu = path.alpha_next_T[i] * x_0 + (path.sigma_next_T[i] ** 2 - path.deviation_T[i] ** 2).sqrt() * eps
        torch.testing.assert_close(path.mean(x, out, i), mu, rtol=1e-9, atol=1e-9)
    xs = path.noised(x_0, eps.expand(len(path), 5, 3))
    outs = torch.stack([said(path, x_0, eps, i) for i in range(len(path))])
    one_by_one = torch.stack([path.mean(xs[i], outs[i], i) for i in range(len(path))])
    assert torch.equal(path.mean(xs, outs), one_by_one)


@pytest.mark.parametrize("make", [preserving, straight])
def test_a_step_is_the_posterior_of_bayes(make):
    """q(x' | x, x_0) from the joint law of x' and x, which differ by independent noise given x_0."""
    path, x_0, x = make("epsilon" if make is preserving else "flow"), 0.4, torch.tensor(-0.7, dtype=D)
    for i in range(len(path)):
        alpha, sigma, to, left = (
            float(v[i]) for v in (path.alpha_T, path.sigma_T, path.alpha_next_T, path.sigma_next_T)
        )
        share = alpha / to  # x = share x' + noise of variance sigma^2 - share^2 left^2
        added = sigma**2 - share**2 * left**2
        precision = share**2 / added + (1 / left**2 if left else float("inf"))
        mean = to * x_0 if not left else (share * float(x) / added + to * x_0 / left**2) / precision
        eps = (x - alpha * x_0) / sigma
        out = said(path, torch.tensor(x_0, dtype=D), eps, i)
        assert float(path.mean(x, out, i)) == pytest.approx(mean, abs=1e-12)
        assert float(path.posterior_mean(x, torch.tensor(x_0, dtype=D), i)) == pytest.approx(mean, abs=1e-12)
        assert float(path.deviation_T[i]) == pytest.approx(precision**-0.5, abs=1e-12)


def test_without_noise_a_step_on_a_straight_path_is_eulers():
    path, g = straight(eta=0.0), torch.Generator().manual_seed(1)
    x, v = torch.randn(2, 4, 3, generator=g, dtype=D)
    for i in range(len(path)):
        euler = x + (path.sigma_next_T[i] - path.sigma_T[i]) * v
        torch.testing.assert_close(path.mean(x, v, i), euler, rtol=1e-12, atol=1e-12)
    assert path.deviation_T.abs().max() == 0


@pytest.mark.parametrize(("make", "prediction"), WAYS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_exact_denoiser_of_a_gaussian_gives_it_back_in_float64(make, prediction, eta):
    g = torch.Generator().manual_seed(2)
    m, s2 = torch.randn(1, 2, 3, generator=g, dtype=D), torch.rand(1, 2, 3, generator=g, dtype=D) + 0.1
    path = make(prediction, eta=eta, steps=30, skip=3)
    denoise = gaussian(path, m, s2)
    x_0 = m + s2.sqrt() * torch.randn(5, 1, 2, 3, generator=g, dtype=D)
    noise = torch.randn(27, 5, 1, 2, 3, generator=g, dtype=D)
    assert (replay(denoise, path, invert(denoise, path, x_0, noise)) - x_0).abs().max() < 1e-10


@pytest.mark.parametrize("prediction", ["flow", "sample"])
def test_a_straight_path_draws_a_gaussian_from_pure_noise(prediction):
    """A linear denoiser makes x_0 linear in x_T and each step's noise: unit impulses give mean and spread exactly."""
    m, s2, steps = 0.3, 0.2, 400
    path = straight(prediction, steps=steps)
    empty = torch.zeros(1, 1, 1, dtype=D)
    impulses = [
        NoiseMaps(x_T_CHW=empty, residual_TCHW=torch.zeros(steps, 1, 1, 1, dtype=D), timesteps_T=path.t_T)
    ]
    impulses.append(
        NoiseMaps(x_T_CHW=empty + 1, residual_TCHW=impulses[0].residual_TCHW, timesteps_T=path.t_T)
    )
    for row in torch.diag(path.deviation_T):
        impulses.append(NoiseMaps(x_T_CHW=empty, residual_TCHW=row.view(-1, 1, 1, 1), timesteps_T=path.t_T))
    x = replay(gaussian(path, m, s2), path, impulses).flatten()
    assert float(x[0]) == pytest.approx(m, abs=1e-9)
    assert float((x[1:] - x[0]).square().sum()) == pytest.approx(s2, rel=0.02)


def test_residuals_on_a_straight_path_have_their_closed_form_spread():
    """x' and x share x_0 alone, so r = x' - A x - const has variance
    (alpha' - A alpha)^2 s2 + sigma'^2 + A^2 sigma^2."""
    m, s2, n = 0.3, 0.5, 8_000
    path, g = straight(steps=20, skip=2), torch.Generator().manual_seed(3)
    x_0 = m + s2**0.5 * torch.randn(n, 1, 1, 1, generator=g, dtype=D)
    noise = torch.randn(18, n, 1, 1, 1, generator=g, dtype=D)
    maps = invert(gaussian(path, m, s2), path, x_0, noise)
    r_TN = torch.stack([one.residual_TCHW.flatten() for one in maps], 1)
    sigma, left = path.sigma_T, path.sigma_next_T
    alpha, to = 1 - sigma, 1 - left
    # A: the factor of x in mu, from velocity and posterior in their own words
    spread = alpha**2 * s2 + sigma**2
    slope = (sigma - alpha * s2) / spread  # of the velocity eps - x_0 in x
    c2 = (left / sigma) ** 2 * (sigma**2 - (alpha / to) ** 2 * left**2)
    A = to * (1 - sigma * slope) + (left**2 - c2).clamp(min=0).sqrt() * (1 + alpha * slope)
    expected = ((to - A * alpha) ** 2 * s2 + left**2 + A**2 * sigma**2).sqrt()
    torch.testing.assert_close(r_TN.std(1), expected, rtol=0.05, atol=1e-6)
    assert (r_TN.mean(1).abs() < 5 * expected / n**0.5).all()


def test_the_noisiest_step_of_a_flow_is_noise_alone_and_its_map_holds_it():
    path, g = straight(steps=4), torch.Generator().manual_seed(4)
    assert (path.alpha_T[0], path.sigma_T[0], path.log_snr_T[0]) == (0, 1, -float("inf"))
    assert path.t_T.tolist() == [1000, 750, 500, 250]
    assert path.t_T.dtype == torch.float32
    x_0, noise = torch.randn(2, 1, 4, 4, generator=g), torch.randn(4, 2, 1, 4, 4, generator=g)
    maps = invert(gaussian(path, 0.0, 1.0), path, x_0, noise)
    assert torch.equal(maps[1].x_T_CHW, noise[0, 1])


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
def test_a_noise_schedule_that_ends_without_signal_is_taken_where_noise_says_something(prediction):
    lib = DDIMScheduler(1000, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    lib.set_timesteps(10)
    assert lib.alphas_cumprod[lib.timesteps[0]] == 0
    path = preserving_path(lib.timesteps, lib.alphas_cumprod, prediction=prediction)
    g = torch.Generator().manual_seed(5)
    x_0, noise = (
        torch.randn(1, 1, 4, 4, generator=g, dtype=D),
        torch.randn(10, 1, 1, 4, 4, generator=g, dtype=D),
    )
    denoise = gaussian(path, 0.1, 0.5)
    assert (replay(denoise, path, invert(denoise, path, x_0, noise)) - x_0).abs().max() < 1e-10
    with pytest.raises(ValueError, match=r"inversion\.skip: too small, .* no signal"):
        preserving_path(lib.timesteps, lib.alphas_cumprod)


def test_levels_are_moved_towards_noise_by_a_shift():
    assert even_sigmas(4).tolist() == [1, 0.75, 0.5, 0.25]
    torch.testing.assert_close(even_sigmas(4, 3.0), torch.tensor([1, 0.9, 0.75, 0.5], dtype=D))


def test_shifted_noise_is_that_of_the_next_step_and_the_network_is_told_of_this_one():
    """As TurboEdit's public code has it in 4 steps: x of time 799, 599, 399 and 199 is drawn at 599, 399, 199 and 0."""
    lib = DDIMScheduler(1000, timestep_spacing="trailing")
    lib.set_timesteps(5)
    path = preserving_path(lib.timesteps, lib.alphas_cumprod, 1, noise_shift=1.0)
    assert path.t_T.tolist() == [799, 599, 399, 199]
    a_T = torch.cat([lib.alphas_cumprod[[599, 399, 199]].double(), torch.ones(1)])
    x_0, noise = torch.randn(2, 4, 1, 3, generator=torch.Generator().manual_seed(0), dtype=D)
    expected = a_T.sqrt().view(-1, 1, 1) * x_0 + (1 - a_T).sqrt().view(-1, 1, 1) * noise
    torch.testing.assert_close(path.noised(x_0, noise), expected)
    half = preserving_path(lib.timesteps, lib.alphas_cumprod, 1, noise_shift=0.5)
    torch.testing.assert_close(half.drawn_T[0] ** 2, lib.alphas_cumprod[[699, 499, 299, 99]].double())
    path = straight_path(even_sigmas(5), 1000.0, 1, noise_shift=0.5)
    assert path.t_T.tolist() == [800, 600, 400, 200]
    torch.testing.assert_close(path.drawn_T[1], torch.tensor([0.7, 0.5, 0.3, 0.1], dtype=D))
    torch.testing.assert_close(sum(path.drawn_T), torch.ones(4, dtype=D))


@pytest.mark.parametrize(("make", "prediction"), WAYS)
@pytest.mark.parametrize("noise_shift", [0.0, 0.6, 1.0])
def test_a_few_shifted_steps_give_a_picture_back_in_float64(make, prediction, noise_shift):
    for solver in SOLVERS.values():
        path, g = make(prediction, 4, skip=1, noise_shift=noise_shift), torch.Generator().manual_seed(1)
        x_0, noise = (
            torch.randn(2, 1, 4, 4, generator=g, dtype=D),
            torch.randn(3, 2, 1, 4, 4, generator=g, dtype=D),
        )
        denoise = gaussian(path, 0.2, 0.3)
        maps = solver.invert(denoise, path, x_0, noise)
        torch.testing.assert_close(solver.replay(denoise, path, maps), x_0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [preserving, straight])
def test_maps_drawn_at_the_matching_level_are_as_strong_as_the_noise_of_a_step(make):
    """Of a network that sees x_0 the maps have sigma'^2 (1 + q) in place of c^2 = sigma'^2 (1 - q), where
    q = (alpha sigma' / alpha' sigma)^2; noise that is sqrt((1 - q) / (1 + q)) as strong makes them equal."""
    path, g = make("sample", 5, skip=1), torch.Generator().manual_seed(2)
    x_0, noise = torch.zeros(1, 1, 64, 64, dtype=D), torch.randn(4, 1, 1, 64, 64, generator=g, dtype=D)
    q = (path.alpha_T * path.sigma_next_T / path.alpha_next_T / path.sigma_T) ** 2

    def spread(path):
        [maps] = invert(lambda x, t: torch.zeros_like(x), path, x_0, noise)
        return maps.residual_TCHW.std((1, 2, 3))

    expected = path.sigma_next_T * (1 + q).sqrt()
    torch.testing.assert_close(spread(path)[:-1], expected[:-1], rtol=0.05, atol=0)
    for i in range(3):
        rho = ((1 - q[i]) / (1 + q[i])).sqrt()
        weaker = replace(path, drawn_T=(path.alpha_T, path.sigma_T * rho))
        torch.testing.assert_close(spread(weaker)[i], path.deviation_T[i], rtol=0.05, atol=0)
