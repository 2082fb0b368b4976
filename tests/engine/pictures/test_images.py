"""Every odd kind of picture becomes 8-bit grey or RGB, or one clear ValueError."""

import io
import struct
import sys
import zlib

import numpy as np
import profiles
import pytest
from PIL import Image, ImageCms

from noiseweave.engine.pictures import images


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def bomb() -> bytes:
    """A 20,000 x 20,000 one-bit PNG: 50 MB of zeros in 50 kB."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(bytes(2501 * 20_000), 9)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


PICTURE = Image.fromarray(noise(40, 30))
BAD = {
    "zero bytes": (b"", "empty_picture"),
    "text": (b"this is no picture at all", "not_an_image"),
    "html error page": (b"<!DOCTYPE html><html></html>" * 40, "not_an_image"),
    "ppm": (encoded(PICTURE, "PPM"), "not_an_image"),
    "half a gif": (encoded(PICTURE, "GIF")[:900], "truncated_image"),
    "half a tiff": (encoded(PICTURE, "TIFF")[:900], "truncated_image"),
    "half an avif": (encoded(PICTURE, "AVIF")[:400], "not_an_image"),
    "floats": (encoded(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"), "unsupported_mode"),
    "32 bits": (encoded(Image.fromarray(np.ones((8, 8), np.int32)), "TIFF"), "unsupported_mode"),
    "png signature alone": (b"\x89PNG\r\n\x1a\n", "not_an_image"),
    "half a png": (encoded(PICTURE)[:1500], "truncated_image"),
    "half a jpg": (encoded(PICTURE, "JPEG")[:900], "truncated_image"),
    "half a progressive jpg": (encoded(PICTURE, "JPEG", progressive=True)[:900], "truncated_image"),
    "half a webp": (encoded(PICTURE, "WEBP")[:500], "truncated_image"),
    "half a bmp": (encoded(PICTURE, "BMP")[:900], "truncated_image"),
    "bomb": (bomb(), "too_large"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("error")
def test_bad_picture_has_its_reason(name):
    data, reason = BAD[name]
    with pytest.raises(ValueError, match=f"^{reason}: "):
        images.decode(data)


def test_bomb_is_refused_before_its_pixels_are_read(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("pixels were read"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("pixels were read"))
    with pytest.raises(ValueError, match=r"^too_large: 20000x20000|^too_large: .*exceeds"):
        images.decode(bomb())


def test_max_pixels_is_a_bound_that_may_be_reached():
    data = encoded(PICTURE)
    assert images.decode(data, max_pixels=1200).shape == (40, 30, 3)
    with pytest.raises(ValueError, match="too_large: 30x40, at most 1199"):
        images.decode(data, max_pixels=1199)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"])
def test_any_cut_is_an_error_or_loses_no_pixel(format):
    data = encoded(Image.fromarray(noise(16, 16)), format)
    whole = images.decode(data)
    seen = set()
    for end in range(len(data)):
        try:
            assert np.array_equal(images.decode(data[:end]), whole), end
        except ValueError as e:
            seen.add(str(e).split(":")[0])
    assert seen == {"empty_picture", "not_an_image", "truncated_image"}


def test_damaged_bytes_raise_nothing_but_a_reason():
    random, seen = np.random.default_rng(1), set()
    for format in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"):
        data = np.frombuffer(encoded(Image.fromarray(noise(16, 16)), format), np.uint8)
        for _ in range(60):
            hurt = data.copy()
            hurt[random.integers(0, min(80, len(hurt)), 3)] = random.integers(0, 256, 3)
            try:
                assert images.decode(hurt.tobytes(), max_pixels=10**6).shape[2] == 3
            except ValueError as e:
                seen.add(str(e).split(":")[0])
    assert seen <= {"not_an_image", "truncated_image", "too_large", "unsupported_mode"}


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_one_pixel(format, channels):
    picture = images.decode(encoded(Image.new("RGB", (1, 1), (90, 90, 90)), format), channels)
    assert picture.shape == (1, 1, channels)
    assert picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - 90).max() <= 2
    assert images.fit(picture, 8).shape == (8, 8, channels)


def test_palette_png_is_its_colours():
    array = noise(8, 8) // 64 * 64
    data = encoded(Image.fromarray(array).convert("P", palette=Image.Palette.ADAPTIVE, colors=256))
    assert Image.open(io.BytesIO(data)).mode == "P"
    assert np.array_equal(images.decode(data), array)


def test_cmyk_jpeg_has_its_colour():
    data = encoded(Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK"), "JPEG", quality=100)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert np.abs(images.decode(data).astype(int) - (200, 40, 90)).max() <= 3


@pytest.mark.parametrize("value", [0, 200, 257, 32_896, 65_535])
def test_16_bit_grey_keeps_its_brightness(value):
    """A dark 16-bit picture stays dark: its scale is that of its format, not of its brightest pixel."""
    data = encoded(Image.fromarray(np.full((4, 4), value, np.uint16)))
    assert (images.decode(data, channels=1) == round(value / 257)).all()


@pytest.mark.parametrize("value", [0, 200, 257, 32_896, 65_535])
@pytest.mark.parametrize(("order", "white_is_zero"), [("<", False), ("<", True), (">", False)])
def test_16_bit_tiff_keeps_its_brightness(value, order, white_is_zero):
    array = np.full((4, 4), value, np.uint16)
    data = grey_tiff(array.astype(order + "u2").tobytes(), 4, 4, 16, order, white_is_zero)
    wanted = round((65_535 - value if white_is_zero else value) / 257)
    assert (images.decode(data, channels=1) == wanted).all()
    assert (images.decode_plain(data) == wanted).all()
    assert images.kind_of(data) == (1, 4)


def test_12_bit_tiff_is_scaled_by_its_own_white():
    data = grey_tiff(bytes.fromhex("fff800000001"), 4, 1, 12, "<")  # 0xfff, 0x800, 0x000, 0x001
    assert images.decode(data, channels=1)[0, :, 0].tolist() == [255, round(0x800 / 4095 * 255), 0, 0]


def grey_tiff(
    pixels: bytes, width: int, height: int, bits: int, order: str, white_is_zero: bool = False
) -> bytes:
    """A TIFF of one strip, made by hand: Pillow writes neither 12 bits nor the upper byte first."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 0 if white_is_zero else 1}
    tags |= {273: 8 + 2 + 12 * 9 + 4, 277: 1, 278: height, 279: len(pixels)}
    rows = b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in sorted(tags.items()))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    return head + rows + bytes(4) + pixels


