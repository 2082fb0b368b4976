"""Masks and holes: what to repair, its soft edge, the boxes around it, and putting the repair back.

A hole is bool [H, W], True where the picture is repaired. No torch.
"""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from noiseweave.engine.pictures import files, images
from noiseweave.engine.seeding import rng

MaskMode = Literal["black", "white"]
THRESHOLD = 128  # grey values from here on are white
COLOURLESS = 8  # channels of a grey mask differ by no more than this (lossy formats round)
LOSSY = ("JPEG", "WEBP")
ASPECT = 0.01
HOLE_SHARE = (0.04, 0.75)  # share of a picture that a random hole takes


def hole_of(
    mask: bytes | np.ndarray, mode: MaskMode, size: tuple[int, int], max_pixels: int = images.MAX_PIXELS
) -> np.ndarray:
    """A mask -> the hole of a picture: bool [H, W].

    Grey is thresholded at 128; a mask of another size is fitted by nearest neighbour.

    Args:
        mask: as of ``read``.
        mode: the colour that is repaired.
        size: (H, W) of the picture.

    Raises:
        ValueError: ``"reason: detail"``: mask_does_not_fit (its aspect differs by more than 1 % and by more than the
            rounding of a side), bad_mask (of several values, and yet all of it or nothing is hole), or as of ``read``.
    """
    grey_HW = read(mask, max_pixels)
    check_aspect(grey_HW.shape, size)
    white_HW = grey_HW >= THRESHOLD
    if white_HW.shape != size:
        picture = Image.fromarray(white_HW.astype(np.uint8))
        white_HW = np.asarray(picture.resize(size[::-1], Image.Resampling.NEAREST)).astype(bool)
    low, high = int(grey_HW.min()), int(grey_HW.max())
    if low != high and (white_HW.all() or not white_HW.any()):
        share = "all" if white_HW.all() == (mode == "white") else "nothing"
        raise ValueError(
            f"bad_mask: its values are {low} to {high} of 255, and {share} of a picture of {size[1]}x{size[0]} "
            f"would be repaired; white is from {THRESHOLD} on"
        )
    return white_HW if mode == "white" else ~white_HW


def read(mask: bytes | np.ndarray, max_pixels: int = images.MAX_PIXELS) -> np.ndarray:
    """A mask -> uint8 [h, w], upright: 0 is black, 255 white.

    Alpha is the mask where it alone says something: colours are all one, or those of a picture. Opaque is white then,
    transparent black. Values 0 and 1 are black and white.

    Args:
        mask: an encoded picture, or uint8 [h, w], [h, w, 1] or [h, w, 3].
        max_pixels: larger ones are refused unread.

    Raises:
        ValueError: ``"reason: detail"``: mask_has_colours; bad_mask (two values that are both light or both dark, or
            what ``files.opened`` says of the bytes).
    """
    if isinstance(mask, np.ndarray):
        return _stretched(grey(mask), 255)
    try:
        picture = files.opened(mask, max_pixels, smallest=1)
    except ValueError as e:
        raise ValueError(f"bad_mask: {e}") from None
    slack = COLOURLESS if picture.kind in LOSSY else 0
    if picture.image.mode == "I;16":
        return _stretched(np.asarray(files.turned(picture.image, picture.turn)), 65535)
    image = files.turned(picture.image.convert("RGB").convert("RGBA"), picture.turn)
    if picture.image.mode in ("LA", "RGBA") or "transparency" in picture.image.info:
        image = files.turned(picture.image.convert("RGBA"), picture.turn)
    rgba_HW4 = np.asarray(image)
    if rgba_HW4[..., 3].min() == rgba_HW4[..., 3].max():  # it says nothing
        return _stretched(grey(rgba_HW4[..., :3]), 255, slack)
    if _alpha_speaks(rgba_HW4):
        return _stretched(rgba_HW4[..., 3], 255)
    on_white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return _stretched(grey(np.asarray(on_white)[..., :3]), 255, slack)


def region(mask: bytes, size: int, max_pixels: int = images.MAX_PIXELS) -> np.ndarray:
    """A mask whose greys count -> uint8 [size, size], fitted as ``images.fit`` does with its picture.

    Raises:
        ValueError: as of ``read``; bad_mask too where only what is cut away tells it from a mask of one value.
    """
    grey_HW = read(mask, max_pixels)
    fitted_HW = images.fit(grey_HW[..., None], size)[..., 0]
    if fitted_HW.min() == fitted_HW.max() and grey_HW.min() != grey_HW.max():
        raise ValueError(f"bad_mask: in the middle square of the picture it is {fitted_HW[0, 0]} everywhere")
    return fitted_HW


