"""Noise maps of several pictures -> one map that holds something of each.

Every mode is one rule: how much of the second picture at each place of the map. With two pictures and
``ratio`` rho the weights are (1 - rho, rho). A mode turns rho into a weight w of the second picture, with

    w = 0 at rho = 0,  w = 1 at rho = 1,  continuous and never falling in rho.

So N pictures with weights w_1..w_N need no rule of their own: the tail weight c_n = w_{n+1} + .. + w_N goes
through the same curve f, and picture n gets f(c_{n-1}) - f(c_n), which is never negative and sums to 1.

u is the place in time: 0 at the noisiest kept step, 1 at the cleanest. x_T counts as u = 0.
Letters: N pictures, T kept steps, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from noiseweave.engine.fusion.recipes import MODES, Mode
from noiseweave.engine.records import NoiseMaps

SHARPNESS = 4.0  # of the selective modes: share of the stronger one is 1 / (1 + (weak / strong)^4)
BOUND = (
    8.0  # strength counts from 1 / BOUND to BOUND: a share moves at most BOUND^2 times as fast as its ratio
)


def fuse(
    maps: Sequence[NoiseMaps], weights: Sequence[float], mode: Mode, keep_spread: bool = True
) -> NoiseMaps:
    """Fuse the maps of N >= 2 pictures.

    Args:
        maps: of one model, one schedule and one shape.
        weights: N numbers >= 0 with a sum above 0; they are normalised. For two pictures: (1 - ratio, ratio).
        mode: linear, cross_fade, feature_selective or layer_selective.
        keep_spread: scale each step about its mean to the standard deviation interpolated from its parents.

    Raises:
        ValueError: an unknown mode, fewer than two maps, weights that do not fit, or maps of other steps.
    """
    w_N = _check(maps, weights, mode)
    T = len(maps[0].timesteps_T)
    x_NCHW = torch.stack([m.x_T_CHW for m in maps])
    r_NTCHW = torch.stack([m.residual_TCHW for m in maps])
    x_CHW = _mix(x_NCHW, w_N, mode, 0.0, keep_spread)
    places = [i / (T - 1) if T > 1 else 0.5 for i in range(T)]
    r_TCHW = torch.stack([_mix(r_NTCHW[:, i], w_N, mode, u, keep_spread) for i, u in enumerate(places)])
    return NoiseMaps(x_T_CHW=x_CHW, residual_TCHW=r_TCHW, timesteps_T=maps[0].timesteps_T)


def _check(maps: Sequence[NoiseMaps], weights: Sequence[float], mode: str) -> list[float]:
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: one of {', '.join(MODES)}")
    if len(maps) < 2 or len(weights) != len(maps):
        raise ValueError(f"weights={list(weights)}: one for each of at least two pictures, here {len(maps)}")
    if min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise ValueError(f"weights={list(weights)}: numbers >= 0 with a sum above 0")
    if any(not torch.equal(m.timesteps_T, maps[0].timesteps_T) for m in maps):
        raise ValueError("noise maps: made with different time steps")
    return [w / sum(weights) for w in weights]


def _mix(z_NCHW: Tensor, w_N: list[float], mode: Mode, u: float, keep_spread: bool) -> Tensor:
    share_NCHW = shares(z_NCHW, w_N, mode, u)
    mixed_CHW = (share_NCHW * z_NCHW).sum(0)
    if not keep_spread:
        return mixed_CHW
    # a mean of independent maps is narrower than they are, a pick of the larger wider: undo both
    mean_share_N = share_NCHW.mean((1, 2, 3))
    target = (mean_share_N * z_NCHW.std((1, 2, 3), correction=0)).sum()
    spread, centre = mixed_CHW.std(correction=0), mixed_CHW.mean()
    return centre + (mixed_CHW - centre) * torch.where(spread > 0, target / spread, torch.ones_like(spread))


def shares(z_NCHW: Tensor, w_N: list[float], mode: Mode, u: float) -> Tensor:
    """Share of each picture at each place of one step: [N, C, H, W] or broadcast to it, >= 0, sum 1."""
    match mode:
        case "linear":
            return _curve(z_NCHW, w_N, lambda rho: rho)
        case "cross_fade":
            return _curve(z_NCHW, w_N, lambda rho: cross_fade(rho, u))
        case "feature_selective":
            return _by_strength(local_energy(z_NCHW), _curve(z_NCHW, w_N, lambda rho: rho))
        case "layer_selective" if u < 1 / 3:  # structure leans to the first
            return _curve(z_NCHW, w_N, lambda rho: rho**2)
        case "layer_selective" if u <= 2 / 3:
            return _curve(z_NCHW, w_N, lambda rho: rho)
        case _:  # texture leans to the second, and to the larger magnitude
            return _by_strength(z_NCHW.square(), _curve(z_NCHW, w_N, lambda rho: 1 - (1 - rho) ** 2))


def cross_fade(rho: float, u: float) -> float:
    """From the first picture at u = 0 towards the second at u = 1; its mean over u is rho."""
    return rho + 2 * min(rho, 1 - rho) * (u - 0.5)


def _curve(z_NCHW: Tensor, w_N: list[float], f: Callable[[float], float]) -> Tensor:
    """Weights through the curve f of the tail weights: [N, 1, 1, 1]."""
    tails = [f(min(1.0, max(0.0, sum(w_N[n:])))) for n in range(1, len(w_N))]
    bounds = [1.0, *tails, 0.0]
    shares_N = [max(0.0, upper - lower) for upper, lower in pairwise(bounds)]
    return torch.tensor(shares_N, dtype=z_NCHW.dtype, device=z_NCHW.device).view(-1, 1, 1, 1)


def _by_strength(energy_NCHW: Tensor, w_N111: Tensor) -> Tensor:
    """Soft choice of the strongest: share_n ~ w_n * strength_n^SHARPNESS, where energy = strength^2.

    Strength is relative to the picture's own mean at this step and not to the others: so a picture of weight
    0 changes nothing, and shares are monotone in the ratio.
    """
    own_N111 = energy_NCHW.mean((1, 2, 3), keepdim=True).clamp(min=torch.finfo(energy_NCHW.dtype).tiny)
    score = w_N111 * (energy_NCHW / own_N111).pow(SHARPNESS / 2).clamp(1 / BOUND, BOUND)
    return score / score.sum(0, keepdim=True)


def local_energy(z_NCHW: Tensor) -> Tensor:
    """Mean square over channels and a 3 x 3 neighbourhood, [N, 1, H, W]: where a picture has a feature."""
    energy_N1HW = z_NCHW.square().mean(1, keepdim=True)
    return F.avg_pool2d(energy_N1HW, 3, stride=1, padding=1, count_include_pad=False)
