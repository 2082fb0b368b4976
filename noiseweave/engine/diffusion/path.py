"""The Gaussian path of a model, and a step back along it: one code for every kind of diffusion model.

    x_t = alpha_t x_0 + sigma_t eps

    variance preserving (DDPM)   alpha = sqrt(alpha_bar), sigma = sqrt(1 - alpha_bar)
    straight (flow matching, and linear mixing, its teaching form)   alpha = 1 - sigma, sigma from 1 to 0

What a network gives is, with x, both ends of the path; every kind of prediction is linear in the two:

    epsilon        x_0 = (x - sigma out) / alpha     eps = out
    sample         x_0 = out                         eps = (x - alpha out) / sigma
    v_prediction   x_0 = alpha x - sigma out         eps = sigma x + alpha out     v = alpha eps - sigma x_0
    flow           x_0 = x - sigma out               eps = x + (1 - sigma) out     v = eps - x_0

A step from (alpha, sigma) to the cleaner (alpha', sigma') has the mean mu and the deviation c

    mu = alpha' x_0 + sqrt(sigma'^2 - c^2) eps
    c^2 = eta^2 sigma'^2 / sigma^2 (sigma^2 - (alpha / alpha')^2 sigma'^2)

eta = 1 is the posterior q(x' | x, x_0): DDPM's on a variance preserving path (Song et al., arXiv 2010.02502, eq. 12 and
16), first-order SDE-DPM-Solver++ on any (Lu et al., arXiv 2211.01095). eta = 0 is the ODE: DDIM, and Euler's step on a
straight path.
T kept steps, index 0 the noisiest; B images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""denoise(x_BCHW, t_B): what the network predicts in x at time steps t, guided, in the dtype of x."""

Prediction = Literal["epsilon", "sample", "v_prediction", "flow"]

Linear = tuple[Tensor, Tensor]
"""Factors of x and of the network's output."""


@dataclass(frozen=True, kw_only=True)
class Path:
    """The kept steps of one reverse process. Its factors are float64, whatever the network runs in.

    Attributes:
        t_T: what the network is conditioned on, descending: int64 time steps, or float32 where its time is continuous.
        alpha_T, sigma_T: float64 [T], of x at each step; alpha in [0, 1), sigma in (0, 1].
        alpha_next_T, sigma_next_T: float64 [T], of the next, cleaner one; 1 and 0 at the last, which lands on x_0.
        prediction: what the network gives.
        eta: noise of a step, 0 (none, the ODE) to 1 (the posterior's).
        drawn_T: alpha and sigma that an inversion draws x at, where they are not those of the step.
    """

    t_T: Tensor
    alpha_T: Tensor
    sigma_T: Tensor
    alpha_next_T: Tensor
    sigma_next_T: Tensor
    prediction: Prediction = "epsilon"
    eta: float = 1.0
    drawn_T: Linear | None = None

    def __post_init__(self) -> None:
        ends = (self.alpha_T, self.sigma_T, self.alpha_next_T, self.sigma_next_T)
        assert all(len(end_T) == len(self.t_T) > 0 for end_T in ends)
        assert bool((self.sigma_T > 0).all())
        if self.prediction == "epsilon" and not bool((self.alpha_T > 0).all()):
            raise ValueError(
                "inversion.skip: too small, the noisiest kept step holds no signal, and the noise that is "
                "predicted there says nothing of the picture"
            )

    def __len__(self) -> int:
        return len(self.t_T)

    @cached_property
    def deviation_T(self) -> Tensor:
        """c of each step, float64 [T]; 0 at the last."""
        alpha, sigma, alpha_next, sigma_next = (
            self.alpha_T,
            self.sigma_T,
            self.alpha_next_T,
            self.sigma_next_T,
        )
        left = sigma**2 - (alpha / alpha_next) ** 2 * sigma_next**2
        return self.eta * sigma_next / sigma * left.clamp(min=0).sqrt()

    @cached_property
    def log_snr_T(self) -> Tensor:
        """lambda = log(alpha / sigma) of each step, float64 [T]; -inf where there is no signal."""
        return (self.alpha_T / self.sigma_T).log()

    @cached_property
    def _clean(self) -> Linear:
        return clean_of(self.prediction, self.alpha_T, self.sigma_T)

    @cached_property
    def _mean(self) -> Linear:
        """The whole of mu, gathered in float64 into one factor for x and one for the output."""
        direction = (self.sigma_next_T**2 - self.deviation_T**2).clamp(min=0).sqrt()
        noise = noise_of(self.prediction, self.alpha_T, self.sigma_T)
        of_x, of_out = (
            self.alpha_next_T * of_clean + direction * of_noise
            for of_clean, of_noise in zip(self._clean, noise, strict=True)
        )
        return of_x, of_out

    def noised(self, x_0: Tensor, noise: Tensor) -> Tensor:
        """x_t of every step, drawn straight from x_0 [B, ...] with noise [T, B, ...]."""
        alpha_T, sigma_T = self.drawn_T or (self.alpha_T, self.sigma_T)
        return broadcast(alpha_T, noise) * x_0 + broadcast(sigma_T, noise) * noise

    def clean(self, x: Tensor, out: Tensor, i: int | None = None) -> Tensor:
        """x_0 that the network sees in x: of step i, [B, ...]; or of all steps, [T, B, ...]."""
        return _applied(self._clean, x, out, i)

    def mean(self, x: Tensor, out: Tensor, i: int | None = None) -> Tensor:
        """mu of the x that comes after x: of step i, [B, ...]; or of all steps, [T, B, ...]."""
        return _applied(self._mean, x, out, i)

    def posterior_mean(self, x: Tensor, x_0: Tensor, i: int) -> Tensor:
        """The mean of q(x' | x, x_0) of step i: what ``mean`` is with eta = 1, of an x_0 that may be clipped."""
        share = self.alpha_T[i] / self.alpha_next_T[i]
        kept = share * (self.sigma_next_T[i] / self.sigma_T[i]) ** 2
        of_x_0 = self.alpha_next_T[i] - kept * self.alpha_T[i]
        return kept.to(x) * x + of_x_0.to(x) * x_0


