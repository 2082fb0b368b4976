"""A picture file opened as it is, and written again with other pixels in its hole and everything else kept.

Mode, alpha, EXIF, ICC profile and format stay. A model sees another picture: upright, 8-bit, grey or RGB, transparent
parts on white. What it paints goes back into the hole of the stored pixels; the rest of them is never converted.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from PIL import Image, JpegImagePlugin

from noiseweave.engine.formats import FORMATS
from noiseweave.engine.pictures import images, provenance
from noiseweave.engine.pictures.images import Refused
from noiseweave.engine.pictures.provenance import Mark
from noiseweave.engine.records import Json

# how restored pictures are written; one of another format that is read becomes a PNG
EXTENSIONS = {
    "png": "PNG",
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "webp": "WEBP",
    "bmp": "BMP",
    "tif": "TIFF",
    "tiff": "TIFF",
}
WRITTEN_FORMATS = tuple(dict.fromkeys(EXTENSIONS.values()))
GREY = ("1", "L", "LA", "I;16")
# the modes that a format gives back as they were
HOLDS = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "WEBP": ("RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"),
    "JPEG": ("L", "RGB", "CMYK"),
}
LEAST_SIDE = 8
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BACK = TURNS | {6: TURNS[8], 8: TURNS[6]}
# how TIFF lays its pixels out: of the file, not of the picture
LAYOUT = {
    *range(254, 267),
    273,
    *range(277, 280),
    284,
    292,
    293,
    317,
    *range(320, 326),
    338,
    339,
    347,
    *range(512, 522),
    529,
    530,
    531,
    532,
    700,
    34675,
}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A decoded file.

    Attributes:
        image: the stored pixels, in the stored mode.
        kind: Pillow's name of its format.
        turn: EXIF orientation, 1 to 8.
        keep: exif, icc_profile and dpi as Pillow's ``save`` takes them.
        jpeg: quantisation tables and chroma sampling of a JPEG.
    """

    image: Image.Image
    kind: str
    turn: int = 1
    keep: Json = field(default_factory=dict)
    jpeg: Json = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """1 (grey) or 3."""
        return 1 if self.image.mode in GREY else 3


def opened(data: bytes, max_pixels: int, smallest: int = LEAST_SIDE) -> Picture:
    """Decode a file without converting it.

    Raises:
        ValueError: ``"reason: detail"``: empty_picture, not_an_image, no_decoder, too_large, truncated_image,
            too_small, several_frames, or unsupported_mode where no 8-bit model could give the same mode back.
    """
    return images.opened(data, max_pixels, _picture, partial(_check_head, smallest))


def _check_head(smallest: int, image: Image.Image) -> None:
    width, height = image.size
    if min(width, height) < smallest:
        raise Refused(f"too_small: {width}x{height}, at least {smallest} a side")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # an MPO's others are views of the first
        raise Refused(f"several_frames: {getattr(image, 'n_frames', 1)}; only stills are taken")
    known = {mode for modes in HOLDS.values() for mode in modes}
    if image.mode not in known | {"I;16B"}:
        raise Refused(f"unsupported_mode: {image.mode}, known are {', '.join(sorted(known))}")
    if images.depth_of(image) not in (None, (0, 65535)):
        raise Refused("unsupported_mode: grey of 12 bits, or with white at 0")
    tile = getattr(image, "tile", [])
    if (
        not image.mode.startswith("I") and tile and ";16" in str(tile[0][3])
    ):  # Pillow would drop the lower bytes
        raise Refused("unsupported_mode: 16 bits in colour or with alpha")


def _picture(image: Image.Image) -> Picture:
    keep = {name: image.info[name] for name in ("icc_profile", "dpi") if image.info.get(name)}
    raw = image.info.get("exif", b"")
    exif = Image.Exif()
    if image.format == "TIFF":  # Pillow has turned its pixels already
        exif = image.getexif()
        for tag in LAYOUT & set(exif):
            del exif[tag]
        raw = exif.tobytes() if len(exif) else b""
    elif raw:
        exif.load(raw)
    if raw:
        keep["exif"] = raw
    turn = exif.get(ORIENTATION, 1)
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    jpeg: Json = {}
    if kind == "JPEG":
        jpeg = {
            "qtables": dict(getattr(image, "quantization", {})),
            "subsampling": JpegImagePlugin.get_sampling(image),
        }
    return Picture(
        image=images.native(image), kind=kind, turn=turn if turn in TURNS else 1, keep=keep, jpeg=jpeg
    )


