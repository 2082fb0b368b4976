"""What a base model is trained to do: losses, the chance of each sample, the step size.

Letters of Ho et al. 2020 (arXiv 2006.11239): x0 clean pictures (or latents) in [-1, 1], eps the noise, t the
time step, alpha_bar the share of signal left. B images, C channels, H height, W width, T time steps. Every
loss is float32 [B], one number a picture, so that the caller can weigh slices of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor

from noiseweave.engine.diffusion.path import Prediction
from noiseweave.engine.seeding import generator

NetworkCall = Callable[[Tensor, Tensor], Tensor]
"""network(x_BCHW, t_B) -> [B, C, H, W]; t is a time step of the schedule, or 1000 sigma for straight paths."""

TIME = 1000.0  # what a straight path's time in [0, 1] is multiplied by: the range of UNet2DModel's embedding


def step_of(time_B: Tensor, steps: int) -> Tensor:
    """Times in [0, 1) -> time steps int64 [B]; float32 may have rounded a time to 1, which is the last step too."""
    return (time_B * steps).long().clamp(max=steps - 1)


def path_loss(
    network: NetworkCall,
    x0_BCHW: Tensor,
    eps_BCHW: Tensor,
    level: tuple[Tensor, Tensor, Tensor],
    target: Prediction,
) -> Tensor:
    """``|| y - network(alpha x0 + sigma eps, t) ||^2``, the mean over values, on any Gaussian path.

    y is eps (Ho et al., eq. 14), x0, v = alpha eps - sigma x0 (Salimans & Ho, arXiv 2202.00512), or of a flow
    eps - x0 (Lipman et al., arXiv 2210.02747, eq. 23, sigma_min = 0; sigma is 1 - t of that paper, whose x_0 is noise).

    Args:
        level: alpha, sigma and what the network is conditioned on, each [B].
    """
    alpha, sigma = (side_B.view(-1, 1, 1, 1) for side_B in level[:2])
    x_t = alpha * x0_BCHW + sigma * eps_BCHW
    y = {
        "epsilon": lambda: eps_BCHW,
        "sample": lambda: x0_BCHW,
        "v_prediction": lambda: alpha * eps_BCHW - sigma * x0_BCHW,
        "flow": lambda: eps_BCHW - x0_BCHW,
    }[target]()
    return mean_square(y - network(x_t, level[2]).float())


def ddpm_loss(
    network: NetworkCall,
    x0_BCHW: Tensor,
    eps_BCHW: Tensor,
    t_B: Tensor,
    alpha_bar_T: Tensor,
    target: Prediction = "epsilon",
    min_snr: float = 0.0,
) -> Tensor:
    """``path_loss`` where alpha is sqrt(alpha_bar_t) and sigma sqrt(1 - alpha_bar_t), times w(t)."""
    a_B = alpha_bar_T[t_B]
    loss = path_loss(network, x0_BCHW, eps_BCHW, (a_B.sqrt(), (1 - a_B).sqrt(), t_B), target)
    return loss * min_snr_weight(a_B, target, min_snr) if min_snr else loss


def min_snr_weight(alpha_bar_B: Tensor, target: Prediction, gamma: float) -> Tensor:
    """min(SNR, gamma), a weight of the error in x0, as a weight of the error in the target.

    Hang et al. 2023 (arXiv 2303.09556), eq. 6: with SNR = alpha_bar / (1 - alpha_bar), an error in eps counts
    1 / SNR times as much in x0, and one in v 1 / (SNR + 1) times.
    """
    snr = alpha_bar_B / (1 - alpha_bar_B)
    clipped = snr.clamp(max=gamma)
    return {"epsilon": clipped / snr, "sample": clipped, "v_prediction": clipped / (snr + 1)}[target]


def flow_loss(network: NetworkCall, x0_BCHW: Tensor, eps_BCHW: Tensor, sigma_B: Tensor) -> Tensor:
    """``path_loss`` on the straight path: diffusers' FlowMatchEulerDiscreteScheduler reads the network as it is."""
    return path_loss(network, x0_BCHW, eps_BCHW, (1 - sigma_B, sigma_B, TIME * sigma_B), "flow")


def mixing_loss(network: NetworkCall, x0_BCHW: Tensor, eps_BCHW: Tensor, w_B: Tensor) -> Tensor:
    """The teaching form: the straight path, w in [0, 1] in place of sigma, and x0 as the target."""
    return path_loss(network, x0_BCHW, eps_BCHW, (1 - w_B, w_B, TIME * w_B), "sample")


def logit_normal(time_B: Tensor, mean: float, std: float) -> Tensor:
    """Even chance in [0, 1] -> that of a logit-normal distribution (Esser et al., arXiv 2403.03206, eq. 19).

    1 is noise: a mean above 0 draws noisier levels.
    """
    return torch.sigmoid(mean + std * torch.special.ndtri(time_B.double())).to(time_B)


def mean_square(difference_BCHW: Tensor) -> Tensor:
    """The mean over channels and places: float32 [B]."""
    return difference_BCHW.float().square().mean(dim=(1, 2, 3))


def coupled(x0_BCHW: Tensor, eps_BCHW: Tensor) -> Tensor:
    """Which noise goes with which picture: int64 [B], the optimal transport plan of a batch.

    It minimises sum_i || x0_i - eps_pi(i) ||^2 over permutations pi (Tong et al., arXiv 2302.00482, sec. 3.2; the
    plan between equal weights is a permutation), by scipy's linear_sum_assignment: B^3 at worst.
    """
    from scipy.optimize import linear_sum_assignment

    cost = torch.cdist(x0_BCHW.flatten(1).double(), eps_BCHW.flatten(1).double()).square()
    return torch.from_numpy(linear_sum_assignment(cost.cpu().numpy())[1])


def hidden(label_B: Tensor, chance_B: Tensor, dropout: float, classes: int) -> Tensor:
    """Labels with a share of ``dropout`` and the missing ones (-1) replaced by the null class, ``classes``."""
    return torch.where((chance_B < dropout) | (label_B < 0), classes, label_B)


@dataclass(frozen=True, kw_only=True)
class Chance:
    """What chance adds to one sample.

    Attributes:
        eps: float32, of the noise's shape.
        time: in [0, 1): where on the way from picture to noise.
        hide: in [0, 1): below the label dropout, the label is hidden.
        flip: whether the picture is mirrored.
    """

    eps: Tensor
    time: float
    hide: float
    flip: bool


def draw_chance(seed: int, step: int, position: int, shape: Sequence[int]) -> Chance:
    """The chance of the sample at ``position`` of global batch ``step``, on any number of workers."""
    g = generator(seed, "train", step, position)
    time, hide, flip = torch.rand(3, generator=g, dtype=torch.float64).tolist()
    return Chance(eps=torch.randn(tuple(shape), generator=g), time=time, hide=hide, flip=flip < 0.5)


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
