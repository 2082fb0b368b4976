"""SDE-DPM-Solver++ inversion: diffusers' own steps, the exact Gaussian denoiser, the shipped model."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from noiseweave.engine.diffusion import dpm_solver
from noiseweave.engine.diffusion.inversion import draw_noise
from noiseweave.engine.diffusion.path import even_sigmas, preserving_path, straight_path
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.networks.recipes import ModelConfig

SPACINGS = ["leading", "trailing", "linspace"]


def scheduler(spacing="leading", **kw):
    return DDIMScheduler(
        1000, beta_schedule="squaredcos_cap_v2", clip_sample=False, timestep_spacing=spacing, **kw
    )


def library(spacing, steps, kind="sde-dpmsolver++"):
    lib = DPMSolverMultistepScheduler.from_config(
        scheduler(spacing).config, algorithm_type=kind, lambda_min_clipped=dpm_solver.LAMBDA_MIN
    )
    lib.set_timesteps(steps)
    return lib


def path_of(scheduler, steps, skip=0, **more):
    return preserving_path(*dpm_solver.preserving_steps(scheduler, steps), skip, **more)


def gaussian(alpha_bar, m, s2):
    """The optimal denoiser of data N(m, s2): E[epsilon | x_t], linear in x_t."""

    def epsilon(x, t):
        a = alpha_bar.double()[t].view(-1, *[1] * (x.dim() - 1))
        return (1 - a).sqrt() * (x - a.sqrt() * m) / (a * s2 + 1 - a)

    return epsilon


def psnr(x, y):
    return 10 * torch.log10(4 / (x.double() - y.double()).square().mean())


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 10, 25])
def test_every_step_is_the_one_diffusers_takes(spacing, steps):
    """The same x, network outputs and noise: replay of sigma z is DPMSolverMultistepScheduler.step with z."""
    lib = library(spacing, steps)
    s = path_of(scheduler(spacing), steps)
    assert s.t_T.tolist() == lib.timesteps.tolist()
    g = torch.Generator().manual_seed(0)
    x_T, e_T, z_T = torch.randn(3, steps, 2, 3, 4, 4, generator=g)
    h = (s.alpha_next_T / s.sigma_next_T).log() - (s.alpha_T / s.sigma_T).log()
    sigma_T = (s.sigma_next_T * (-torch.expm1(-2 * h)).sqrt()).float()
    torch.testing.assert_close(sigma_T, s.deviation_T.float())
    assert sigma_T[-1] == 0
    weight_T, before = dpm_solver.slope_weights(s), None
    for i, t in enumerate(lib.timesteps):
        theirs = lib.step(e_T[i], t, x_T[i], variance_noise=z_T[i]).prev_sample
        x_theta = s.clean(x_T[i], e_T[i], i)
        torch.testing.assert_close(x_theta, lib.model_outputs[-1], rtol=1e-4, atol=1e-4)
        mu = s.mean(x_T[i], e_T[i], i)
        if before is not None:
            mu = mu + weight_T[i].float() * (x_theta - before)
        ours, before = mu + sigma_T[i] * z_T[i], x_theta
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 10, 25])
def test_every_step_of_a_flow_is_the_one_diffusers_takes_with_flow_sigmas(steps, whole):
    """The library begins at 1 - 1/1000; and ``whole``, at pure noise, where lambda is -inf."""
    lib = DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++",
        solver_order=2,
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
        final_sigmas_type="zero",
    )
    lib.set_timesteps(steps)
    if whole:
        lib.sigmas = torch.cat([even_sigmas(steps), torch.zeros(1)]).float()
    s = straight_path(lib.sigmas[:-1].double(), 1000.0)
    assert (float(s.alpha_T[0]) == 0) == whole
    g = torch.Generator().manual_seed(0)
    x_T, v_T, z_T = torch.randn(3, steps, 2, 3, 4, 4, generator=g)
    sigma_T, weight_T, before = s.deviation_T.float(), dpm_solver.slope_weights(s), None
    assert weight_T.isfinite().all()
    for i, t in enumerate(lib.timesteps):
        theirs = lib.step(v_T[i], t, x_T[i], variance_noise=z_T[i]).prev_sample
        x_theta = s.clean(x_T[i], v_T[i], i)
        torch.testing.assert_close(x_theta, lib.model_outputs[-1], rtol=1e-4, atol=1e-4)
        mu = s.mean(x_T[i], v_T[i], i)
        if before is not None:
            mu = mu + weight_T[i].float() * (x_theta - before)
        ours, before = mu + sigma_T[i] * z_T[i], x_theta
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-4)
    maps = dpm_solver.NoiseMaps(
        x_T_CHW=x_T[0, 0], residual_TCHW=sigma_T.view(-1, 1, 1, 1) * z_T[:, 0], timesteps_T=s.t_T
    )
    field = lambda x, t: 0.4 * x + t.view(-1, 1, 1, 1) / 3000  # noqa: E731
    ours, x = dpm_solver.replay_dpm(field, s, [maps]), x_T[0, :1]
    lib.set_timesteps(steps)
    lib.sigmas = torch.cat([s.sigma_T, torch.zeros(1)]).float()
    for i, t in enumerate(lib.timesteps):
        x = lib.step(field(x, s.t_T[i : i + 1]), t, x, variance_noise=z_T[i, :1]).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_replay_walks_as_the_library_samples(spacing):
    """A whole chain of 20 steps on the Gaussian denoiser, maps made of noise alone."""
    lib, s = library(spacing, 20), path_of(scheduler(spacing), 20)
    epsilon = gaussian(lib.alphas_cumprod, 0.3, 0.5)
    g = torch.Generator().manual_seed(1)
    x, z_T = torch.randn(1, 1, 8, 8, generator=g), torch.randn(20, 1, 1, 8, 8, generator=g)
    sigma_T = s.deviation_T.float()
    made = dpm_solver.NoiseMaps(
        x_T_CHW=x[0], residual_TCHW=sigma_T.view(-1, 1, 1, 1) * z_T[:, 0], timesteps_T=s.t_T
    )
    ours = dpm_solver.replay_dpm(lambda x, t: epsilon(x, t).float(), s, [made])
    for i, t in enumerate(lib.timesteps):
        x = lib.step(epsilon(x, t[None]).float(), t, x, variance_noise=z_T[i]).prev_sample
    torch.testing.assert_close(ours, x, rtol=0, atol=2e-3)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_without_noise_it_is_dpm_solver_plus_plus(spacing):
    """eta 0: DPMSolverMultistepScheduler's dpmsolver++, along a chain on the Gaussian denoiser."""
    lib, s = library(spacing, 20, "dpmsolver++"), path_of(scheduler(spacing), 20, eta=0.0)
    epsilon = gaussian(lib.alphas_cumprod, 0.3, 0.5)
    x = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    still = dpm_solver.NoiseMaps(x_T_CHW=x[0], residual_TCHW=torch.zeros(20, 1, 8, 8), timesteps_T=s.t_T)
    ours = dpm_solver.replay_dpm(lambda x, t: epsilon(x, t).float(), s, [still])
    for t in lib.timesteps:
        x = lib.step(epsilon(x, t[None]).float(), t, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-3)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_with_less_noise_a_picture_comes_back_and_the_slope_is_between_those_of_both_ends(spacing):
    x_0, noise = torch.randn(
        2, 20, 1, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    denoise, weights = gaussian(scheduler().alphas_cumprod, 0.3, 0.5), []
    for eta in (0.0, 0.3, 0.7, 1.0):
        s = path_of(scheduler(spacing), 20, eta=eta)
        maps = dpm_solver.invert_dpm(denoise, s, x_0[0], noise)
        torch.testing.assert_close(dpm_solver.replay_dpm(denoise, s, maps), x_0[0], rtol=0, atol=1e-10)
        weights.append(dpm_solver.slope_weights(s)[1:-1])
    assert (torch.stack(weights).diff(dim=0) > 0).all()


def test_order_two_samples_a_gaussian_with_less_error_than_order_one():
    """A linear denoiser makes x_0 linear in x_T and the z_t, so unit impulses give the spread of what is drawn."""
    s = path_of(scheduler(), 15)
    s2 = 0.05
    epsilon = gaussian(scheduler().alphas_cumprod, 0.0, s2)
    sigma_T = s.deviation_T  # of DDPM's posterior, of both
    start = (s.alpha_T[0] ** 2 * s2 + s.sigma_T[0] ** 2).sqrt().view(1, 1, 1)
    none, empty = torch.zeros(15, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, dtype=torch.float64)
    impulses = [dpm_solver.NoiseMaps(x_T_CHW=start, residual_TCHW=none, timesteps_T=s.t_T)]
    for row in torch.diag(sigma_T):
        impulses.append(
            dpm_solver.NoiseMaps(x_T_CHW=empty, residual_TCHW=row.view(-1, 1, 1, 1), timesteps_T=s.t_T)
        )
    drawn = {n: v.replay(epsilon, s, impulses).square().sum() for n, v in dpm_solver.SOLVERS.items()}
    assert abs(drawn["sde-dpm-solver++"] / s2 - 1) < abs(drawn["ddim"] / s2 - 1) / 2


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("steps", "skip"), [(1, 0), (2, 0), (20, 3), (25, 0)])
def test_the_exact_denoiser_of_a_gaussian_in_float64(spacing, steps, skip):
    g = torch.Generator().manual_seed(2)
    m, s2 = torch.randn(1, 2, 3, generator=g).double(), torch.rand(1, 2, 3, generator=g).double() + 0.1
    s = path_of(scheduler(spacing), steps, skip)
    epsilon = gaussian(scheduler().alphas_cumprod, m, s2)
    x_0 = m + s2.sqrt() * torch.randn(5, 1, 2, 3, generator=g, dtype=torch.float64)
    noise = torch.randn(steps - skip, 5, 1, 2, 3, generator=g, dtype=torch.float64)
    back = dpm_solver.replay_dpm(epsilon, s, dpm_solver.invert_dpm(epsilon, s, x_0, noise))
    assert (back - x_0).abs().max() < 1e-9


