"""Noise maps -> pictures: the reverse process with the noise given instead of drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from noiseweave.engine import spans
from noiseweave.engine.records import NoiseMaps
from noiseweave.engine.schedule import Denoiser, Schedule, mean


def replay(epsilon: Denoiser, s: Schedule, maps: list[NoiseMaps]) -> Tensor:
    """x_{t-1} = mu_t(x_t) + r_t from the noisiest kept step down to x_0 (eq. 4 of arXiv 2304.06140).

    Returns:
        float [B, C, H, W] in the model's clean space, one for each of the B maps.

    Raises:
        ValueError: maps of other time steps than the schedule's.
    """
    x_BCHW = first(s, maps)
    for i, t in spans.steps(list(enumerate(s.t_T.tolist()))):
        t_B = torch.full((len(maps),), t, device=x_BCHW.device)
        r_BCHW = torch.stack([m.residual_TCHW[i] for m in maps])
        a, a_prev = s.a_T[i].to(x_BCHW.device), s.a_prev_T[i].to(x_BCHW.device)
        x_BCHW = mean(x_BCHW, epsilon(x_BCHW, t_B), a, a_prev) + r_BCHW
    return x_BCHW


def first(s: Schedule, maps: list[NoiseMaps]) -> Tensor:
    """x_T of every map, [B, C, H, W]; ValueError when one is of other time steps than the schedule's."""
    if any(not torch.equal(m.timesteps_T, s.t_T) for m in maps):
        raise ValueError("noise maps: made with other time steps than this schedule has")
    return torch.stack([m.x_T_CHW for m in maps])
