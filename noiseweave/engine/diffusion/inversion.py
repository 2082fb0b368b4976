"""Edit-friendly inversion: a picture -> its noise maps, on any Gaussian path.

Huberman-Spiegelglas, Kulikov, Michaeli: An Edit Friendly DDPM Noise Space, CVPR 2024 (arXiv 2304.06140). On a straight
path the same construction has the mean of that path (diffusion/path.py).
Letters: B images, T kept steps (index 0 the noisiest), C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from noiseweave.engine import spans
from noiseweave.engine.diffusion.path import Denoiser, Path
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.records import NoiseMaps
from noiseweave.engine.seeding import generator


def invert(denoise: Denoiser, path: Path, x_0_BCHW: Tensor, noise_TBCHW: Tensor) -> list[NoiseMaps]:
    """Invert B pictures: the residual r_t = x_{t-1} - mu_t(x_t) of every kept step.

    Every x_t is drawn straight from x_0 (eq. 6 of the paper), so all T * B network inputs are known at once
    and go through ``denoise`` as one batch. Skipped steps are never evaluated. The paper keeps
    z_t = r_t / sigma_t (eq. 5); the whole residual also holds what is left at the last step, where sigma
    is 0.

    Args:
        denoise: the network; it may split the batch as memory wants.
        x_0_BCHW: float [B, C, H, W], the model's clean space (-1..1 for pixels).
        noise_TBCHW: float [T, B, C, H, W], independent standard normal for each step.
    """
    x_TBCHW, x_next_TBCHW, out_TBCHW = predicted_chain(denoise, path, x_0_BCHW, noise_TBCHW)
    return maps_of(path, x_TBCHW, x_next_TBCHW - path.mean(x_TBCHW, out_TBCHW))


def predicted_chain(
    denoise: Denoiser, path: Path, x_0_BCHW: Tensor, noise_TBCHW: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Every x_t, drawn straight from x_0; the x_{t-1} after each; what the network gives in each: [T, B, C, H, W]."""
    x_TBCHW = path.noised(x_0_BCHW, noise_TBCHW)
    t_TB = path.t_T.to(x_0_BCHW.device)[:, None].expand(-1, len(x_0_BCHW))
    out_TBCHW = denoise(x_TBCHW.flatten(0, 1), t_TB.flatten()).unflatten(0, t_TB.shape)
    return x_TBCHW, torch.cat([x_TBCHW[1:], x_0_BCHW[None]]), out_TBCHW


def maps_of(path: Path, x_TBCHW: Tensor, r_TBCHW: Tensor) -> list[NoiseMaps]:
    """The chain and its residuals, one NoiseMaps for each of the B pictures."""
    return [
        NoiseMaps(x_T_CHW=x_TBCHW[0, b], residual_TCHW=r_TBCHW[:, b], timesteps_T=path.t_T)
        for b in range(x_TBCHW.shape[1])
    ]


def draw_noise(recipe: InversionRecipe, steps: int, shape: tuple[int, ...], seed: int, key: str) -> Tensor:
    """float32 [steps, C, H, W]: the noise of one image, from (seed, key), or of all of them when shared.

    Drawn step by step from the clean end, so that a smaller ``skip`` adds noise and changes none.
    """
    g = generator(seed, "x_t", "" if recipe.noise == "shared" else key)
    return torch.stack([torch.randn(shape, generator=g) for _ in range(steps)]).flip(0)


def replay(denoise: Denoiser, path: Path, maps: list[NoiseMaps]) -> Tensor:
    """x_{t-1} = mu_t(x_t) + r_t from the noisiest kept step down to x_0 (eq. 4 of arXiv 2304.06140).

    Returns:
        float [B, C, H, W] in the model's clean space, one for each of the B maps.

    Raises:
        ValueError: maps of other time steps than the path's.
    """
    x_BCHW = first(path, maps)
    for i, t in spans.steps(list(enumerate(path.t_T.tolist()))):
        t_B = torch.full((len(maps),), t, device=x_BCHW.device)
        r_BCHW = torch.stack([m.residual_TCHW[i] for m in maps])
        x_BCHW = path.mean(x_BCHW, denoise(x_BCHW, t_B), i) + r_BCHW
    return x_BCHW


def first(path: Path, maps: list[NoiseMaps]) -> Tensor:
    """x_T of every map, [B, C, H, W]; ValueError when one is of other time steps than the path's."""
    if any(not torch.equal(m.timesteps_T, path.t_T) for m in maps):
        raise ValueError("noise maps: made with other time steps than this path has")
    return torch.stack([m.x_T_CHW for m in maps])
