"""Files of every mode and format: outside the hole nothing changes, and what belongs to the file stays."""

import io

import numpy as np
import pytest
from inpaints import hole, noise, saved
from PIL import Image, ImageOps

from noiseweave.engine.pictures import files as pictures

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK")
ALL = [(kind, mode) for kind, modes in pictures.HOLDS.items() for mode in modes]
LOSSLESS = [(kind, mode) for kind, mode in ALL if kind != "JPEG"]
EXTENSION = {"PNG": "png", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif", "JPEG": "jpg"}
BIG = 1 << 20


def again(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def repaired(data: bytes, hole_HW: np.ndarray, paint: np.ndarray, extension: str) -> Image.Image:
    picture = pictures.opened(data, BIG)
    return again(pictures.encode(pictures.restored(picture, paint, hole_HW), picture, extension))


def reason(f, *arguments) -> str:
    with pytest.raises(ValueError, match=r"^\w+: ") as error:
        f(*arguments)
    return str(error.value).partition(": ")[0]


@pytest.mark.parametrize(("kind", "mode"), LOSSLESS)
@pytest.mark.parametrize("seed", range(3))
def test_outside_the_hole_every_stored_value_stays(kind, mode, seed):
    r = np.random.default_rng(seed)
    size = tuple(int(n) for n in r.integers(8, 70, 2))
    data, where = saved(noise(mode, size, seed), kind), hole(size, seed)
    paint = r.integers(0, 256, (*where.shape, 3), dtype=np.uint8)
    before, after = again(data), repaired(data, where, paint, EXTENSION[kind])
    assert (after.mode, after.size, after.format) == (mode, size, kind)
    a, b = np.asarray(before).astype(int), np.asarray(after).astype(int)
    assert (a == b)[~where].all()
    assert (a != b)[where].any()
    if mode == "P":
        assert after.getpalette() == before.getpalette()
    if mode in ("LA", "RGBA"):
        assert (a == b)[..., -1].all(), "alpha changed inside the hole"


def test_what_is_painted():
    """Inside the hole: the colour, its grey, its threshold, its nearest palette entry, its 16 bits."""
    size, where = (9, 8), np.ones((8, 9), bool)
    paint = np.random.default_rng(1).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(paint).convert("L")).astype(int)
    got = {
        m: np.asarray(repaired(saved(noise(m, size), "PNG"), where, paint, "png")).astype(int)
        for m in pictures.HOLDS["PNG"]
    }
    assert (got["RGB"] == paint).all()
    assert (got["RGBA"][..., :3] == paint).all()
    assert (got["L"] == grey).all()
    assert (got["LA"][..., 0] == grey).all()
    assert (got["1"] == (grey >= 128)).all()
    assert (got["I;16"] == grey * 257).all()
    palette = np.array(noise("P", size).getpalette()).reshape(-1, 3)
    best = ((palette[None, None] - paint[:, :, None].astype(int)) ** 2).sum(-1)
    assert (best[np.arange(8)[:, None], np.arange(9), got["P"]] == best.min(-1)).all()


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_keeps_its_tables_and_sampling(mode):
    data = saved(noise(mode, (40, 24)), "JPEG", quality=31)
    picture = pictures.opened(data, BIG)
    after = repaired(data, np.zeros((24, 40), bool), np.zeros((24, 40, 3), np.uint8), "jpg")
    assert after.mode == mode
    assert after.quantization == again(data).quantization
    apart = np.abs(np.asarray(after).astype(int) - np.asarray(picture.image))
    assert apart.mean() < 12, "encoded again with its own tables, noise moves little"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_icc_and_resolution_stay(kind):
    exif = Image.Exif()
    exif[0x010E], exif[0x8298] = "a mural", "somebody"
    options = {"exif": exif.tobytes(), "icc_profile": b"profile " * 20, "dpi": (300, 300)}
    if kind == "TIFF":
        options["exif"] = exif
    data = saved(noise("RGB", (20, 12)), kind, **options)
    where = hole((20, 12))
    after = repaired(data, where, np.zeros((12, 20, 3), np.uint8), EXTENSION[kind])
    assert after.info["icc_profile"] == options["icc_profile"]
    assert after.getexif()[0x010E] == "a mural"
    assert after.getexif()[0x8298] == "somebody"
    if kind != "WEBP":
        assert round(float(after.info["dpi"][0])) == 300
    other = repaired(data, where, np.zeros((12, 20, 3), np.uint8), "png")
    assert other.getexif()[0x010E] == "a mural"
    assert 0x0101 not in other.getexif(), "how a TIFF lays out its pixels is no business of a PNG"


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_turned_picture_is_seen_upright_and_stored_as_it_was(turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    data = saved(noise("RGB", (13, 9)), "PNG", exif=exif.tobytes())
    picture, before = pictures.opened(data, BIG), again(data)
    upright = np.asarray(ImageOps.exif_transpose(before))
    assert (pictures.visible(picture) == upright).all()
    where = np.zeros(upright.shape[:2], bool)
    where[2:5, 1:8] = True
    paint = np.random.default_rng(0).integers(0, 256, upright.shape, dtype=np.uint8)
    after = repaired(data, where, paint, "png")
    assert after.size == (13, 9)
    assert after.getexif()[0x0112] == turn
    wanted = np.where(where[..., None], paint, upright)
    assert (np.asarray(ImageOps.exif_transpose(after)) == wanted).all()


def test_transparent_pixels_of_a_palette_or_colour_key_stay():
    image = noise("P", (30, 30))
    data = saved(image, "PNG", transparency=bytes([0, 0, 128]))
    before = again(data)
    clear = np.asarray(before.convert("RGBA"))[..., 3] < 255
    where = np.ones((30, 30), bool)
    after = repaired(data, where, np.full((30, 30, 3), 200, np.uint8), "png")
    assert clear.any()
    assert (np.asarray(after) == np.asarray(before))[clear].all()
    assert (np.asarray(after.convert("RGBA"))[..., 3] < 255).tolist() == clear.tolist()
    grey = saved(Image.fromarray(np.tile(np.arange(30, dtype=np.uint8), (30, 1))), "PNG", transparency=7)
    after = repaired(grey, where, np.full((30, 30, 1), 7, np.uint8), "png")
    assert (np.flatnonzero((np.asarray(after) == 7).all(0)) == [7]).all(), "paint may not become transparent"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [*pictures.WRITTEN_FORMATS])
def test_another_format_has_the_same_colours_or_is_refused(mode, kind):
    source = "TIFF" if mode == "CMYK" else "PNG"
    data = saved(noise(mode, (16, 12)), source)
    picture, where = pictures.opened(data, BIG), hole((16, 12))
    paint = np.zeros((12, 16, 3), np.uint8)
    deep = mode in ("I;16", "CMYK") and mode not in pictures.HOLDS[kind]
    if deep or (mode in ("LA", "RGBA") and kind in ("JPEG", "BMP")):
        image = pictures.restored(picture, paint, where)
        assert reason(pictures.encode, image, picture, EXTENSION[kind]) == "cannot_hold"
        return
    after = repaired(data, where, paint, EXTENSION[kind])
    assert after.format == kind
    if kind != "JPEG":
        both = [i if mode == "I;16" else i.convert("RGBA") for i in (again(data), after)]
        a, b = (np.asarray(i)[~where] for i in both)
        assert (a == b).all()


def test_a_16_bit_picture_keeps_its_lower_bytes():
    data = saved(noise("I;16", (10, 9)), "TIFF")
    where = hole((10, 9))
    after = repaired(data, where, np.zeros((9, 10, 1), np.uint8), "png")
    assert (np.asarray(after) == np.asarray(again(data)))[~where].all()


def test_a_gif_becomes_a_png_with_the_same_palette_and_transparency():
    buffer = io.BytesIO()
    noise("P", (10, 9)).save(buffer, "GIF", transparency=3)
    where = hole((10, 9))
    before, after = (
        again(buffer.getvalue()),
        repaired(buffer.getvalue(), where, np.zeros((9, 10, 3), np.uint8), "png"),
    )
    assert after.format == "PNG"
    assert (np.asarray(before.convert("RGBA")) == np.asarray(after.convert("RGBA")))[~where].all()


def test_16_bits_with_the_upper_byte_first_are_the_same_picture():
    values = np.asarray(noise("I;16", (10, 9)))
    buffer = io.BytesIO()
    Image.frombytes("I;16B", (10, 9), values.astype(">u2").tobytes()).save(buffer, "TIFF")
    assert again(buffer.getvalue()).mode == "I;16B"
    where = hole((10, 9))
    after = repaired(buffer.getvalue(), where, np.zeros((9, 10, 1), np.uint8), "tif")
    assert (np.asarray(after) == values)[~where].all()
    assert (np.asarray(after) == 0)[where].all()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty_picture"),
        (b"not a picture at all", "not_an_image"),
        (saved(noise("RGB", (40, 40)), "PNG")[:2000], "truncated_image"),
        (saved(noise("RGB", (40, 40)), "JPEG")[:900], "truncated_image"),
        (saved(noise("RGB", (40, 7)), "PNG"), "too_small"),
        (saved(noise("RGB", (1025, 1024)), "BMP"), "too_large"),
        (saved(Image.fromarray(np.zeros((9, 9), np.float32)), "TIFF"), "unsupported_mode"),
        (
            saved(noise("RGB", (9, 9)), "PNG", save_all=True, append_images=[noise("RGB", (9, 9), 1)]),
            "several_frames",
        ),
    ],
)
def test_what_is_refused(data, why):
    assert reason(pictures.opened, data, BIG) == why


