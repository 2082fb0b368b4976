"""Regional fusion: a mask says where the second picture shows.

Letters: K = 1 + T, x_T and the kept steps; C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from noiseweave.engine.fusion.modes import fuse
from noiseweave.engine.fusion.recipes import Mode, RegionRecipe
from noiseweave.engine.pictures import masks
from noiseweave.engine.records import NoiseMaps


def of_file(mask: bytes, size: int) -> Tensor:
    """A mask's file -> float32 [size, size] in 0..1, fitted as ``images.fit`` does with its picture.

    Raises:
        ValueError: as of ``masks.region``.
    """
    return torch.from_numpy(masks.region(mask, size) / np.float32(255))


def fuse_region(
    maps: Sequence[NoiseMaps], weights: Sequence[float], mode: Mode, mask_HW: Tensor, keep_spread: bool = True
) -> NoiseMaps:
    """The first picture where the mask is 0, the fusion of all where it is 1.

    With two pictures, w(mode, ratio) the share that ``fusion.fuse`` gives the second at a place: here it is
    mask * w. Ratio 1 is the second picture itself where the mask is 1, whatever the mode. N pictures with a
    mask each: ``blend`` them one after the other.

    Args:
        weights, mode, keep_spread: as of ``fusion.fuse``.
        mask_HW: as of ``blend``.

    Raises:
        ValueError: as of ``fusion.fuse`` and ``fit_mask``.
    """
    inside = fuse(maps, weights, mode, keep_spread)
    shown = [m for m, w in zip(maps, weights, strict=True) if w > 0]
    return blend(maps[0], shown[0] if len(shown) == 1 else inside, mask_HW, keep_spread)


def blend(first: NoiseMaps, second: NoiseMaps, mask_HW: Tensor, keep_spread: bool = True) -> NoiseMaps:
    """(1 - m) first + m second at every place and step, with the spread kept place by place.

    Where 0 < m < 1 a mean of two maps is narrower than they are. With their standard deviations s_1, s_2 and
    covariance c at this step, it is widened about its mean by

        ((1 - m) s_1 + m s_2) / sqrt((1 - m)^2 s_1^2 + m^2 s_2^2 + 2 m (1 - m) c),

    which is 1 where m is 0 or 1, so that each picture's own side stays exactly as it is. For a mask of one
    value it is the factor of ``fusion.fuse``.

    Args:
        first, second: of one model, one schedule and one shape.
        mask_HW: float [h, w] in 0..1, where the second shows; fitted to the map's size.
    """
    if not torch.equal(first.timesteps_T, second.timesteps_T):
        raise ValueError("noise maps: made with different time steps")
    z_1, z_2 = _steps(first), _steps(second)
    m = fit_mask(mask_HW, (int(z_1.shape[-2]), int(z_1.shape[-1]))).to(z_1)
    mixed_KCHW = (1 - m) * z_1 + m * z_2
    if keep_spread:
        centre_KCHW = (1 - m) * _mean(z_1) + m * _mean(z_2)
        mixed_KCHW = mixed_KCHW + (_gain(z_1, z_2, m) - 1) * (mixed_KCHW - centre_KCHW)
    return NoiseMaps(x_T_CHW=mixed_KCHW[0], residual_TCHW=mixed_KCHW[1:], timesteps_T=first.timesteps_T)


def _gain(z_1: Tensor, z_2: Tensor, m: Tensor) -> Tensor:
    s_1, s_2 = (z.std((1, 2, 3), correction=0, keepdim=True) for z in (z_1, z_2))
    c = _mean((z_1 - _mean(z_1)) * (z_2 - _mean(z_2)))
    c = torch.maximum(c, -s_1 * s_2 / 2)  # maps that cancel are not blown up more than twice
    target = (1 - m) * s_1 + m * s_2
    spread = (((1 - m) * s_1) ** 2 + (m * s_2) ** 2 + 2 * m * (1 - m) * c).sqrt()
    own = (m == 0) | (m == 1) | (spread == 0)
    return torch.where(own, torch.ones_like(spread), target / spread)


def _steps(maps: NoiseMaps) -> Tensor:
    return torch.cat([maps.x_T_CHW[None], maps.residual_TCHW])


def _mean(z_KCHW: Tensor) -> Tensor:
    return z_KCHW.mean((1, 2, 3), keepdim=True)


def fit_mask(mask_HW: Tensor, size: tuple[int, int]) -> Tensor:
    """float32 [H, W] in 0..1: the mask at a map's size, by anti-aliased bilinear interpolation.

    Raises:
        ValueError: it is no [h, w] of numbers in 0..1.
    """
    if mask_HW.dim() != 2 or mask_HW.numel() == 0:
        raise ValueError(f"region mask: shape {tuple(mask_HW.shape)}, but [height, width] is needed")
    mask_HW = mask_HW.float()
    if not bool(((mask_HW >= 0) & (mask_HW <= 1)).all()):
        raise ValueError("region mask: values outside 0..1")
    if mask_HW.shape == size:
        return mask_HW
    fitted = F.interpolate(mask_HW[None, None], size=size, mode="bilinear", antialias=True)[0, 0]
    return (fitted * 2**20).round().div(2**20).clamp(0, 1)  # so that 0.9999999, from rounding, is 1 again


def saliency(maps: NoiseMaps, smooth: float = 0.12) -> Tensor:
    """Where a picture's own noise is strong: float [H, W], 0 at its weakest place and 1 at its strongest.

        |z|(p) = mean over channels and the steps of the last third of |r_t(p)| / std(r_t)
        m = G * |z|,   saliency = (m - min m) / (max m - min m)

    r_t / std(r_t) stands for z_t = r_t / sigma_t: the same up to a factor of each step. A model that is sure
    of a place, as of a plain background, leaves less there than where it has to guess. No cross-attention.
    The last third, because there is the content: on 40 digits the map correlates with the ink at 0.58, that
    of the middle third at 0.06 and of the first at 0.04: noise (0.63, 0.37 and 0.00 with shared noise).

    Args:
        smooth: standard deviation of the Gaussian G, as a share of the shorter side.
    """
    r_TCHW = maps.residual_TCHW
    last = r_TCHW[2 * len(r_TCHW) // 3 :]
    scale = last.std((1, 2, 3), correction=0, keepdim=True).clamp(min=torch.finfo(r_TCHW.dtype).tiny)
    m_HW = blur((last.abs() / scale).mean((0, 1)), smooth * min(r_TCHW.shape[-2:]))
    low, high = m_HW.min(), m_HW.max()
    return (m_HW - low) / (high - low) if high > low else torch.ones_like(m_HW)


def blur(x: Tensor, sigma: float) -> Tensor:
    """A Gaussian of ``sigma`` pixels over the last two axes; at the border its weights inside sum to 1."""

    def weights(n: int) -> Tensor:
        i = torch.arange(n, dtype=x.dtype, device=x.device)
        return torch.softmax(-((i[:, None] - i) ** 2) / (2 * sigma**2), 1)

    return weights(x.shape[-2]) @ x @ weights(x.shape[-1]).T


def where_second_shows(
    region: RegionRecipe, maps: Sequence[NoiseMaps], mask_HW: torch.Tensor | None
) -> torch.Tensor | None:
    """Where the second picture shows: the file's mask, the second's saliency, or None for everywhere."""
    return saliency(maps[1], region.smooth) if region.source == "saliency" else mask_HW
