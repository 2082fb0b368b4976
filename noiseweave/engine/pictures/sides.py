"""Pictures that lie beside a sample's picture, masks and other maps: cut and resized as it is."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageOps

from noiseweave.engine.pictures import images, masks

PNG_MODES = frozenset(("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"))


def side_mask(data: bytes, mask: bytes, size: int | None) -> bytes:
    """A picture's mask, checked; with a size, cut as the picture is.

    Raises:
        ValueError: ``"bad_mask: ..."``.
    """
    try:
        whole_HW = masks.read(mask)
        masks.check_aspect(whole_HW.shape, images.upright_size(data))
        if size is None:
            return mask
        cut = side_picture(data, mask, size)
        cut_HW = masks.read(cut)
    except ValueError as e:
        raise ValueError(f"bad_mask: {str(e).removeprefix('bad_mask: ')}") from None
    if cut_HW.min() == cut_HW.max() and whole_HW.min() != whole_HW.max():
        raise ValueError(f"bad_mask: in the middle square of the picture it is {cut_HW[0, 0]} everywhere")
    return cut


def side_picture(data: bytes, side: bytes, size: int) -> bytes:
    """A map that lies beside a picture -> PNG of the same square, by nearest neighbour.

    Its values stay what they are (class numbers, palettes): nothing is mixed or converted.

    Args:
        data: the encoded picture, whose aspect, upright, it must have.

    Raises:
        ValueError: ``"reason: detail"``: it does not decode, or ``"bad_mask: ..."``.
    """

    def square(image: Image.Image) -> Image.Image:
        values = np.asarray(image) if image.mode in ("F", "I") else np.zeros(1)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise images.Refused(f"unsupported_mode: {image.mode}, a map of values that no PNG holds")
        upright = images.native(ImageOps.exif_transpose(image))
        return ImageOps.fit(upright, (size, size), Image.Resampling.NEAREST)

    image = images.opened(side, images.MAX_PIXELS, square)
    try:
        masks.check_aspect(images.upright_size(side), images.upright_size(data))
    except ValueError as e:
        raise ValueError(f"bad_mask: {e}") from None
    buffer = io.BytesIO()
    (image if image.mode in PNG_MODES else image.convert("RGB")).save(buffer, "PNG")
    return buffer.getvalue()