def test_cmyk_tiff_has_its_colour():
    data = encoded(Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK"), "TIFF")
    assert (images.decode(data) == (200, 40, 90)).all()


def test_lab_tiff_has_its_colour():
    """CIE Lab of a colour by scikit-image, its white brought to D50 as Bradford does -> a TIFF -> the colour."""
    from skimage.color import rgb2xyz, xyz2lab

    colour = np.array([[[200, 40, 90]]], np.uint8)
    to_d50 = np.array(
        [[1.0479, 0.0229, -0.0502], [0.0296, 0.9904, -0.0171], [-0.0092, 0.0151, 0.7519]]
    )  # http://www.brucelindbloom.com/index.html?Eqn_ChromAdapt.html
    lightness, a, b = xyz2lab(rgb2xyz(colour) @ to_d50.T, illuminant="D50")[0, 0]
    pixels = np.rint([lightness * 2.55, a, b]).astype(np.int64).astype(np.uint8)  # a and b are signed
    data = encoded(Image.frombytes("LAB", (8, 8), pixels.tobytes() * 64), "TIFF")
    assert Image.open(io.BytesIO(data)).mode == "LAB"
    assert np.abs(images.decode(data).astype(int) - colour).max() <= 4


@pytest.mark.parametrize("format", ["GIF", "TIFF", "AVIF", "WEBP", "PNG"])
def test_of_several_frames_the_first_is_the_picture(format):
    first, second = Image.new("RGB", (8, 8), (200, 40, 90)), Image.new("RGB", (8, 8), (0, 0, 0))
    data = encoded(first, format, save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert np.abs(images.decode(data).astype(int) - (200, 40, 90)).max() <= 6


def test_transparent_gif_lies_on_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((1, 0), 1)
    assert images.decode(encoded(image, "GIF", transparency=0)).tolist() == [[[255] * 3, [10, 20, 30]]]


def test_heic_is_read_where_its_decoder_is_installed():
    pytest.importorskip("pillow_heif")
    upright = np.zeros((32, 64, 3), np.uint8)
    upright[:16, :32] = 200
    exif = Image.Exif()
    exif[0x0112] = 6
    images.readable()
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright, 1)))
    data = encoded(stored, "HEIF", quality=100, chroma=444, exif=exif.tobytes())
    assert np.abs(images.decode(data).astype(int) - upright).max() <= 6
    assert images.upright_size(data) == (32, 64)


def test_heic_without_a_decoder_says_where_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    images.readable.cache_clear()
    try:
        assert "HEIF" not in images.readable()
        with pytest.raises(ValueError, match=r"^no_decoder: HEIF .*pip install 'noiseweave\[heif\]'$"):
            images.decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
        assert images.decode(encoded(PICTURE)).shape == (40, 30, 3)
    finally:
        images.readable.cache_clear()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_are_white(mode):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 10, 10, 255))
    picture = images.decode(encoded(image.convert(mode)))
    assert picture.tolist() == [[[255] * 3, [10] * 3]]