@pytest.mark.parametrize(("precision", "decibel"), [("fp32", 100), ("bf16", 55)])
@pytest.mark.parametrize(("steps", "skip", "batch"), [(20, 0, 2), (25, 5, 1)])
def test_the_shipped_model_gives_digits_back_as_with_ddim(
    digits_model, digits, precision, decibel, steps, skip, batch
):
    backbone = digits_model(ModelConfig(name="digits-ddpm", precision=precision))
    x_0 = backbone.encode(digits[0][:batch])
    recipe = InversionRecipe(num_steps=steps, skip=skip)
    noise = torch.stack([draw_noise(recipe, steps - skip, (1, 16, 16), 0, str(i)) for i in range(batch)], 1)
    for name, solver in dpm_solver.SOLVERS.items():
        s = backbone.path(replace(recipe, sampler=name))
        maps = solver.invert(backbone.denoise, s, x_0, noise)
        assert psnr(solver.replay(backbone.denoise, s, maps), x_0) >= decibel


def test_all_time_steps_go_through_the_network_as_one_batch():
    s, calls = path_of(scheduler(), 20, 5), []
    dpm_solver.invert_dpm(
        lambda x, t: calls.append(t.tolist()) or torch.zeros_like(x),
        s,
        torch.zeros(2, 1, 2, 2),
        torch.zeros(15, 2, 1, 2, 2),
    )
    assert len(calls) == 1
    assert calls[0] == [t for t in s.t_T.tolist() for _ in range(2)]


