"""One list of picture formats, and what a file is by its first bytes."""

import io

import pytest
from PIL import Image

from noiseweave.cluster import folders, shards
from noiseweave.engine import formats


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"])
def test_what_pillow_writes_is_known_by_its_first_bytes(name):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, name)
    assert formats.format_of(buffer.getvalue()) == name
    assert formats.FORMATS[formats.extension_of(buffer.getvalue())] == name


def box(major, *others):
    body = b"ftyp" + major + bytes(4) + b"".join(others)
    return (len(body) + 4).to_bytes(4, "big") + body + b"avif" * 4


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (box(b"heic", b"mif1"), "HEIF"),
        (box(b"mif1", b"heic"), "HEIF"),
        (box(b"mif1", b"avif"), "AVIF"),
        (box(b"mif1"), "HEIF"),
        (box(b"isom", b"mp42"), None),
        (b"MM\0*", "TIFF"),
        (b"II+\0", "TIFF"),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"GIF8", "GIF"),
        (b"", None),
        (b"\0\0\0\x08ftyp", None),
    ],
)
def test_boxes_and_odd_heads(data, name):
    assert formats.format_of(data) == name


def test_names_of_pictures():
    assert all(formats.is_picture(f"a/b.c.{e.upper()}") for e in formats.EXTENSIONS)
    assert not any(formats.is_picture(name) for name in ("gif", "a.gif.txt", "a.", "a.jpgx", "", "a/png"))


def test_folders_and_shards_take_the_same_files(tmp_path):
    for extension in formats.EXTENSIONS:
        (tmp_path / f"{extension}.{extension}").write_bytes(b"x")
    assert {i.path.partition(".")[2] for i in folders.listing(str(tmp_path), "").items} == {*shards.PICTURES}