def _alpha_speaks(rgba_HW4: np.ndarray) -> bool:
    """Whether an alpha of several values is the mask, and not the colours that it lets through."""
    alpha_HW = rgba_HW4[..., 3]
    shown_N3 = rgba_HW4[alpha_HW > 0][:, :3]
    one_colour = (shown_N3.max(0) - shown_N3.min(0)).max() <= COLOURLESS
    if one_colour or (shown_N3.max(1) - shown_N3.min(1)).max() > COLOURLESS:
        return True
    return len(np.unique(shown_N3[:, 0])) > 2 and len(np.unique(alpha_HW)) == 2  # a grey picture


def _stretched(value_HW: np.ndarray, top: int, slack: int = 0) -> np.ndarray:
    """Values 0 to ``top`` -> uint8 [h, w] of 0 to 255; those that are no more than ``slack`` apart are one."""
    low, high, half = int(value_HW.min()), int(value_HW.max()), (top + 1) // 2
    if (low, high) == (0, 1):
        return value_HW.astype(np.uint8) * np.uint8(255)
    if high - low <= slack:
        value_HW = np.full_like(value_HW, low)
    elif (low >= half) == (high >= half) and np.isin(value_HW, (low, high)).all():
        raise ValueError(
            f"bad_mask: its two values are {low} and {high} of {top}, both {'light' if low >= half else 'dark'}; "
            f"white is from {half} on"
        )
    return value_HW if top == 255 else np.rint(value_HW / (top / 255)).astype(np.uint8)


def grey(mask: np.ndarray) -> np.ndarray:
    """A decoded mask -> uint8 [h, w].

    Raises:
        ValueError: ``"mask_has_colours: ..."``.
    """
    if mask.ndim == 2:
        return mask
    spread = int((mask.max(-1) - mask.min(-1)).max())
    if spread > COLOURLESS:
        raise ValueError(
            f"mask_has_colours: its channels differ by up to {spread} of 255; a mask is black and white"
        )
    return mask[..., 0]


def check_aspect(mask: tuple[int, ...], size: tuple[int, int]) -> None:
    """Raise ValueError, ``"mask_does_not_fit: ..."``, where (h, w) is not of the shape of a picture's (H, W)."""
    (h, w), (H, W) = mask, size
    ratio = w * H / (h * W)
    rounded = abs(w - h * W / H) <= 0.5 or abs(h - w * H / W) <= 0.5
    if not rounded and max(ratio, 1 / ratio) > 1 + ASPECT:
        raise ValueError(
            f"mask_does_not_fit: it is {w}x{h} and the picture {W}x{H}; their aspects may differ by {ASPECT:.0%}"
        )


def feather(hole_HW: np.ndarray, width: int) -> np.ndarray:
    """The weight of the repair: float32 [H, W], 0 outside the hole, rising to 1 inside, ``width`` pixels from its edge.

    In a hole narrower than twice the width it rises quicker, so that the middle of a thin crack has 1 too. The
    picture's own border is no edge. A width of 0 is a hard edge.
    """
    if width == 0 or hole_HW.all() or not hole_HW.any():
        return hole_HW.astype(np.float32)
    # distance to the nearest known pixel, 1 in the outermost row of the hole
    depth = ndimage.distance_transform_edt(hole_HW).astype(np.float32)
    nearby = ndimage.maximum_filter(depth, size=2 * width + 1)
    return depth / np.maximum(depth, np.clip(nearby, 1, width + 1))


def compose(original: np.ndarray, restored: np.ndarray, alpha_HW: np.ndarray) -> np.ndarray:
    """original + alpha (restored - original): uint8 [H, W, C], bit for bit the original where alpha is 0.

    Inside a feathered edge the original's own pixels shine through; ``compose(filled(original, hole), ...)``
    mixes in what lies around the hole instead of the damage.

    Args:
        original, restored: uint8 [H, W, C].
        alpha_HW: float32 [H, W] in [0, 1].
    """
    a, b = original.astype(np.float32), restored.astype(np.float32)
    return np.rint(a + alpha_HW[..., None] * (b - a)).astype(np.uint8)


