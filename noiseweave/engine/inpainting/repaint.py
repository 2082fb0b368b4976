"""RePaint: any diffusion model fills holes (Lugmayr et al., CVPR 2022, arXiv 2201.09865).

x is what the network sees, pixels or latents, [B, C, H, W]. T kept steps; a level counts the steps that are left:
T is the noisiest, 0 clean. On any Gaussian path x_t = alpha x_0 + sigma eps (diffusion/path.py); the paper's is the
variance preserving one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from noiseweave.engine import spans
from noiseweave.engine.diffusion.path import Path

DrawNoise = Callable[[], Tensor]
"""draw() -> fresh standard normal noise, in the shape of x."""
Believe = Callable[[Tensor, int], Tensor]
"""believe(x, i) -> the x_0 that the network sees in x at step i of the path."""


def repaint(
    believe: Believe,
    path: Path,
    known: Tensor,
    hole: Tensor,
    inside: Tensor,
    levels: Sequence[int],
    draw: DrawNoise,
) -> Tensor:
    """RePaint, algorithm 1 of arXiv 2201.09865: what is known is put back, noised, after each step.

    diffusers' RePaintScheduler has the same step, but on a schedule of fewer steps than the model's its undo_step
    ends nearly a step too noisy for the time that the model is conditioned on.

    Args:
        known: [B, C, H, W], clean; its values inside the hole are not used.
        hole: bool, broadcast against known.
        inside: [B, C, H, W], clean, what the hole starts from, noised; zeros where it starts from nothing.
        levels: of ``repaint_levels(len(path), ...)``.

    Returns:
        [B, C, H, W], ``known`` itself outside the hole.
    """
    one = torch.ones(1, dtype=torch.float64)
    alpha_L, sigma_L = torch.cat([one, path.alpha_T.flip(0)]), torch.cat([0 * one, path.sigma_T.flip(0)])

    def noised(x: Tensor, level: int, to: int) -> Tensor:  # q(x_to | x), to a noisier level
        share = alpha_L[to] / alpha_L[level]
        fresh = (sigma_L[to] ** 2 - share**2 * sigma_L[level] ** 2).sqrt()
        return share.to(x) * x + fresh.to(x) * draw()

    x = noised(torch.where(hole, inside, known), 0, levels[0])
    for level, to in spans.steps(list(pairwise(levels))):
        if to > level:  # line 10: a jump back
            x = noised(x, level, to)
            continue
        i = len(path) - level
        mean, noise = (
            path.posterior_mean(x, believe(x, i), i),
            draw(),
        )  # serves both: a pixel is either known or not
        # eq. 8a and 8c
        seen = alpha_L[to].to(x) * known + sigma_L[to].to(x) * noise
        x = torch.where(hole, mean + path.deviation_T[i].to(x) * noise, seen)
    return x