def replaced(picture: Picture, image: Image.Image) -> Picture:
    """The picture with other stored pixels."""
    return replace(picture, image=image)


def visible(picture: Picture, channels: int | None = None) -> np.ndarray:
    """What a person sees: uint8 [H, W, channels], upright, transparent parts on white.

    Args:
        channels: 1 (grey) or 3 (RGB); None takes as many as the picture has.
    """
    image = picture.image
    if image.mode == "I;16":
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.mode in ("LA", "RGBA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    array = np.asarray(
        turned(image.convert("L" if (channels or picture.channels) == 1 else "RGB"), picture.turn)
    )
    return array[..., None] if array.ndim == 2 else array


def turned(image: Image.Image, turn: int, ways: Mapping[int, Image.Transpose] = TURNS) -> Image.Image:
    """The image as an EXIF orientation, 1 to 8, has it shown."""
    return image.transpose(ways[turn]) if turn in ways else image


def restored(picture: Picture, paint_HWC: np.ndarray, hole_HW: np.ndarray) -> Image.Image:
    """The stored picture with ``paint`` in its hole; every pixel outside keeps its stored value, and so does alpha.

    In a palette picture the nearest of its opaque colours is taken. Where transparency is a palette entry or a
    colour key, pixels that are not opaque stay as they are.

    Args:
        paint_HWC: uint8 [H, W, 1 or 3], upright.
        hole_HW: bool [H, W], upright.
    """
    image = picture.image
    paint = turned(_image(paint_HWC), picture.turn, BACK)
    hole = np.asarray(turned(_image(hole_HW[..., None].astype(np.uint8) * 255), picture.turn, BACK)) > 0
    keyed = "transparency" in image.info
    if keyed:
        hole = hole & (np.asarray(image.convert("RGBA"))[..., 3] == 255)
    if image.mode == "I;16":
        wide = np.asarray(paint.convert("L")).astype(np.uint16) * 257
        return _like(image, np.where(hole, wide, np.asarray(image)))
    if image.mode == "P":
        return _like(image, np.where(hole, _indices(image, paint, hole), np.asarray(image)))
    new = _in_mode(image, paint)
    if keyed:
        new = _off_key(new, image.info["transparency"])
    out = image.copy()
    out.paste(new, mask=Image.fromarray(hole.astype(np.uint8) * 255))
    return out


def _image(image_HWC: np.ndarray) -> Image.Image:
    return Image.fromarray(image_HWC[..., 0] if image_HWC.shape[-1] == 1 else image_HWC)


def _like(image: Image.Image, values_HW: np.ndarray) -> Image.Image:
    """An image of the same mode and palette with other values."""
    values = np.ascontiguousarray(values_HW, np.asarray(image).dtype)
    out = Image.frombytes(image.mode, image.size, values.tobytes())
    if image.palette is not None:
        out.putpalette(image.palette.copy())
    out.info = dict(image.info)
    return out


def _in_mode(image: Image.Image, paint: Image.Image) -> Image.Image:
    if image.mode == "1":
        return paint.convert("L").convert("1", dither=Image.Dither.NONE)
    if image.mode in ("LA", "RGBA"):
        new = paint.convert(image.mode[:-1])
        new.putalpha(image.getchannel("A"))
        return new
    return paint.convert(image.mode)


