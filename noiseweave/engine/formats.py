"""The picture formats that are read: the one list of their extensions, and the bytes that files begin with."""

from __future__ import annotations

FORMATS = {
    "jpg": "JPEG",
    "jpeg": "JPEG",
    "png": "PNG",
    "webp": "WEBP",
    "bmp": "BMP",
    "gif": "GIF",
    "tif": "TIFF",
    "tiff": "TIFF",
    "avif": "AVIF",
    "heic": "HEIF",
    "heif": "HEIF",
}
"""Extension in lower case -> Pillow's name of the format. Of several frames or pages the first is the picture."""
EXTENSIONS = tuple(FORMATS)
LISTED = ", ".join(f".{e}" for e in EXTENSIONS[:-1]) + f" or .{EXTENSIONS[-1]}"
"""The extensions as an error says them."""
SIGNATURES = (
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8", "JPEG"),
    (b"BM", "BMP"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
AVIF = (b"avif", b"avis")
CONTAINERS = (b"mif1", b"mif2", b"msf1", b"miaf")
HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", *CONTAINERS)


def is_picture(name: str) -> bool:
    """Whether a file's name or URL ends like a picture's."""
    _, dot, extension = name.rpartition(".")
    return bool(dot) and extension.lower() in FORMATS


def format_of(data: bytes) -> str | None:
    """Pillow's name of the format that a file's first bytes are of; None for any other."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _of_brands(data)
    return next((name for start, name in SIGNATURES if data.startswith(start)), None)


def _of_brands(data: bytes) -> str | None:
    """AVIF and HEIF are boxes of one kind: the brands in the first say which (ISO/IEC 14496-12, 4.3)."""
    end = min(int.from_bytes(data[:4], "big"), 512)
    major, others = data[8:12], {data[i : i + 4] for i in range(16, end, 4)}
    if major in AVIF or (major in CONTAINERS and others & set(AVIF)):
        return "AVIF"
    return "HEIF" if major in HEIF else None


def extension_of(data: bytes) -> str | None:
    """The extension that a file should have, by its first bytes."""
    name = format_of(data)
    return next((e for e, kind in FORMATS.items() if kind == name), None)
