"""The Gaussian path that a model was trained on, from its diffusers scheduler."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from noiseweave.engine import checks
from noiseweave.engine.diffusion import dpm_solver
from noiseweave.engine.diffusion.path import Path, Prediction, even_sigmas, preserving_path, straight_path
from noiseweave.engine.diffusion.recipes import SolverName
from noiseweave.engine.networks.families.family import Family
from noiseweave.engine.networks.protocols import Scheduler


def is_straight(scheduler: Scheduler) -> bool:
    """Whether it is of flow matching, and not of a noise schedule."""
    return type(scheduler).__name__.startswith("FlowMatch")


def stepping(scheduler: Scheduler) -> Scheduler:
    """The scheduler whose steps an inversion takes: a flow's own, else DDIM's on the same noise schedule."""
    from diffusers import DDIMScheduler

    return scheduler if is_straight(scheduler) else DDIMScheduler.from_config(scheduler.config)


def prediction_of(scheduler: Scheduler) -> Prediction:
    """What a network with this scheduler predicts, where nothing else says it."""
    return "flow" if is_straight(scheduler) else cast(Prediction, scheduler.config.prediction_type)


def path_of(
    scheduler: Scheduler,
    prediction: Prediction,
    num_steps: int,
    skip: int = 0,
    eta: float = 1.0,
    sampler: SolverName = "ddim",
    noise_shift: float = 0.0,
) -> Path:
    """The scheduler's own steps, or evenly spaced levels of noise on a straight path, without the ``skip`` noisiest.

    Args:
        skip: 0 <= skip < num_steps.
        eta, sampler, noise_shift: see diffusion.recipes.InversionRecipe.

    Raises:
        ValueError: more steps than the model was trained with, or than the sampler can separate; a first step that
            holds no signal, of a network that predicts the noise.
    """
    trained = int(scheduler.config.num_train_timesteps)
    checks.check_steps("inversion.num_steps", num_steps, trained)
    if is_straight(scheduler):
        sigma_S = even_sigmas(num_steps, float(scheduler.config.shift))
        return straight_path(sigma_S, trained, skip, prediction, eta, noise_shift)
    if sampler == "sde-dpm-solver++":
        t_S, alpha_bar = dpm_solver.preserving_steps(scheduler, num_steps)
        return preserving_path(t_S, alpha_bar, skip, prediction, eta, noise_shift)
    scheduler.set_timesteps(num_steps)
    t_S = scheduler.timesteps
    beyond = max(0, int(t_S[0]) - trained + 1)  # with a steps_offset a whole chain begins after its end
    return preserving_path(t_S - beyond, scheduler.alphas_cumprod, skip, prediction, eta, noise_shift)


def sigma_of(scheduler: Scheduler, t_B: Tensor) -> Tensor:
    """sigma of x where the network is conditioned on these times, float64, on their device."""
    if is_straight(scheduler):
        return t_B.double() / int(scheduler.config.num_train_timesteps)
    return (1 - scheduler.alphas_cumprod.to(t_B.device)[t_B].double()).sqrt()


def pipeline_path(
    family: Family,
    scheduler: Scheduler,
    size: tuple[int, int],
    steps: int,
    skip: int,
    eta: float,
    noise_shift: float = 0.0,
) -> Path:
    """Of a pipeline that is a flow: the steps that its family takes for latents of H x W, without the noisiest.

    Raises:
        ValueError: more steps than the model was trained with.
    """
    trained = int(scheduler.config.num_train_timesteps)
    checks.check_steps("inversion.num_steps", steps, trained)
    return straight_path(family.sigmas(scheduler, steps, size), trained, skip, "flow", eta, noise_shift)


def noise_ratio(scheduler: Scheduler, ratio: float) -> tuple[float, Tensor, Tensor]:
    """Where sigma is ``ratio`` times alpha, or nearest to it -> as ``noise_level``."""
    if is_straight(scheduler):
        return noise_level(scheduler, ratio / (1 + ratio))
    a_T = scheduler.alphas_cumprod.double()
    t = int(((1 / a_T - 1).sqrt().log() - math.log(ratio)).abs().argmin())
    return t, a_T[t].sqrt(), (1 - a_T[t]).sqrt()


def noise_level(scheduler: Scheduler, level: float) -> tuple[float, Tensor, Tensor]:
    """A share of the way from picture to noise, 0 to 1 -> what the network is conditioned on there, alpha and sigma.

    Of a noise schedule it is the time step's share; on a straight path sigma itself.
    """
    trained = int(scheduler.config.num_train_timesteps)
    if is_straight(scheduler):
        sigma = torch.tensor(level, dtype=torch.float64)
        return trained * level, 1 - sigma, sigma
    t = round(level * (trained - 1))
    a = scheduler.alphas_cumprod[t].double()
    return t, a.sqrt(), (1 - a).sqrt()
