"""A perceptual hash: near-duplicates have nearly the same, however they were encoded, resized or slightly edited."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import fft

SIDE, KEPT = 32, 8


def perceptual_hash(image_HWC: np.ndarray) -> int:
    """64 bits: whether each of the 8 x 8 slowest DCT coefficients of the grey picture at 32 x 32 is above their median.

    pHash (Zauner 2010).

    Args:
        image_HWC: uint8, C 1 or 3.
    """
    grey = image_HWC.astype(np.float32).mean(-1)
    small = np.asarray(Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
    slow = fft.dctn(small)[:KEPT, :KEPT].round(3).ravel()  # what is 0 in a flat picture is 0 on any machine
    bits = slow > np.median(slow)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def perceptual_hashes(image_NHWC: np.ndarray) -> np.ndarray:
    """uint64 [N], of each."""
    return np.array([perceptual_hash(image) for image in image_NHWC], np.uint64)