def test_deep_colour_is_refused_and_not_cut_to_8_bits():
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = b"".join(b"\0" + bytes(9 * 6) for _ in range(9))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 16, 2, 0, 0, 0))
    data += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert reason(pictures.opened, data, BIG) == "unsupported_mode"


@pytest.mark.parametrize(
    ("kind", "extension", "wanted", "name"),
    [
        ("PNG", "png", "same", "png"),
        ("JPEG", "jpeg", "same", "jpeg"),
        ("JPEG", "png", "same", "jpg"),
        ("TIFF", "tiff", "same", "tiff"),
        ("PNG", "png", "webp", "webp"),
        ("WEBP", "jpg", "same", "webp"),
        ("GIF", "gif", "same", "png"),
        ("AVIF", "avif", "same", "png"),
        ("GIF", "gif", "webp", "webp"),
    ],
)
def test_the_extension_says_what_the_file_is(kind, extension, wanted, name):
    buffer = io.BytesIO()
    noise("RGB", (9, 9)).save(buffer, kind)
    picture = pictures.opened(buffer.getvalue(), BIG)
    assert pictures.extension_of(picture, extension, wanted) == name
    if wanted == "same" and kind in ("GIF", "AVIF"):
        assert pictures.extension_of(picture, extension, wanted, painted=False) == extension
