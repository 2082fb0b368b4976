"""Pictures of any aspect cut to a few sizes; a picture and its hole are cut alike. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from noiseweave.engine import seeding

Size = tuple[int, int]
"""(height, width) in pixels."""
LONGEST = 2.0  # aspect of the longest bucket


def buckets(size: int, multiple: int) -> list[Size]:
    """The sizes that pictures are cut to: at most size x size pixels, sides multiples of ``multiple``.

    For each height the widest that fits, aspects from 1:2 to 2:1.

    Raises:
        ValueError: size is no multiple of ``multiple``.
    """
    if size < multiple or size % multiple:
        raise ValueError(
            f"data.size={size}: a multiple of {multiple}, as the model's network halves its sides"
        )
    found = []
    for height in range(multiple, int(size * LONGEST) + 1, multiple):
        width = size * size // height // multiple * multiple
        if width and max(height / width, width / height) <= LONGEST:
            found.append((height, width))
    return found


def bucket_of(picture: Size, among: list[Size]) -> Size:
    """The size whose aspect is nearest to a picture's; the larger of two."""
    wanted = math.log(picture[0] / picture[1])
    return min(among, key=lambda s: (round(abs(math.log(s[0] / s[1]) - wanted), 9), -s[0] * s[1]))


@dataclass(frozen=True, kw_only=True)
class Crop:
    """The part of an upright picture that is shown: its edges in pixels, fractions too."""

    top: float
    left: float
    bottom: float
    right: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """As Pillow has it."""
        return self.left, self.top, self.right, self.bottom


def choose_crop(picture: Size, bucket: Size, seed: int, key: str, number: int, zoom: float) -> Crop:
    """Crop ``number`` of a picture, of its bucket's aspect: 0 is the largest, in the middle.

    The others are functions of (seed, key, number): up to ``zoom`` times smaller, anywhere in the picture.
    """
    (H, W), (h, w) = picture, bucket
    scale = min(H / h, W / w)
    y = x = 0.5
    if number:
        draw = seeding.rng(seed, "crop", key, number)
        scale /= draw.uniform(1, zoom)
        y, x = draw.random(), draw.random()
    top, left = y * (H - scale * h), x * (W - scale * w)
    return Crop(top=top, left=left, bottom=min(top + scale * h, H), right=min(left + scale * w, W))


def cut(image_HWC: np.ndarray, where: Crop, bucket: Size) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [h, w, 3], resized with Lanczos."""
    picture = Image.fromarray(image_HWC)
    return np.asarray(picture.resize(bucket[::-1], Image.Resampling.LANCZOS, box=where.box))


def cut_hole(hole_HW: np.ndarray, where: Crop, bucket: Size) -> np.ndarray:
    """bool [H, W] -> bool [h, w]: a pixel that any of the hole falls in is of the hole, so that no crack is lost."""
    picture = Image.fromarray(hole_HW.astype(np.uint8) * 255)
    return np.asarray(picture.resize(bucket[::-1], Image.Resampling.BOX, box=where.box)) > 0
