"""The reverse process that inversion and replay share: DDIM with eta = 1.

Letters as in Song et al. (DDIM, arXiv 2010.02502) and Huberman-Spiegelglas et al. (arXiv 2304.06140):
a is alpha_bar at a step, a_prev at the next cleaner one; T kept steps, index 0 the noisiest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""epsilon(x_BCHW, t_B): the noise that the model sees in x at time steps t, in the dtype of x."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The kept time steps of one reverse process.

    Attributes:
        t_T: int64 [T], descending time steps of the model.
        a_T: float64 [T], alpha_bar at t, in (0, 1).
        a_prev_T: float64 [T], alpha_bar at the next step; 1 at the last, which lands on x_0.
    """

    t_T: Tensor
    a_T: Tensor
    a_prev_T: Tensor

    def __post_init__(self) -> None:
        assert len(self.t_T) == len(self.a_T) == len(self.a_prev_T) > 0
        if not bool(((self.a_T > 0) & (self.a_T < 1)).all()):
            raise ValueError("inversion.skip: too small, alpha_bar must lie inside (0, 1) at every kept step")

    def __len__(self) -> int:
        return len(self.t_T)


def kept(t_S: Tensor, alpha_bar: Tensor, skip: int) -> Schedule:
    """The schedule of the S time steps of a scheduler without its ``skip`` noisiest ones.

    Args:
        t_S: int64 [S], descending.
        alpha_bar: float [number of training steps].
        skip: 0 <= skip < S.
    """
    t_T = t_S[skip:].cpu().long()
    a_T = alpha_bar.cpu().double()[t_T]
    a_prev_T = torch.cat([a_T[1:], torch.ones(1, dtype=torch.float64)])
    return Schedule(t_T=t_T, a_T=a_T, a_prev_T=a_prev_T)


def epsilon_from_output(target: str, out: Tensor, x: Tensor, a: Tensor) -> Tensor:
    """The noise in x, from a network's output of that target: epsilon, v_prediction or sample.

    Args:
        out, x: float32 [B, ...]; a: alpha_bar, broadcast against them.
    """
    if target == "epsilon":
        return out
    if target == "v_prediction":  # v = sqrt(a) epsilon - sqrt(1 - a) x_0 (arXiv 2202.00512, appendix D)
        return a.sqrt() * out + (1 - a).sqrt() * x
    return (x - a.sqrt() * out) / (1 - a).sqrt()  # the network predicts x_0


def x_0_from_output(target: str, out: Tensor, x: Tensor, a: Tensor) -> Tensor:
    """The clean picture in x, in the same way."""
    if target == "epsilon":
        return (x - (1 - a).sqrt() * out) / a.sqrt()
    return a.sqrt() * x - (1 - a).sqrt() * out if target == "v_prediction" else out


def mean(x: Tensor, epsilon: Tensor, a: Tensor, a_prev: Tensor) -> Tensor:
    """mu_t(x_t), the mean of x_{t-1}: DDIM eq. 12 with eta = 1, so that sigma is DDPM's posterior deviation.

    Args:
        x, epsilon: float, any shape; a, a_prev: float64, broadcast against them.
    """
    sigma2 = (1 - a_prev) / (1 - a) * (1 - a / a_prev)
    direction = (1 - a_prev - sigma2).clamp(min=0).sqrt()
    # mu = sqrt(a_prev) x_0 + direction epsilon, with x_0 = (x - sqrt(1 - a) epsilon) / sqrt(a), gathered in
    # float64 into one factor for x and one for epsilon
    of_x = (a_prev / a).sqrt()
    of_epsilon = direction - (a_prev * (1 - a) / a).sqrt()
    return of_x.to(x) * x + of_epsilon.to(x) * epsilon
