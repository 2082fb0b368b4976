"""What a diffusion model is trained to do, and on what: the loss, the order of the samples, the step size.

Letters of Ho et al. 2020 (arXiv 2006.11239): x0 clean pictures in [-1, 1], eps the noise, t the time step,
alpha_bar the share of signal left. B images, C channels, H height, W width, T time steps of the schedule.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor

from noiseweave.engine.seeding import generator

Denoiser = Callable[[Tensor, Tensor], Tensor]


def epsilon_loss(
    eps_theta: Denoiser, x0_BCHW: Tensor, eps_BCHW: Tensor, t_B: Tensor, alpha_bar_T: Tensor
) -> Tensor:
    """L_simple, eq. 14: ``|| eps - eps_theta(sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps, t) ||^2``.

    Returns:
        float32 [B]: the mean over a picture's values, one number a picture, so that the caller can weigh
        slices of a batch.
    """
    alpha_bar = alpha_bar_T[t_B].view(-1, 1, 1, 1)
    x_t = alpha_bar.sqrt() * x0_BCHW + (1 - alpha_bar).sqrt() * eps_BCHW
    return (eps_BCHW - eps_theta(x_t, t_B).float()).square().mean(dim=(1, 2, 3))


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What chance adds to one sample: eps float32 [C, H, W], t in 0..T-1, and whether it is mirrored."""

    eps_CHW: Tensor
    t: int
    flip: bool


def draw(seed: int, step: int, position: int, shape: Sequence[int], timesteps: int) -> Draw:
    """The chance of the sample at ``position`` of global batch ``step``, on any number of workers."""
    g = generator(seed, "train", step, position)
    t = int(torch.randint(timesteps, (), generator=g))
    flip = bool(torch.rand((), generator=g) < 0.5)
    return Draw(eps_CHW=torch.randn(tuple(shape), generator=g), t=t, flip=flip)


def order(seed: int, length: int, first: int, count: int) -> list[int]:
    """Samples number ``first`` to ``first + count - 1`` of an endless run over ``length`` of them.

    Every epoch is a permutation of its own, a function of (seed, epoch); a batch may span two epochs.
    """
    places = range(first, first + count)
    return [int(_permutation(seed, length, place // length)[place % length]) for place in places]


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, length: int, epoch: int) -> Tensor:
    return torch.randperm(length, generator=generator(seed, "epoch", epoch))


def learning_rate(
    step: int, *, peak: float, steps: int, warmup: int, decay: Literal["cosine", "constant"]
) -> float:
    """A straight line up to ``peak`` over ``warmup`` steps, then a half cosine down to 0, or level."""
    if step < warmup:
        return peak * (step + 1) / warmup
    if decay == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def moving_average(parameters: Iterable[torch.nn.Parameter], decay: float, step: int = 0) -> EMAModel:
    """EMA of the weights after ``step`` updates; its k-th update uses min(decay, k / (9 + k)), k from 0.

    The short memory at the start keeps the random first weights out of the average.
    """
    average = EMAModel(parameters, decay=decay, foreach=True)
    average.optimization_step = step
    return average
