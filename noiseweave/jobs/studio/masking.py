"""Masks that are painted on a page: over a picture of the screen's size, brought to the picture's own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

import numpy as np
from PIL import Image

from noiseweave.cluster import storage
from noiseweave.engine import formats
from noiseweave.engine.pictures import files, images, masks
from noiseweave.engine.pictures.masks import MaskMode
from noiseweave.jobs.studio.config import Config

SIDES = (256, 1024)
"""The longer side of what is painted on: a smaller picture is enlarged by a whole number, a larger one shrunk."""


def painted_on(image_HWC: np.ndarray) -> np.ndarray:
    """uint8 [H, W, C] -> [h, w, C], what a person paints on."""
    height, width = image_HWC.shape[:2]
    h, w = size_painted_on(height, width)
    if h > height:
        return np.kron(image_HWC, np.ones((h // height, h // height, 1), np.uint8))
    shown = Image.fromarray(image_HWC[..., 0] if image_HWC.shape[-1] == 1 else image_HWC)
    shown = shown.resize((w, h), Image.Resampling.LANCZOS) if h < height else shown
    return np.asarray(shown).reshape(h, w, -1)


def size_painted_on(height: int, width: int) -> tuple[int, int]:
    """(h, w) that a picture of a size is painted on at."""
    least, most = SIDES
    if (long := max(height, width)) > most:
        return max(1, round(height * most / long)), max(1, round(width * most / long))
    grow = -(-least // long)
    return height * grow, width * grow


def strokes(layers: Sequence[bytes], size: tuple[int, int]) -> np.ndarray:
    """bool [h, w]: where any layer is painted; one of another size is of another picture, and is left out.

    Raises:
        ValueError: ``"reason: detail"``: a layer is no picture.
    """
    painted_HW = np.zeros(size, bool)
    for data in layers:
        layer_HW4 = np.asarray(files.opened(data, images.MAX_PIXELS, smallest=1).image.convert("RGBA"))
        if layer_HW4.shape[:2] == size:
            painted_HW |= layer_HW4[..., 3] >= masks.THRESHOLD
    return painted_HW


def mask_of(
    upload: bytes | None, painted_HW: np.ndarray, mode: MaskMode, size: tuple[int, int], max_pixels: int
) -> bytes | None:
    """The file of a mask: the upload as it is, or a PNG of what is painted, added to it; None where there is neither.

    Args:
        painted_HW: bool, as of ``strokes``.
        mode: the colour of the hole, in both.
        size: (H, W) of the picture.

    Raises:
        ValueError: as of ``masks.hole_of``.
    """
    if not painted_HW.any():
        return upload
    small = Image.fromarray(painted_HW.astype(np.uint8))
    hole_HW = np.asarray(small.resize(size[::-1], Image.Resampling.NEAREST)).astype(bool)
    if upload is not None:
        hole_HW = hole_HW | masks.hole_of(upload, mode, size, max_pixels)
    return encoded(hole_HW, mode)


def encoded(hole_HW: np.ndarray, mode: MaskMode = "white") -> bytes:
    """bool [H, W] -> a PNG, the hole in a colour."""
    return images.encode(np.where(hole_HW == (mode == "white"), 255, 0).astype(np.uint8)[..., None])


def name_of(data: bytes) -> str:
    """What a file is saved as: by its content."""
    return f"{hashlib.sha256(data).hexdigest()[:16]}.{formats.extension_of(data) or 'png'}"


def place_of(config: Config, data: bytes) -> str:
    """Where an upload, or what is painted, is saved: below the output."""
    return storage.join(config.output, "pictures", name_of(data))


def stem_of(name: str) -> tuple[str, str]:
    """A file's name without its extension, and that in lower case without the dot."""
    stem, extension = os.path.splitext(os.path.basename(name))
    return stem, extension[1:].lower()
