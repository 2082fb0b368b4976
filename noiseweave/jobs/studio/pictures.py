"""The pictures that a page shows: uploads and those of its input, decoded once, in memory that is bounded."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import numpy as np

from noiseweave.engine import formats
from noiseweave.engine.pictures import images
from noiseweave.jobs.studio.held import Held

MIB = 2**20
HELD = 64 * MIB
"""Bytes of decoded pictures that are kept."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture as the model takes it.

    Attributes:
        path: its file, an upload's in the page's own folder.
        key: SHA-256 of the file, what its random numbers come from.
        image_HWC: uint8 [side, side, C].
        extension: of its format, with the dot.
    """

    path: str
    key: str
    image_HWC: np.ndarray
    extension: str


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an upload may be.

    Attributes:
        size: bytes.
        pixels: of the picture.
        folder: that uploads lie below; nothing outside is opened.
    """

    size: int
    pixels: int
    folder: str


def below(folder: str, path: str) -> bool:
    """Whether a path, links resolved, lies in a folder or below it."""
    try:
        root, real = os.path.realpath(folder), os.path.realpath(path)
        return os.path.commonpath([root, real]) == root
    except ValueError:  # a zero byte
        return False


class Pictures:
    """Uploads, decoded by the product's own decoder; the least recently used leave memory first."""

    def __init__(self, limits: Limits, held: int = HELD) -> None:
        self.limits = limits
        self.held: Held[tuple[str, int, int], Picture] = Held(held)

    def read(self, path: str) -> bytes:
        """The bytes of an upload.

        Raises:
            ValueError: ``"reason: detail"``: it lies elsewhere, is no file, or too large.
        """
        real = os.path.realpath(path)
        if not below(self.limits.folder, path) or not os.path.isfile(real):
            raise ValueError("unreadable: no such upload; choose the picture again")
        if (size := os.path.getsize(real)) > self.limits.size:
            raise ValueError(f"too_large: {size / MIB:.1f} MiB, at most {self.limits.size / MIB:g} MiB")
        with open(real, "rb") as stream:
            return stream.read(self.limits.size)

    def get(self, path: str, side: int, channels: int) -> Picture:
        """An upload, as a model of this side and so many channels takes it.

        Raises:
            ValueError: as of ``read`` and ``images.decode``.
        """
        known = self.held.get((path, side, channels))
        if known is not None:
            return known
        data = self.read(path)
        image_HWC = images.fit(images.decode(data, channels, self.limits.pixels), side)
        extension = f".{formats.extension_of(data) or 'png'}"
        picture = Picture(
            path=path, key=hashlib.sha256(data).hexdigest(), image_HWC=image_HWC, extension=extension
        )
        return self.held.put((path, side, channels), picture, image_HWC.nbytes)
