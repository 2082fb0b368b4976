"""What travels to inpaint's workers, and between its stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from noiseweave.engine.pictures import files, masks
from noiseweave.engine.records import JsonMapping, Quarantined
from noiseweave.jobs.inpaint.config import Config
from noiseweave.jobs.reading.places import Item


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the workers need to know: plain values.

    Attributes:
        output: absolute folder or URL.
        sheet: the file that the collage of a single picture is also written to, or None.
        about: what the model is: its kind, size and channels.
        model_hash: fingerprint of its files.
        seed: of the first variant, drawn where the config gives none.
    """

    config: Config
    output: str
    sheet: str | None
    about: JsonMapping
    model_hash: str
    seed: int

    @property
    def method(self) -> str:
        """How holes are filled: inpaint (a UNet made for it) or repaint."""
        return "inpaint" if self.about["kind"] == "inpaint" else "repaint"

    @property
    def seeds(self) -> range:
        """Of the variants."""
        return range(self.seed, self.seed + self.config.rows)


@dataclass(frozen=True, kw_only=True)
class Region:
    """A part of a picture as the model sees it.

    Attributes:
        box: where it lies in the upright picture.
        image_HWC: uint8 [h, w, the model's channels].
        hole_HW: bool [h, w]; whatever a pixel of the hole has a share in.
    """

    box: masks.Box
    image_HWC: np.ndarray
    hole_HW: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A picture that was read: its files' bytes, prompt and .cls; its regions, none where the mask is empty."""

    item: Item
    data: bytes
    mask: bytes
    prompt: str
    label: bytes | None
    regions: tuple[Region, ...]


@dataclass(frozen=True, kw_only=True)
class Painted:
    """What the model made of a picture.

    Attributes:
        rows: numbers of its variants, from 0 on; those that were flagged are not among them.
        patches: for each of these, uint8 [h, w, C] of each region.
        precision: that the network ran in.
        again: (variant, region, seed) of those that were flagged at first and painted once more.
        truncated: ends of the prompt and the negative prompt that the text encoder does not read.
    """

    loaded: Loaded
    rows: tuple[int, ...]
    patches: tuple[tuple[np.ndarray, ...], ...]
    precision: str
    again: tuple[tuple[int, int, int], ...] = ()
    truncated: tuple[str, ...] = ()

    def seeds(self, task: Task) -> list[int]:
        """Of the variants that there are."""
        return [task.seeds[row] for row in self.rows]


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A picture's variants.

    Attributes:
        picture: as it was.
        hole_HW: bool [H, W], upright.
        images: of each variant, in the stored mode.
        data: their files.
        extension: of these, without the dot.
    """

    picture: files.Picture
    hole_HW: np.ndarray
    images: list[Image.Image]
    data: list[bytes]
    extension: str


Batch = tuple[list[Loaded], list[Quarantined]]
Result = tuple[list[Painted], list[Quarantined]]


def left_out(item: Item, why: str) -> Quarantined:
    """``"reason: detail"`` -> the record of it."""
    return Quarantined.of(why, shard=item.shard, key=item.name)


def hole_of(config: Config, mask: bytes, size: Sequence[int]) -> np.ndarray:
    """bool [H, W] of the upright picture."""
    height, width = size
    return masks.hole_of(mask, config.mask_mode, (height, width), config.max_pixels)
