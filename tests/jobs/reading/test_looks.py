"""What an input's pictures are, and the line about a model that does not fit them."""

import io

import numpy as np
import pytest
from evaluating import shard
from PIL import Image

from noiseweave.engine.pictures import images
from noiseweave.jobs.reading import looks
from noiseweave.jobs.reading.places import Place


def grey(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 1), np.uint8)


def colour(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


def encoded(*pictures: np.ndarray) -> list[bytes]:
    return [images.encode(picture) for picture in pictures]


def test_the_middle_one_and_whether_any_has_colour():
    seen = looks.look(encoded(grey(16, 16), colour(64, 80), grey(200, 100), grey(9, 400)))
    assert seen == looks.Look(sizes=((16, 16), (64, 80), (200, 100), (9, 400)), coloured=1)
    assert (seen.middle, seen.channels) == ((16, 16), 3), "of 9, 16, 64 and 100"
    assert str(seen) == "16x16 in colour (the middle one of 4 looked at)"
    assert str(looks.look(encoded(grey(10, 20)))) == "20x10 in grey"


def test_grey_that_is_stored_as_rgb_is_grey():
    assert looks.look(encoded(grey(8, 8).repeat(3, 2))).channels == 1


def test_what_does_not_open_is_passed_over():
    assert looks.look([b"", b"no picture", *encoded(grey(8, 9))]).sizes == ((8, 9),)
    assert looks.look([b"no picture"]) is None
    assert looks.warning(None, "m", 16, 1) is None


def test_a_large_jpeg_says_its_own_size_upright():
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.fromarray(np.full((600, 1200, 3), (200, 30, 30), np.uint8)).save(buffer, "JPEG", exif=exif)
    assert images.glance(buffer.getvalue()) == ((1200, 600), True)


def test_pictures_are_looked_at_all_over_the_shards(tmp_path):
    paths = []
    for n in range(20):
        pictures = {f"k{i}": grey(10 + n, 10 + n) for i in range(9)}
        paths.append(str(shard(tmp_path / f"{n:02d}.tar", pictures)))
    seen = looks.look_at_shards(paths)
    assert len(seen.sizes) == 32
    assert {height for height, _ in seen.sizes} == {10, 12, 15, 17, 20, 22, 25, 27}
    assert len(looks.look_at_shards(paths[:1]).sizes) == 9
    assert looks.look_at_places([Place(path=str(tmp_path / "none.png"))]) is None


@pytest.mark.parametrize(
    ("picture", "side", "channels", "words"),
    [
        (grey(8, 8), 16, 1, None),
        (grey(32, 90), 16, 1, None),
        (colour(64, 64), 64, 3, None),
        (grey(33, 90), 16, 1, "the pictures are 90x33 in grey, m draws 16x16 in grey: they are made smaller"),
        (
            colour(16, 16),
            16,
            1,
            "the pictures are 16x16 in colour, m draws 16x16 in grey: they lose their colour",
        ),
        (
            colour(240, 320),
            16,
            1,
            "the pictures are 320x240 in colour, m draws 16x16 in grey: they are made smaller and they lose their "
            "colour",
        ),
        (
            grey(64, 64),
            64,
            3,
            "the pictures are 64x64 in grey, m draws 64x64 in colour: what it draws may have colour",
        ),
    ],
)
def test_the_line_has_both_figures(picture, side, channels, words):
    assert looks.warning(looks.look(encoded(picture)), "m", side, channels) == words
