"""Bytes <-> uint8 pictures. Every odd kind of picture becomes 8-bit grey or RGB, or a clear ValueError."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from noiseweave.engine.pictures.provenance import Mark, options

MAX_PIXELS = 64_000_000
READ_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
OF_SPACE = {
    "RGB": ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "L", "LA", "La"),
    "GRAY": ("1", "L", "LA", "La"),
    "CMYK": ("CMYK",),
}
"""The modes of pictures that a profile of a colour space may be of."""
PNG_MODES = frozenset(("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"))
T = TypeVar("T")


def decode(data: bytes, channels: int = 3, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a picture to uint8 [H, W, channels].

    EXIF rotation is applied; palettes, CMYK, 1-bit and 16-bit become 8-bit; transparent parts lie on white. Where a
    colour profile is embedded, colours are those of sRGB.

    Args:
        data: an encoded PNG, JPEG, WebP or BMP.
        channels: 1 (grey) or 3 (RGB).
        max_pixels: larger pictures are refused before their pixels are read (decompression bombs).

    Raises:
        ValueError: ``"reason: detail"``: empty_picture, not_an_image, too_large or truncated_image.
    """

    def plain(image: Image.Image) -> Image.Image:
        return _plain(to_srgb(ImageOps.exif_transpose(image)))

    image = opened(data, READ_FORMATS, max_pixels, plain)
    array = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return array[..., None] if channels == 1 else array


def decode_plain(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a picture to uint8 [H, W, 3] with Pillow's plain conversion to RGB, as pytorch-fid does.

    EXIF rotation and transparency are passed over.

    Raises:
        ValueError: as of ``decode``.
    """
    return opened(data, READ_FORMATS, max_pixels, lambda image: np.asarray(image.convert("RGB")))


def kind_of(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(channels: 1 for a grey picture, else 3; its short side).

    Raises:
        ValueError: as of ``decode``.
    """

    def look(image: Image.Image) -> tuple[int, int]:
        return 1 if _plain(image).mode == "L" else 3, min(image.size)

    return opened(data, READ_FORMATS, max_pixels, look)


def glance(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[tuple[int, int], bool]:
    """((height, width) after EXIF rotation, whether it has colour); of a large JPEG, fewer of its pixels are read.

    Raises:
        ValueError: as of ``decode``.
    """

    def small(image: Image.Image) -> None:
        image.draft("RGB", (256, 256))

    def colour(image: Image.Image) -> bool:
        return has_colour(np.asarray(_plain(image).convert("RGB")))

    found = opened(data, READ_FORMATS, max_pixels, colour, small)
    return upright_size(data), found


def has_colour(image_HWC: np.ndarray) -> bool:
    """Whether any pixel's channels differ."""
    return bool((image_HWC != image_HWC[..., :1]).any())


class Refused(Exception):
    """``"reason: detail"`` of a picture that decodes, but is not taken."""


def opened(
    data: bytes,
    formats: tuple[str, ...],
    max_pixels: int,
    take: Callable[[Image.Image], T],
    check: Callable[[Image.Image], None] = lambda image: None,
) -> T:
    """What ``take`` makes of a picture's pixels.

    Args:
        formats: Pillow's names of those that are tried.
        check: looks at the head alone, before any pixel is read, and may raise Refused.

    Raises:
        ValueError: as of ``decode``, or what ``check`` says.
    """
    if not data:
        raise ValueError("empty_picture: no bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=formats)
            if image.width * image.height > max_pixels:
                raise Refused(f"too_large: {image.width}x{image.height}, at most {max_pixels} pixels")
            check(image)
            image.load()
            return take(image)
    except UnidentifiedImageError:
        raise ValueError(f"not_an_image: no {', '.join(formats[:-1])} or {formats[-1]}") from None
    except Image.DecompressionBombError as e:
        raise ValueError(f"too_large: {e}") from None
    except Refused as e:
        raise ValueError(str(e)) from None
    except Exception as e:  # a decoder may raise anything on damaged bytes
        raise ValueError(f"truncated_image: {type(e).__name__}: {e}") from None


def to_srgb(image: Image.Image) -> Image.Image:
    """The image with its colours in sRGB, by littleCMS.

    It stays as it is where it has no profile, sRGB's own, a broken one, or one of another kind of picture; and where
    its pixels have more than 8 bits.
    """
    profile = image.info.get("icc_profile")
    if not profile or image.mode.startswith("I") or image.mode == "F":
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if "srgb" in ImageCms.getProfileDescription(source).lower() or image.mode not in OF_SPACE.get(
            space, ()
        ):
            return image
        return _in_srgb(image, source)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image


def _in_srgb(image: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    """The image through its profile. One of grey is an RGB of equal channels on the other side."""
    alpha = None
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
    grey = source.profile.xcolor_space.strip() == "GRAY"
    plain = image if image.mode == "CMYK" else image.convert("L" if grey else "RGB")
    out = ImageCms.profileToProfile(plain, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert out is not None
    out = out.getchannel("R") if grey else out
    if alpha is not None:
        out.putalpha(alpha)
    return out


def _plain(image: Image.Image) -> Image.Image:
    """An image of any mode -> L or RGB. Of the formats read here, only a 16-bit grey PNG has values above 255."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.clip(np.rint(values / 257), 0, 255).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def upright_size(data: bytes) -> tuple[int, int]:
    """(height, width) of an encoded picture after its EXIF rotation; its pixels are not read."""
    image = Image.open(io.BytesIO(data), formats=READ_FORMATS)
    turned = image.getexif().get(ExifTags.Base.Orientation) in range(5, 9)  # by a quarter
    return (image.width, image.height) if turned else (image.height, image.width)


def fit(image_HWC: np.ndarray, size: int) -> np.ndarray:
    """Resize the short side to ``size`` (Lanczos) and crop the centre square: uint8 [size, size, C]."""
    height, width, channels = image_HWC.shape
    if (height, width) == (size, size):
        return image_HWC
    image = Image.fromarray(image_HWC[..., 0] if channels == 1 else image_HWC)
    array = np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))
    return array[..., None] if channels == 1 else array


def encode(
    image_HWC: np.ndarray, extension: str = "png", quality: int = 95, mark: Mark | None = None
) -> bytes:
    """uint8 [H, W, 1 or 3] -> bytes: png (lossless), webp (lossless) or jpg (``quality``, 4:4:4).

    Args:
        mark: what the file says of where the picture came from; its pixels are the same without.
    """
    image = Image.fromarray(image_HWC[..., 0] if image_HWC.shape[-1] == 1 else image_HWC)
    buffer = io.BytesIO()
    if extension == "png":
        image.save(buffer, "PNG", **options(mark, "PNG"))
    elif extension == "webp":
        image.convert("RGB").save(buffer, "WEBP", lossless=True, **options(mark, "WEBP"))
    elif extension in ("jpg", "jpeg"):
        image.save(buffer, "JPEG", quality=quality, subsampling=0, **options(mark, "JPEG"))
    else:
        raise ValueError(f"image format {extension!r}: png, jpg or webp")
    return buffer.getvalue()


def side_picture(data: bytes, size: int) -> bytes:
    """A mask or another map that lies beside a picture -> PNG of the same square, by nearest neighbour.

    Its values stay what they are (class numbers, palettes): nothing is mixed or converted.

    Raises:
        ValueError: as of ``decode``.
    """
    decode(data)  # its checks: cut short, too many pixels, no picture
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    image = ImageOps.fit(image, (size, size), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    (image if image.mode in PNG_MODES else image.convert("RGB")).save(buffer, "PNG")
    return buffer.getvalue()