def filled(image_HWC: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
    """The picture with each pixel of the hole like the nearest one outside; mid-grey where all is hole."""
    if not hole_HW.any():
        return image_HWC
    if hole_HW.all():
        return np.full_like(image_HWC, 128)
    nearest = ndimage.distance_transform_edt(hole_HW, return_distances=False, return_indices=True)
    return image_HWC[tuple(nearest)]


def whitened(image_HWC: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
    """The picture with its hole in white: uint8 [H, W, C], a copy."""
    return np.where(hole_HW[..., None], np.uint8(255), image_HWC)


@dataclass(frozen=True, kw_only=True)
class Box:
    """Rows top to bottom - 1 and columns left to right - 1 of a picture."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of a picture's first two dimensions."""
        return slice(self.top, self.bottom), slice(self.left, self.right)


def boxes(hole_HW: np.ndarray, padding: int, multiple: int = 8, least: int = 64) -> list[Box]:
    """Boxes that hold all holes, each with its surroundings, from the top down; none overlaps or touches another.

    Holes that are apart have boxes apart, unless the boxes would meet: then one box holds both.

    Args:
        padding: pixels of the picture around a hole.
        multiple: sides are multiples of it, unless the picture ends there: then a side is the picture's own.
        least: shortest side, or the picture's where that is shorter.
    """
    found = _around(hole_HW, padding, multiple, least)
    while True:
        covered = np.zeros_like(hole_HW)
        for box in found:
            covered[box.slices] = True
        merged = _around(covered, 0, multiple, least)
        if merged == found:
            return found
        found = merged


def _around(hole_HW: np.ndarray, padding: int, multiple: int, least: int) -> list[Box]:
    labels, _ = ndimage.label(hole_HW, np.ones((3, 3)))  # corners join
    sides = [
        [
            _side(s.start - padding, s.stop + padding, n, multiple, least)
            for s, n in zip(at, hole_HW.shape, strict=True)
        ]
        for at in ndimage.find_objects(labels)
    ]
    return sorted(
        (Box(top=y[0], bottom=y[1], left=x[0], right=x[1]) for y, x in sides), key=lambda b: (b.top, b.left)
    )


def _side(start: int, stop: int, size: int, multiple: int, least: int) -> tuple[int, int]:
    """The span start to stop made long enough and moved into 0 to size."""
    start, stop = max(start, 0), min(stop, size)
    long = -(-max(stop - start, least) // multiple) * multiple
    if long >= size:
        return 0, size
    start = min(max(start - (long - (stop - start)) // 2, 0), size - long)
    return start, start + long


def fit_size(height: int, width: int, long_side: int, multiple: int = 8) -> tuple[int, int]:
    """(h, w), multiples of 8: the longer one nearest to ``long_side``, the other nearest to the picture's aspect."""
    long = _nearest(long_side, multiple)
    short = _nearest(long * min(height, width) / max(height, width), multiple)
    return (long, short) if height >= width else (short, long)


def _nearest(length: float, multiple: int) -> int:
    return max(1, int(length / multiple + 0.5)) * multiple


def random_hole(seed: int, key: str, step: int, height: int, width: int) -> np.ndarray:
    """A hole to train with: bool [H, W], a function of the arguments alone, 4 % to 75 % of the picture.

    One in three each is strokes of a brush (as Yu et al., arXiv 1806.03589, appendix), a box, or all that lies on
    one side of a line, as when a picture is made wider.
    """
    assert min(height, width) >= 8
    r = rng(seed, "hole", key, step)
    shape = r.choice((_strokes, _box, _half_plane))
    for attempt in itertools.count():
        # strokes in a ribbon of a picture may always be too little; boxes are not
        hole_HW = shape(r, height, width) if attempt < 20 else _box(r, height, width)
        if HOLE_SHARE[0] <= hole_HW.mean() <= HOLE_SHARE[1]:
            return hole_HW
    raise AssertionError


def _strokes(r: random.Random, height: int, width: int) -> np.ndarray:
    canvas = Image.new("1", (width, height))
    pen, short = ImageDraw.Draw(canvas), min(height, width)
    for _ in range(r.randint(1, 4)):
        radius = max(1.0, r.uniform(1 / 40, 1 / 12) * short)
        x, y, turn = r.uniform(0, width), r.uniform(0, height), r.uniform(0, 2 * math.pi)
        for _ in range(r.randint(3, 10)):
            inside = 0 <= x <= width and 0 <= y <= height
            turn = turn + r.uniform(-1.2, 1.2) if inside else math.atan2(height / 2 - y, width / 2 - x)
            length, start = r.uniform(1 / 16, 1 / 4) * short, (x, y)
            x, y = x + length * math.cos(turn), y + length * math.sin(turn)
            pen.line((*start, x, y), fill=1, width=round(2 * radius))
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    return np.asarray(canvas).copy()


def _box(r: random.Random, height: int, width: int) -> np.ndarray:
    hole = np.zeros((height, width), bool)
    h, w = (max(1, round(r.uniform(0.2, 0.85) * n)) for n in (height, width))
    top, left = r.randint(0, height - h), r.randint(0, width - w)
    hole[top : top + h, left : left + w] = True
    return hole


def _half_plane(r: random.Random, height: int, width: int) -> np.ndarray:
    angle, y, x = r.uniform(0, 2 * math.pi), r.uniform(0, height), r.uniform(0, width)
    rows, columns = np.ogrid[:height, :width]
    return (rows + 0.5 - y) * math.sin(angle) + (columns + 0.5 - x) * math.cos(angle) > 0
