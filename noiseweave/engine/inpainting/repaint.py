"""RePaint: any diffusion model fills holes (Lugmayr et al., CVPR 2022, arXiv 2201.09865).

x is what the network sees, pixels or latents, [B, C, H, W]. T kept steps; a level counts the steps that are left:
T is the noisiest, 0 clean. a is alpha_bar.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from noiseweave.engine import spans
from noiseweave.engine.diffusion.path import Schedule

DrawNoise = Callable[[], Tensor]
"""draw() -> fresh standard normal noise, in the shape of x."""
Believe = Callable[[Tensor, Tensor, Tensor], Tensor]
"""believe(x, t, a) -> the x_0 that the network sees in x at time step t, where alpha_bar is a."""


def repaint(
    believe: Believe,
    s: Schedule,
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
        levels: of ``repaint_levels(len(s), ...)``.

    Returns:
        [B, C, H, W], ``known`` itself outside the hole.
    """
    a_L = torch.cat([torch.ones(1, dtype=torch.float64), s.a_T.flip(0)])  # alpha_bar of each level

    def noised(x: Tensor, a: Tensor, a_to: Tensor) -> Tensor:  # q(x_to | x), to a noisier level
        return (a_to / a).sqrt() * x + (1 - a_to / a).sqrt() * draw()

    x = noised(torch.where(hole, inside, known), a_L[0], a_L[-1])
    for level, to in spans.steps(list(pairwise(levels))):
        a, a_to = a_L[level], a_L[to]
        if to > level:  # line 10: a jump back
            x = noised(x, a, a_to)
            continue
        x_0 = believe(x, s.t_T[len(s) - level], a)
        # eq. 8b: the posterior of DDPM (arXiv 2006.11239, eq. 7), from x_0 and x
        mean = a_to.sqrt() * (1 - a / a_to) / (1 - a) * x_0 + (a / a_to).sqrt() * (1 - a_to) / (1 - a) * x
        sigma = ((1 - a_to) / (1 - a) * (1 - a / a_to)).sqrt()
        noise = draw()  # serves both: a pixel is either known or not
        # eq. 8a and 8c
        x = torch.where(hole, mean + sigma * noise, a_to.sqrt() * known + (1 - a_to).sqrt() * noise)
    return x
