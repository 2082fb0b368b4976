"""Marks: read back by Pillow and an XML parser, in every format; the pixels are those of an unmarked file."""

import io

import numpy as np
import pytest
from marks import read
from PIL import Image

from noiseweave import __version__
from noiseweave.engine.pictures import images, provenance
from noiseweave.engine.pictures.provenance import CREATED, Mark

MARK = Mark(
    source=CREATED,
    model='/home/ann/models/d&d "x" \x00<y>',
    model_hash="ab12",
    seed=7,
    parents=("11" * 32, "22" * 32),
    how={"mode": "linear", "ratio": 0.25},
)


@pytest.mark.parametrize("extension", ["png", "jpg", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_marked_file_tells_all_and_has_the_same_pixels(extension, channels):
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, channels), np.uint8)
    bare, marked = images.encode(picture, extension), images.encode(picture, extension, mark=MARK)
    assert marked == images.encode(picture, extension, mark=MARK)
    assert np.array_equal(images.decode(bare, channels), images.decode(marked, channels))
    found = read(marked)
    assert (
        found["DigitalSourceType"] == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    )
    assert found["CreatorTool"] == f"Noiseweave {__version__}"
    assert found["model"] == found["AISystemUsed"] == 'd&d "x" \ufffd<y>', "a path's folders are not told"
    assert [found[n] for n in ("model_hash", "seed", "mode", "ratio")] == ["ab12", "7", "linear", "0.25"]
    assert found["parents"] == list(MARK.parents)
    assert "xmp" not in Image.open(io.BytesIO(bare)).info


def test_a_png_says_it_in_plain_text_too():
    text = Image.open(io.BytesIO(images.encode(np.zeros((8, 8, 1), np.uint8), mark=MARK))).text
    assert text["Software"] == f"Noiseweave {__version__}"
    for part in ("generative AI", "ab12", "seed 7", "ratio 0.25", *MARK.parents):
        assert part in text["Source"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("digits-ddpm", "digits-ddpm"),
        ("org/model", "org/model"),
        ("./out/ddpm/", "ddpm"),
        ("s3://b/k/m", "m"),
    ],
)
def test_a_hub_id_is_told_whole_and_a_path_by_its_end(name, said):
    assert provenance.public_name(name) == said