def _applied(factors: Linear, x: Tensor, out: Tensor, i: int | None) -> Tensor:
    of_x, of_out = (broadcast(f_T, x) if i is None else f_T[i].to(x) for f_T in factors)
    return of_x * x + of_out * out


def broadcast(factor_T: Tensor, x_T: Tensor) -> Tensor:
    """A factor of each step, in the dtype and on the device of what it is multiplied with, [T, ...]."""
    return factor_T.to(x_T).view(-1, *[1] * (x_T.dim() - 1))


def clean_of(prediction: str, alpha: Tensor, sigma: Tensor) -> Linear:
    """x_0 from x and a network's output: the factors of both, in the shape of alpha and sigma."""
    if prediction == "epsilon":
        return 1 / alpha, -sigma / alpha
    if prediction == "sample":
        return torch.zeros_like(alpha), torch.ones_like(alpha)
    return (alpha if prediction == "v_prediction" else torch.ones_like(alpha)), -sigma


def noise_of(prediction: str, alpha: Tensor, sigma: Tensor) -> Linear:
    """eps, in the same way; the alpha of a flow is 1 - sigma."""
    if prediction == "epsilon":
        return torch.zeros_like(alpha), torch.ones_like(alpha)
    if prediction == "sample":
        return 1 / sigma, -alpha / sigma
    return (sigma if prediction == "v_prediction" else torch.ones_like(alpha)), alpha


def preserving_path(
    t_S: Tensor,
    alpha_bar: Tensor,
    skip: int = 0,
    prediction: Prediction = "epsilon",
    eta: float = 1.0,
    noise_shift: float = 0.0,
) -> Path:
    """The S time steps of a noise schedule, without its ``skip`` noisiest ones.

    Args:
        t_S: int64 [S], descending.
        alpha_bar: float [number of training steps].
        skip: 0 <= skip < S.
        noise_shift: 0 to 1, see diffusion.recipes.InversionRecipe.
    """
    t_T = t_S[skip:].cpu().long()
    a = torch.cat(
        [alpha_bar.cpu().double(), torch.ones(1, dtype=torch.float64)]
    )  # x_0 itself comes last, at -1
    a_T = a[t_T]
    path = _path(t_T, a_T.sqrt(), (1 - a_T).sqrt(), prediction, eta)
    t_drawn_T = torch.lerp(t_T.double(), torch.cat([t_T[1:], t_T.new_tensor([-1])]).double(), noise_shift)
    a_T = a[t_drawn_T.round().long()]
    return replace(path, drawn_T=(a_T.sqrt(), (1 - a_T).sqrt())) if noise_shift else path


def straight_path(
    sigma_S: Tensor,
    time: float,
    skip: int = 0,
    prediction: Prediction = "flow",
    eta: float = 1.0,
    noise_shift: float = 0.0,
) -> Path:
    """S levels of noise of a straight path, without the ``skip`` noisiest.

    Args:
        sigma_S: float64 [S], descending, in (0, 1].
        time: the network is conditioned on sigma times this.
        skip: 0 <= skip < S.
        noise_shift: 0 to 1, see diffusion.recipes.InversionRecipe.
    """
    sigma_T = sigma_S[skip:].cpu().double()
    path = _path((time * sigma_T).float(), 1 - sigma_T, sigma_T, prediction, eta)
    sigma_T = torch.lerp(sigma_T, path.sigma_next_T, noise_shift)
    return replace(path, drawn_T=(1 - sigma_T, sigma_T)) if noise_shift else path


def _path(t_T: Tensor, alpha_T: Tensor, sigma_T: Tensor, prediction: Prediction, eta: float) -> Path:
    one = torch.ones(1, dtype=torch.float64)
    return Path(
        t_T=t_T,
        alpha_T=alpha_T,
        sigma_T=sigma_T,
        alpha_next_T=torch.cat([alpha_T[1:], one]),
        sigma_next_T=torch.cat([sigma_T[1:], 0 * one]),
        prediction=prediction,
        eta=eta,
    )


def even_sigmas(num_steps: int, shift: float = 1.0) -> Tensor:
    """Levels of noise from 1 down, evenly spaced, then moved towards 1: float64 [num_steps].

    Args:
        shift: sigma -> shift sigma / (1 + (shift - 1) sigma), as diffusers' flow schedulers have it.
    """
    sigma_S = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)[:-1]
    return shift * sigma_S / (1 + (shift - 1) * sigma_S)
