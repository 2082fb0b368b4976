"""How exactly inversion and replay give pictures back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from noiseweave.engine.diffusion.dpm_solver import SOLVERS
from noiseweave.engine.diffusion.path import Path
from noiseweave.engine.diffusion.recipes import InversionRecipe, SolverName
from noiseweave.engine.fusion import groups
from noiseweave.engine.judging.pair_metrics import Trio
from noiseweave.engine.judging.picture_metrics import decibels
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.networks.recipes import PromptRecipe, Prompts
from noiseweave.engine.records import NoiseMaps

if TYPE_CHECKING:
    from noiseweave.engine.networks.backbone import Backbone


def reconstruct(
    model: Backbone,
    image_BHWC: np.ndarray,
    keys: Sequence[str],
    recipe: InversionRecipe,
    seed: int,
    words: bool,
) -> tuple[list[Trio], dict[str, float]]:
    """Each picture beside what it comes back as; key -> PSNR in dB before decoding.

    The peak is 2 for pixels in -1..1, and what a latent picture spans for latents.
    """
    from noiseweave.engine.diffusion import dpm_solver
    from noiseweave.engine.fusion import groups
    from noiseweave.engine.judging import picture_metrics
    from noiseweave.engine.networks import backbone

    prompts = PromptRecipe().of([None] * len(keys), [None] * len(keys)) if words else None
    path, maps = groups.invert_pictures(model, image_BHWC, keys, recipe, seed, prompts)
    alone = [[(i, 1.0)] for i in range(len(keys))]
    x_BCHW = dpm_solver.SOLVERS[recipe.sampler].replay(
        groups.target_denoisers(model, prompts)(alone), path, maps
    )
    x_0_BCHW = model.encode(image_BHWC)
    error_B = (x_BCHW - x_0_BCHW).double().square().flatten(1).mean(1).tolist()
    latent = type(model) is not backbone.Backbone
    peaks = (x_0_BCHW.amax((1, 2, 3)) - x_0_BCHW.amin((1, 2, 3))).tolist() if latent else [2.0] * len(keys)
    image, _ = model.decoded(x_BCHW)
    trios = [
        Trio(key=k, picture_HWC=image[i], reference_HWC=image_BHWC[i], inside_HW=None)
        for i, k in enumerate(keys)
    ]
    spaces = {
        k: picture_metrics.decibels(e, p) for k, e, p in zip(keys, error_B, peaks, strict=True)
    }  # an error of exactly 0 does not come of floats
    return trios, spaces


def fidelity(
    model: Backbone,
    path: Path,
    maps: list[NoiseMaps],
    image_NHWC: np.ndarray,
    prompts: Prompts | None,
    solver: SolverName,
) -> list[float]:
    """PSNR in dB of each picture's plain invert -> replay, of values in -1..1; an exact one counts as 200.

    Of a latent model it is that of the latents: what the VAE loses is not in it.
    """
    again_NCHW = SOLVERS[solver].replay(groups.source_denoiser(model, prompts), path, maps)
    return psnr_of(again_NCHW.double() - model.encode(image_NHWC).double())


def psnr_of(error_NCHW: torch.Tensor) -> list[float]:
    """Error of values in -1..1, float [N, C, H, W] -> PSNR in dB of each picture, at most 200."""
    mse_N = error_NCHW.square().mean((1, 2, 3)).clamp(min=4e-20)
    return [round(decibels(mse, peak=2.0), 2) for mse in mse_N.tolist()]
