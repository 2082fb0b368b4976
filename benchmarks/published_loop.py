"""Edit-friendly DDPM inversion as its public code runs it (github.com/inbarhub/DDPM_inversion, arXiv 2304.06140).

One picture, one time step and one half of the guidance a call. The inversion evaluates every step of the chain, and
the noisiest ones are dropped after it. The last step's z is set to 0. Left out is what has no effect on the
result: the correction of x_{t-1} by its own z, and the record of the attention maps.

Letters: S steps of the whole chain, index 0 the noisiest; a is alpha_bar at a step, a_prev at the next cleaner one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from noiseweave.engine.diffusion.path import Denoiser
from noiseweave.engine.networks.latent_backbone import LatentBackbone, Words


def halves_apart(model: LatentBackbone, words: Words, guidance: float) -> Denoiser:
    """epsilon(x, t): a call without the words, then one with them."""
    pair = words.unconditional["prompt_embeds"], words.conditional["prompt_embeds"]

    @torch.inference_mode()
    def epsilon(x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        x, t = x_BCHW.to(model.dtype), t_B.to(model.device)
        unconditional, told = (
            model.unet(x, t, encoder_hidden_states=w, return_dict=False)[0].float() for w in pair
        )
        assert model.prediction == "epsilon"
        return unconditional + guidance * (told - unconditional)

    return epsilon


def steps(scheduler: Any, num_steps: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(t, a, a_prev) of the whole chain."""
    scheduler.set_timesteps(num_steps)
    stride = scheduler.config.num_train_timesteps // num_steps
    for t in scheduler.timesteps:
        last = t - stride < 0
        a_prev = scheduler.final_alpha_cumprod if last else scheduler.alphas_cumprod[t - stride]
        yield t, scheduler.alphas_cumprod[t], a_prev


def variance(a: Tensor, a_prev: Tensor) -> Tensor:
    return (1 - a_prev) / (1 - a) * (1 - a / a_prev)


def mean(x: Tensor, e: Tensor, a: Tensor, a_prev: Tensor) -> Tensor:
    """mu_t, eq. 12 of DDIM (arXiv 2010.02502) with eta = 1."""
    x_0 = (x - (1 - a) ** 0.5 * e) / a**0.5
    return a_prev**0.5 * x_0 + (1 - a_prev - variance(a, a_prev)) ** 0.5 * e


def invert(
    epsilon: Denoiser,
    scheduler: Any,
    x_0_CHW: Tensor,
    noise_SCHW: Tensor,
    skip: int,
    whole_chain: bool = True,
    last: bool = False,
) -> tuple[Tensor, Tensor]:
    """One picture -> x_T [C, H, W] at the noisiest kept step, z [S - skip, C, H, W].

    Args:
        noise_SCHW: standard normal, of every step of the chain.
        whole_chain: evaluate the steps before ``skip`` too, to drop them.
        last: keep the last step's z too, which the public code does not.
    """
    chain = list(steps(scheduler, len(noise_SCHW)))
    x = [a**0.5 * x_0_CHW + (1 - a) ** 0.5 * n for (_, a, _), n in zip(chain, noise_SCHW, strict=True)]
    x.append(x_0_CHW)
    z = torch.zeros_like(noise_SCHW)
    for i in reversed(range(0 if whole_chain else skip, len(chain))):
        t, a, a_prev = chain[i]
        mu = mean(x[i][None], epsilon(x[i][None], t[None]), a, a_prev)[0]
        z[i] = (x[i + 1] - mu) / variance(a, a_prev) ** 0.5
    if not last:
        z[-1] = 0
    return x[skip], z[skip:]


def replay(epsilon: Denoiser, scheduler: Any, num_steps: int, x_T_CHW: Tensor, z_TCHW: Tensor) -> Tensor:
    """One picture's x_T and z -> its latents, [1, C, H, W]."""
    x = x_T_CHW[None]
    for (t, a, a_prev), z in zip(list(steps(scheduler, num_steps))[-len(z_TCHW) :], z_TCHW, strict=True):
        x = mean(x, epsilon(x, t[None]), a, a_prev) + variance(a, a_prev) ** 0.5 * z
    return x