def test_maps_of_one_sampler_are_not_those_of_the_other():
    s = path_of(scheduler(), 20)
    epsilon = gaussian(scheduler().alphas_cumprod, 0.0, 1.0 / 4)
    g = torch.Generator().manual_seed(3)
    x_0, noise = torch.randn(1, 1, 4, 4, generator=g), torch.randn(20, 1, 1, 4, 4, generator=g)
    made = {n: v.invert(epsilon, s, x_0, noise)[0] for n, v in dpm_solver.SOLVERS.items()}
    apart = made["ddim"].residual_TCHW - made["sde-dpm-solver++"].residual_TCHW
    assert apart[[0, -1]].abs().max() == 0  # order 1 at both ends
    assert apart[1:-1].abs().mean((1, 2, 3)).min() > 1e-4


@pytest.mark.parametrize("steps", [0, 1000, 1001])
def test_steps_that_cannot_be_told_apart_are_refused(steps):
    with pytest.raises(ValueError, match=f"inversion.num_steps={steps}"):
        dpm_solver.preserving_steps(scheduler("leading"), steps)


def test_a_schedule_that_ends_in_pure_noise_is_taken_up_to_its_noisiest_step_with_some_signal():
    s = path_of(scheduler("trailing", rescale_betas_zero_snr=True), 20)
    assert s.log_snr_T.min() >= dpm_solver.LAMBDA_MIN - 0.5


def test_maps_of_other_time_steps_are_refused():
    s, other = (path_of(scheduler(), 20, skip) for skip in (0, 1))
    epsilon = gaussian(scheduler().alphas_cumprod, 0.0, 1.0)
    maps = dpm_solver.invert_dpm(epsilon, s, torch.zeros(1, 1, 2, 2), torch.zeros(20, 1, 1, 2, 2))
    with pytest.raises(ValueError, match="other time steps"):
        dpm_solver.replay_dpm(epsilon, other, maps)
