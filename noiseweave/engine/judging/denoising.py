"""How much of a picture its diffusion model does not see through noise: high where the model knows no such picture.

A picture x_0 gets noise at a few levels, x = alpha x_0 + sigma eps, and the network says which x_0 it sees in x. The
figure is the error of that over the picture's own variance,

    ||x_0^ - x_0||^2 / ||x_0 - mean(x_0)||^2

the mean of each channel taken off. The bare error does not serve: it is smallest for pictures with little in them, so
the pixel mean of two photos, with half of their contrast, would look better than either. Levels are ratios
sigma / alpha, so that they mean the same on any path; the noise is the same for every picture, so that pictures can be
compared.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine.diffusion.path import clean_of
from noiseweave.engine.networks import paths
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.seeding import generator

RATIOS = (0.25, 0.67)
"""Noise over signal. With less the picture shows through; with more a model sees its class's usual picture in it."""


def unexplained(backbone: Backbone, image_BHWC: np.ndarray) -> np.ndarray:
    """The figure of each picture, the geometric mean of RATIOS: float32 [B], about 0 (all is seen) to 1 and above.

    Args:
        image_BHWC: uint8, at the model's size. The network is not conditioned on anything.
    """
    x_0_BCHW = backbone.encode(image_BHWC).float()
    spread_B = (x_0_BCHW - x_0_BCHW.mean((2, 3), keepdim=True)).square().flatten(1).sum(1)
    shares = [_error(backbone, x_0_BCHW, ratio) / spread_B.clamp(min=1e-6) for ratio in RATIOS]
    return torch.stack(shares).clamp(min=1e-6).log().mean(0).exp().cpu().numpy()


def _error(backbone: Backbone, x_0_BCHW: Tensor, ratio: float) -> Tensor:
    """||x_0^ - x_0||^2 at a level, float32 [B]."""
    t, alpha, sigma = paths.noise_ratio(backbone.scheduler, ratio)
    noise_CHW = torch.randn(tuple(x_0_BCHW.shape[1:]), generator=generator(0, "denoising", ratio))
    x_BCHW = alpha.to(x_0_BCHW) * x_0_BCHW + sigma.to(x_0_BCHW) * noise_CHW.to(x_0_BCHW)
    out_BCHW = backbone.denoise(x_BCHW, torch.full((len(x_BCHW),), t, device=backbone.device))
    of_x, of_out = clean_of(backbone.prediction, alpha, sigma)
    seen_BCHW = of_x.to(x_BCHW) * x_BCHW + of_out.to(x_BCHW) * out_BCHW
    return (seen_BCHW - x_0_BCHW).square().flatten(1).sum(1)
