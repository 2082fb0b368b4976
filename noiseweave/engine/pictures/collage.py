"""Pictures laid out on a sheet."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from noiseweave.engine.pictures.provenance import Mark, options

GAP = 6
TEXT = 14


def sheet(
    rows: Sequence[Sequence[np.ndarray]],
    captions: Sequence[str] = (),
    heads: Sequence[str] = (),
    tile: int = 96,
) -> Image.Image:
    """Rows of uint8 [H, W, 1 or 3] pictures -> one RGB sheet, small ones enlarged without smoothing.

    Args:
        rows: pictures, row by row; rows may differ in length.
        captions: one line under each row, or none.
        heads: one line above each column, or none.
        tile: side of the square that each picture is fitted into, in pixels.
    """
    columns = max((len(row) for row in rows), default=0)
    top, step = (TEXT + GAP if heads else GAP), tile + GAP + (TEXT if captions else 0)
    width = max(columns * (tile + GAP) + GAP, 320 if captions else 0)
    page = Image.new("RGB", (width, top + len(rows) * step + GAP), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=11)
    for c, head in enumerate(heads):
        draw.text((GAP + c * (tile + GAP), 3), head, fill="black", font=font)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            page.paste(_tile(picture, tile), (GAP + c * (tile + GAP), top + r * step))
        if captions:
            draw.text((GAP, top + r * step + tile), captions[r], fill="black", font=font)
    return page


def _tile(picture: np.ndarray, side: int) -> Image.Image:
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).convert("RGB")
    grow = max(image.size) <= side
    scale = side // max(image.size) if grow else side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if grow else Image.Resampling.LANCZOS)


def png(page: Image.Image, mark: Mark | None = None) -> bytes:
    """The sheet as a file, with what it says of its pictures."""
    buffer = io.BytesIO()
    page.save(buffer, "PNG", **options(mark, "PNG"))
    return buffer.getvalue()