def test_palette_with_transparency_is_laid_on_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((1, 0), 1)
    assert images.decode(encoded(image, transparency=0)).tolist() == [[[255] * 3, [10, 20, 30]]]


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "AVIF"])
def test_exif_rotation_is_applied(turn, format):
    """The stored picture is turned so that undoing the EXIF rotation must give the upright one."""
    upright = noise(6, 10)
    stored = [
        upright,
        upright[:, ::-1],
        upright[::-1, ::-1],
        upright[::-1],
        upright.swapaxes(0, 1),
        np.rot90(upright, 1),
        upright[::-1, ::-1].swapaxes(0, 1),
        np.rot90(upright, -1),
    ]
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"quality": 100, "subsampling": "4:4:4"} if format == "AVIF" else {}
    data = encoded(Image.fromarray(np.ascontiguousarray(stored[turn - 1])), format, exif=exif, **options)
    assert np.abs(images.decode(data).astype(int) - upright).max() <= (6 if format == "AVIF" else 0)
    assert images.upright_size(data) == upright.shape[:2]


def test_broken_exif_does_not_cost_the_picture():
    for exif in (
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\xff\0\0\0\0\0\0\0",
    ):
        data = encoded(PICTURE, "JPEG", exif=exif)
        assert images.decode(data).shape == (40, 30, 3)
        assert images.upright_size(data) == (40, 30)


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey_modes(mode):
    picture = images.decode(encoded(Image.new(mode, (3, 2), 255 if mode == "L" else 1)), channels=1)
    assert picture.shape == (2, 3, 1)
    assert (picture == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("extension", ["png", "webp"])
def test_lossless_formats_give_the_same_pixels_back(extension, channels):
    picture = noise(9, 7, channels)
    assert np.array_equal(images.decode(images.encode(picture, extension), channels), picture)


def test_jpg_is_close_and_quality_counts():
    ramp = np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8)[:, None, None], (64, 64, 3)).copy()
    assert np.abs(images.decode(images.encode(ramp, "jpg")).astype(int) - ramp).max() <= 8
    assert len(images.encode(noise(64, 64), "jpg", 95)) > len(images.encode(noise(64, 64), "jpg", 50))


def test_unknown_format_is_named():
    with pytest.raises(ValueError, match="image format 'gif': png, jpg or webp"):
        images.encode(noise(2, 2), "gif")


def test_fit_keeps_the_centre_square():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert (images.fit(wide, 10) == 255).all()
    assert (images.fit(wide.swapaxes(0, 1), 10) == 255).all()
    assert images.fit(wide, 24).shape == (24, 24, 3)


def test_fit_leaves_the_right_size_alone():
    picture = noise(12, 12)
    assert np.array_equal(images.fit(picture, 12), picture)


def with_profile(image, profile, kind="PNG", **more):
    buffer = io.BytesIO()
    image.save(buffer, kind, icc_profile=profile, **more)
    return buffer.getvalue()


@pytest.mark.parametrize("colour", [(220, 30, 30), (30, 200, 60), (128, 128, 128), (250, 240, 10)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_profiles_colours_are_those_of_srgb(colour, mode):
    image = Image.new("RGB", (4, 4), colour)
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    got = images.decode(with_profile(image, profiles.rgb(profiles.P3)))
    np.testing.assert_allclose(got[0, 0], profiles.seen(colour, profiles.P3), atol=2)


def test_a_grey_profile_is_of_lightness_alone():
    image = Image.new("L", (4, 4), 100)
    data = with_profile(image, profiles.grey(1.0))
    wanted = profiles.encoded(np.array(100 / 255))
    for channels in (1, 3):
        np.testing.assert_allclose(images.decode(data, channels)[0, 0], [wanted] * channels, atol=2)


def test_transparent_parts_lie_on_white_whatever_the_profile():
    image = Image.new("RGBA", (4, 4), (220, 30, 30, 0))
    assert (images.decode(with_profile(image, profiles.rgb(profiles.P3))) == 255).all()


@pytest.mark.parametrize("profile", [b"nonsense", profiles.rgb(profiles.P3)[:200], profiles.grey(2.2)])
def test_a_profile_that_is_broken_or_of_another_kind_changes_nothing(profile):
    image = Image.new("RGB", (4, 4), (220, 30, 30))
    for kind in ("PNG", "JPEG", "WEBP"):
        assert images.has_broken_profile(with_profile(image, profile, kind))
    assert (images.decode(with_profile(image, profile)) == (220, 30, 30)).all()


def test_a_profile_that_is_used_or_not_there_is_not_broken():
    image = Image.new("RGB", (4, 3), (220, 30, 30))
    grey = with_profile(image.convert("L"), profiles.grey(1.0))
    for data in (
        with_profile(image, profiles.rgb(profiles.P3)),
        with_profile(image, None),
        grey,
        b"",
        b"words",
    ):
        assert not images.has_broken_profile(data)


def test_srgbs_own_profile_changes_nothing():
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    np.testing.assert_array_equal(images.decode(with_profile(Image.fromarray(values), own)), values)
