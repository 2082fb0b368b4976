"""The second inversion sampler: SDE-DPM-Solver++ of order 2, for chains of 20 to 25 steps.

Lu et al.: DPM-Solver++ (arXiv 2211.01095): its SDE-DPM-Solver++(2M), and DPM-Solver++(2M) with eta 0; inverted as in
LEDITS++ (Brack et al., arXiv 2311.16711, section 3.1). Letters: B images, T kept steps (index 0 the noisiest), C
channels, H height, W width; alpha = sqrt(a), sigma = sqrt(1 - a), lambda = log(alpha / sigma), s a step and t the
next, cleaner one.

With the model's data prediction x_theta the reverse SDE has the solution (h = lambda_t - lambda_s)

    x_t = sigma_t / sigma_s e^{-h} x_s + 2 alpha_t int_{lambda_s}^{lambda_t} e^{-2 (lambda_t - l)} x_theta dl
          + sigma_t sqrt(1 - e^{-2h}) z.

x_theta constant over the step gives order 1: alpha_t (1 - e^{-2h}) x_theta(x_s). That is DDIM with eta = 1,
so ``Path.mean``. Order 2 takes the slope of x_theta from the step before, r, and its value half way:

    + 1/2 alpha_t (1 - e^{-2h}) D_1,   D_1 = h / h_r (x_theta(x_s) - x_theta(x_r)),   h_r = lambda_s - lambda_r.

In general the factor of x_theta in order 1 is that of x_0 in ``Path.mean`` where x_s is held,

    alpha_t - alpha_s / sigma_s sqrt(sigma_t^2 - c^2),

so alpha_t (1 - e^{-2h}) with the posterior's c, and alpha_t (1 - e^{-h}) without noise, which is DPM-Solver++(2M)'s.
Only the mean differs from DDIM, so a residual is again the whole x_t - mu: replay is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from noiseweave.engine import spans
from noiseweave.engine.diffusion import inversion
from noiseweave.engine.diffusion.path import Denoiser, Path, broadcast
from noiseweave.engine.diffusion.recipes import SolverName
from noiseweave.engine.records import NoiseMaps

LAMBDA_MIN = (
    -5.1
)  # steps noisier than this are not taken: x_theta divides by alpha (diffusers' advice for cosine)


def preserving_steps(scheduler: Any, num_steps: int) -> tuple[Tensor, Tensor]:
    """The time steps that DPM-Solver++ takes on a noise schedule, int64 [num_steps], and its alpha_bar.

    Args:
        scheduler: any diffusers scheduler of a noise schedule; its betas and its time step spacing are kept.

    Raises:
        ValueError: more steps than DPM-Solver++ can separate on this noise schedule.
    """
    from diffusers import DPMSolverMultistepScheduler

    lib = DPMSolverMultistepScheduler.from_config(
        scheduler.config, algorithm_type="sde-dpmsolver++", solver_order=2, lambda_min_clipped=LAMBDA_MIN
    )
    trained = int(lib.config.num_train_timesteps)
    if 0 < num_steps <= trained:
        lib.set_timesteps(num_steps)
    if not 0 < num_steps <= trained or bool((lib.timesteps.diff() >= 0).any()):
        raise ValueError(f"inversion.num_steps={num_steps}: too many for sde-dpm-solver++, 20 to 25 serve")
    return lib.timesteps, lib.alphas_cumprod


def slope_weights(path: Path) -> Tensor:
    """float64 [T]: half the factor of x_theta times h / h_r, that of x_theta(x_s) - x_theta(x_r) at each step.

    0 at the first kept step, which has none before, and at the last, which lands on x_0: there h is infinite,
    and the library takes order 1 too. So it does after a step without signal, where h_r is infinite.
    """
    h = path.log_snr_T.diff()  # of the steps 0 .. T - 2
    direction_T = (path.sigma_next_T**2 - path.deviation_T**2).clamp(min=0).sqrt()
    gain = (path.alpha_next_T - path.alpha_T / path.sigma_T * direction_T)[:-1]
    weight_T = torch.zeros_like(path.alpha_T)
    weight_T[1:-1] = gain[1:] * h[1:] / h[:-1] / 2
    return weight_T


def invert_dpm(denoise: Denoiser, path: Path, x_0_BCHW: Tensor, noise_TBCHW: Tensor) -> list[NoiseMaps]:
    """Invert B pictures; arguments and result as those of ``inversion.invert``.

    Every x_t is drawn straight from x_0, so here too all T * B network inputs are one batch; x_theta of the
    step before is that of the drawn x_r.
    """
    x_TBCHW, x_next_TBCHW, out_TBCHW = inversion.predicted_chain(denoise, path, x_0_BCHW, noise_TBCHW)
    x_theta_TBCHW = path.clean(x_TBCHW, out_TBCHW)
    before_TBCHW = torch.cat([x_theta_TBCHW[:1], x_theta_TBCHW[:-1]])
    slope_TBCHW = broadcast(slope_weights(path), x_TBCHW) * (x_theta_TBCHW - before_TBCHW)
    mu_TBCHW = path.mean(x_TBCHW, out_TBCHW) + slope_TBCHW
    return inversion.maps_of(path, x_TBCHW, x_next_TBCHW - mu_TBCHW)


def replay_dpm(denoise: Denoiser, path: Path, maps: list[NoiseMaps]) -> Tensor:
    """Noise maps -> pictures; arguments, result and errors as those of ``inversion.replay``."""
    x_BCHW = inversion.first(path, maps)
    weight_T, before_BCHW = slope_weights(path), torch.zeros_like(x_BCHW)
    for i, t in spans.steps(list(enumerate(path.t_T.tolist()))):
        t_B = torch.full((len(maps),), t, device=x_BCHW.device)
        r_BCHW = torch.stack([m.residual_TCHW[i] for m in maps])
        out_BCHW = denoise(x_BCHW, t_B)
        x_theta_BCHW = path.clean(x_BCHW, out_BCHW, i)
        slope_BCHW = weight_T[i].to(x_BCHW) * (x_theta_BCHW - before_BCHW)
        x_BCHW = path.mean(x_BCHW, out_BCHW, i) + slope_BCHW + r_BCHW
        before_BCHW = x_theta_BCHW
    return x_BCHW


@dataclass(frozen=True, kw_only=True)
class Solver:
    """A reverse process, run both ways. Maps are replayed by the solver, and on the path, that made them.

    Attributes:
        invert: (denoise, path, x_0 [B, C, H, W], noise [T, B, C, H, W]) -> B noise maps.
        replay: (denoise, path, B noise maps) -> x_0, float [B, C, H, W].
    """

    invert: Callable[[Denoiser, Path, Tensor, Tensor], list[NoiseMaps]]
    replay: Callable[[Denoiser, Path, list[NoiseMaps]], Tensor]


SOLVERS: dict[SolverName, Solver] = {
    "ddim": Solver(invert=inversion.invert, replay=inversion.replay),
    "sde-dpm-solver++": Solver(invert=invert_dpm, replay=replay_dpm),
}