def _indices(image: Image.Image, paint: Image.Image, hole_HW: np.ndarray) -> np.ndarray:
    """The nearest opaque palette entry of each painted pixel, uint8 [H, W]; 0 outside the hole."""
    size = len(image.getpalette("RGB") or ()) // 3
    ramp = Image.frombytes("P", (size, 1), bytes(range(size)))
    assert image.palette is not None
    ramp.putpalette(image.palette.copy())
    ramp.info = dict(image.info)
    colour_N4 = np.asarray(ramp.convert("RGBA"))[0].astype(np.int64)
    usable = np.flatnonzero(colour_N4[:, 3] == 255)
    out = np.zeros(hole_HW.shape, np.uint8)
    if not hole_HW.any():
        return out
    wanted, places = np.unique(np.asarray(paint.convert("RGB"))[hole_HW], axis=0, return_inverse=True)
    nearest = np.empty(len(wanted), np.uint8)
    for i in range(0, len(wanted), 4096):
        apart = ((wanted[i : i + 4096, None].astype(np.int64) - colour_N4[None, usable, :3]) ** 2).sum(-1)
        nearest[i : i + 4096] = usable[apart.argmin(1)]
    out[hole_HW] = nearest[places.ravel()]
    return out


def _off_key(new: Image.Image, key: object) -> Image.Image:
    """Paint that has by chance the colour that means transparent moves by one level."""
    if new.mode not in ("L", "RGB"):
        return new
    values = np.array(new)
    hit = (values == np.asarray(key)).reshape(*values.shape[:2], -1).all(-1)
    values[hit] = np.where(values[hit] == 255, 254, values[hit] + 1)
    return Image.fromarray(values)


def encode(image: Image.Image, picture: Picture, extension: str, mark: Mark | None = None) -> bytes:
    """Write ``image`` with the EXIF, ICC profile and resolution of ``picture``.

    png, webp, bmp and tif are lossless. A JPEG is encoded again, with the tables of the JPEG that it came from
    where there is one, else at quality 95 without chroma subsampling.

    Args:
        mark: what the file says of how it was made, beside the rest; a BMP has no place for it.

    Raises:
        ValueError: ``"cannot_hold: ..."``: the format has no place for alpha, 16 bits or CMYK.
    """
    kind = EXTENSIONS[extension]
    ready = fitted(image, kind)
    options: Json = dict(picture.keep) | provenance.options(mark, kind)
    if kind == "JPEG":
        options |= (
            picture.jpeg
            if picture.kind == "JPEG" and ready.mode == picture.image.mode
            else {"quality": 95, "subsampling": 0}
        )
    elif kind == "WEBP":
        options = {n: v for n, v in options.items() if n != "dpi"} | {"lossless": True, "exact": True}
    elif kind == "TIFF":
        options |= {"compression": "tiff_adobe_deflate"}
        if own := options.pop("tiffinfo", None):  # Pillow takes either this or exif
            options["exif"] = _with_tags(picture, own)
    elif kind == "BMP":
        options.pop("exif", None)
    buffer = io.BytesIO()
    ready.save(buffer, kind, **options)
    return buffer.getvalue()


def _with_tags(picture: Picture, tags: Mapping[int, bytes]) -> Image.Exif:
    exif = Image.Exif()
    if "exif" in picture.keep:
        exif.load(picture.keep["exif"])
    for tag, value in tags.items():
        exif[tag] = value
    return exif


def fitted(image: Image.Image, kind: str) -> Image.Image:
    """The image in a mode that the format gives back; only conversions that lose nothing.

    Raises:
        ValueError: ``"cannot_hold: ..."``: there is none.
    """
    if image.mode in HOLDS[kind] and (kind == "PNG" or "transparency" not in image.info):
        return image
    alpha = image.mode in ("LA", "RGBA") or "transparency" in image.info
    wanted = "RGBA" if alpha else ("L" if image.mode == "1" and "L" in HOLDS[kind] else "RGB")
    if wanted not in HOLDS[kind] or image.mode in ("I;16", "CMYK"):
        what = "transparency" if alpha else f"mode {image.mode}"
        raise ValueError(f"cannot_hold: {kind} has no {what}; give --output_format png or tif")
    return image.convert(wanted)


def extension_of(picture: Picture, extension: str, wanted: str, painted: bool = True) -> str:
    """How the restored file's name ends: ``wanted``, or for ``same`` the file's own ending if that is true.

    Args:
        painted: a format that is read and not written (GIF, AVIF, HEIF) then becomes a PNG.
    """
    if wanted != "same":
        return wanted
    true = FORMATS.get(extension) == picture.kind
    own = extension if true else next(e for e, kind in FORMATS.items() if kind == picture.kind)
    return own if own in EXTENSIONS or not painted else "png"
