"""A part of a picture on its way to a model and back."""

from __future__ import annotations

import numpy as np
from PIL import Image

from noiseweave.engine.pictures import masks


def edge(part_HWC: np.ndarray, hole_HW: np.ndarray, feather: int) -> tuple[np.ndarray, np.ndarray]:
    """What the repair fades into, uint8 [H, W, C], and its weight, float32 [H, W].

    It is what lies around the hole, not the damage inside.
    """
    around = masks.filled(part_HWC, hole_HW) if feather else part_HWC
    return around, masks.feather(hole_HW, feather)


def repaired(around_HWC: np.ndarray, alpha_HW: np.ndarray, patch_HWC: np.ndarray) -> np.ndarray:
    """A part of a picture with the model's patch, brought to its size and channels, in its hole."""
    height, width, channels = around_HWC.shape
    patch = Image.fromarray(patch_HWC[..., 0] if patch_HWC.shape[-1] == 1 else patch_HWC)
    if patch.size != (width, height):
        patch = patch.resize((width, height), Image.Resampling.LANCZOS)
    paint_HWC = np.asarray(patch.convert("L" if channels == 1 else "RGB")).reshape(around_HWC.shape)
    return masks.compose(around_HWC, paint_HWC, alpha_HW)


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """To (height, width): area averages where it shrinks, linear where it grows."""
    if (image.height, image.width) == size:
        return image
    shrinks = size[0] <= image.height and size[1] <= image.width
    return image.resize(size[::-1], Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR)
