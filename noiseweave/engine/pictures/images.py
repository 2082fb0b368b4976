"""Bytes <-> uint8 pictures. Every odd kind of picture becomes 8-bit grey or RGB, or a clear ValueError."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, TiffImagePlugin, UnidentifiedImageError, features

from noiseweave.engine import formats
from noiseweave.engine.pictures.provenance import Mark, options

MAX_PIXELS = 64_000_000
HOW = {"HEIF": "pip install 'noiseweave[heif]'", "AVIF": "this Pillow was built without it"}
"""What to do where a format's decoder is missing."""
BITS, PHOTOMETRIC = ExifTags.Base.BitsPerSample, ExifTags.Base.PhotometricInterpretation
OF_SPACE = {
    "RGB": ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "L", "LA", "La"),
    "GRAY": ("1", "L", "LA", "La"),
    "CMYK": ("CMYK",),
}
"""The modes of pictures that a profile of a colour space may be of."""
T = TypeVar("T")


def decode(data: bytes, channels: int = 3, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a picture to uint8 [H, W, channels].

    EXIF rotation is applied; palettes, CMYK, CIE Lab, 1-bit and 16-bit become 8-bit; transparent parts lie on white.
    Where a colour profile is embedded, colours are those of sRGB. Of several frames or pages the first is taken.

    Args:
        data: an encoded picture of formats.FORMATS.
        channels: 1 (grey) or 3 (RGB).
        max_pixels: larger pictures are refused before their pixels are read (decompression bombs).

    Raises:
        ValueError: ``"reason: detail"``: empty_picture, not_an_image, no_decoder, unsupported_mode, too_large or
            truncated_image.
    """

    def plain(image: Image.Image) -> Image.Image:
        grey = depth_of(image)
        return _plain(to_srgb(ImageOps.exif_transpose(image)), grey)

    image = opened(data, max_pixels, plain)
    array = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return array[..., None] if channels == 1 else array


def decode_plain(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a picture to uint8 [H, W, 3] with Pillow's plain conversion to RGB, as pytorch-fid does.

    EXIF rotation and transparency are passed over. Of 16 bits, which that conversion would cut off at 255, the
    upper 8 are taken.

    Raises:
        ValueError: as of ``decode``.
    """

    def plain(image: Image.Image) -> np.ndarray:
        grey = depth_of(image)
        return np.asarray((_plain(image, grey) if grey else image).convert("RGB"))

    return opened(data, max_pixels, plain)


def kind_of(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(channels: 1 for a grey picture, else 3; its short side).

    Raises:
        ValueError: as of ``decode``.
    """

    def look(image: Image.Image) -> tuple[int, int]:
        return 1 if _plain(image, depth_of(image)).mode == "L" else 3, min(image.size)

    return opened(data, max_pixels, look)


@functools.cache
def readable() -> tuple[str, ...]:
    """Pillow's names of the formats that can be read here: of formats.FORMATS, those with a decoder."""
    missing = set() if features.check("avif") else {"AVIF"}
    try:
        from pillow_heif import register_heif_opener

        register_heif_opener()
    except ImportError:
        missing.add("HEIF")
    return tuple(name for name in dict.fromkeys(formats.FORMATS.values()) if name not in missing)


def glance(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[tuple[int, int], bool]:
    """((height, width) after EXIF rotation, whether it has colour); of a large JPEG, fewer of its pixels are read.

    Raises:
        ValueError: as of ``decode``.
    """

    def small(image: Image.Image) -> None:
        image.draft("RGB", (256, 256))

    def colour(image: Image.Image) -> bool:
        return has_colour(np.asarray(_plain(image, depth_of(image)).convert("RGB")))

    found = opened(data, max_pixels, colour, small)
    return upright_size(data), found


def has_colour(image_HWC: np.ndarray) -> bool:
    """Whether any pixel's channels differ."""
    return bool((image_HWC != image_HWC[..., :1]).any())


class Refused(Exception):
    """``"reason: detail"`` of a picture that decodes, but is not taken."""


def opened(
    data: bytes,
    max_pixels: int,
    take: Callable[[Image.Image], T],
    check: Callable[[Image.Image], None] = lambda image: None,
) -> T:
    """What ``take`` makes of a picture's pixels.

    Args:
        check: looks at the head alone, before any pixel is read, and may raise Refused.

    Raises:
        ValueError: as of ``decode``, or what ``check`` says.
    """
    if not data:
        raise ValueError("empty_picture: no bytes")
    kind = formats.format_of(data)
    if kind is not None and kind not in readable():
        raise ValueError(f"no_decoder: {kind} is not read here; {HOW[kind]}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=readable())
            if image.width * image.height > max_pixels:
                raise Refused(f"too_large: {image.width}x{image.height}, at most {max_pixels} pixels")
            check(image)
            image.load()
            return take(image)
    except UnidentifiedImageError:
        known = f"it begins like {kind} and cannot be opened"
        nothing = f"no {', '.join(readable()[:-1])} or {readable()[-1]}"
        raise ValueError(f"not_an_image: {known if kind else nothing}") from None
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
    try:
        transform = _to_srgb(image)
        return image if transform is None else _in_srgb(image, transform)
    except BrokenProfile:
        return image


class BrokenProfile(Exception):
    """A colour profile is no profile, or that of another kind of picture."""


PROFILE_ERRORS = (ImageCms.PyCMSError, OSError, ValueError, TypeError)


def _to_srgb(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """From the colours of an image's profile to those of sRGB; None where there is nothing to do.

    Raises:
        BrokenProfile.
    """
    profile = image.info.get("icc_profile")
    if not profile or image.mode.startswith("I") or image.mode == "F":
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        if image.mode not in OF_SPACE.get(space, ()):
            raise BrokenProfile
        mode = {"GRAY": "L"}.get(space, space)
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except PROFILE_ERRORS:
        raise BrokenProfile from None


def has_broken_profile(data: bytes) -> bool:
    """Whether ``decode`` ignores a picture's colour profile, as it is broken or of another kind of picture.

    The head is read alone. Of what is no picture it is False.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _to_srgb(Image.open(io.BytesIO(data), formats=readable()))
    except BrokenProfile:
        return True
    except Exception:  # whoever decodes it says what is wrong
        return False
    return False


def _in_srgb(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    """The image through its profile. One of grey is an RGB of equal channels on the other side."""
    alpha = None
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
    try:
        out = transform.apply(
            image if image.mode == transform.input_mode else image.convert(transform.input_mode)
        )
    except PROFILE_ERRORS:
        raise BrokenProfile from None
    out = out.getchannel("R") if transform.input_mode == "L" else out
    if alpha is not None:
        out.putalpha(alpha)
    return out


def depth_of(image: Image.Image) -> tuple[int, int] | None:
    """What black and white are in a grey image as it was opened, where that is of more than 8 bits; else None.

    Pillow unpacks the 12 bits of a TIFF into 16 as they are, and leaves white where a TIFF has it at 0.

    Raises:
        Refused: of 32 bits, signed or of floats, whose black and white no file says.
    """
    if image.mode in ("I", "F"):
        raise Refused(
            f"unsupported_mode: {image.mode}, grey of 32 bits, signed or of floats; at most 16 are read"
        )
    if not image.mode.startswith("I"):
        return None
    tags = getattr(image, "tag_v2", {})
    most = 2 ** tags.get(BITS, (16,))[0] - 1
    return (most, 0) if tags.get(PHOTOMETRIC) == 0 else (0, most)


def native(image: Image.Image) -> Image.Image:
    """The image; 16 bits whose upper byte comes first, as TIFF may have them, in the order that Pillow works in."""
    if image.mode != "I;16B":
        return image
    return Image.fromarray(np.asarray(image).astype(np.uint16))


def _plain(image: Image.Image, grey: tuple[int, int] | None) -> Image.Image:
    """An image of any mode -> L or RGB.

    Args:
        grey: depth_of the image as it was opened.
    """
    if grey:
        black, white = grey
        share = (np.asarray(image).astype(np.float64) - black) / (white - black)
        return Image.fromarray(np.rint(255 * share).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def upright_size(data: bytes) -> tuple[int, int]:
    """(height, width) of an encoded picture after its EXIF rotation; its pixels are not read."""
    image = Image.open(io.BytesIO(data), formats=readable())
    width, height = image.size
    if isinstance(
        image, TiffImagePlugin.TiffImageFile
    ):  # Pillow has turned the size already, but not the tag
        width, height = (image.tag_v2[tag] for tag in (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength))
    turned = image.getexif().get(ExifTags.Base.Orientation) in range(5, 9)  # by a quarter
    return (width, height) if turned else (height, width)


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
