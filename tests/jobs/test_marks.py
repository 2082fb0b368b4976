"""Marks in what the jobs write: read back, the parents' hashes those of their files, the pixels unchanged."""

import hashlib
import io
import json

import augments
import fusing
import inpaints
import numpy as np
import pytest
import sampling
from flows import DIGITS
from inpaints import block, noise, pair, saved
from marks import read, source
from PIL import Image
from sklearn.datasets import load_digits

from noiseweave.cluster import shards, storage
from noiseweave.engine.pictures import files as pictures
from noiseweave.engine.pictures import images
from noiseweave.engine.pictures.provenance import EDITED, Mark

QUICK = [
    *DIGITS,
    "--inversion.num_steps",
    3,
    "--inversion.skip",
    1,
    "--pairing.upper",
    0.97,
    "--pairing.max_pairs",
    3,
]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("window", [[], ["--pairing.scope", "window"]])
def test_augment(tmp_path, window):
    data = load_digits()
    grey = np.rint(data.images[:40] / 16 * 255).astype(np.uint8)[..., None]
    rows = {
        f"d{i:02d}": {"png": images.encode(p), "cls": str(y).encode()}
        for i, (p, y) in enumerate(zip(grey, data.target, strict=False))
    }
    storage.write(str(tmp_path / "in/a.tar"), shards.pack(list(rows.items())))
    common = ["--input", tmp_path / "in", *QUICK, *window]
    _, bare = augments.through(tmp_path / "bare", *common)
    _, made = augments.through(tmp_path / "marked", *common, "--samples.provenance", "true")
    assert len(made) == 3
    for key, files in made.items():
        known = json.loads(files["json"])
        hashes = [sha256(rows[parent["key"]]["png"]) for parent in known["parents"]]
        assert [parent["sha256"] for parent in known["parents"]] == hashes
        told = read(files["png"])
        assert source(files["png"]) == "trainedAlgorithmicMedia"
        assert told["parents"] == hashes
        assert told["model_hash"] == known["model_hash"]
        for name in ("seed", "pair_seed", "mode", "ratio", "model"):
            assert told[name] == str(known[name])
        assert read(bare[key]["png"]) is None
        assert json.loads(bare[key]["json"]) == known
        assert np.array_equal(images.decode(bare[key]["png"], 1), images.decode(files["png"], 1))
    assert source((tmp_path / "marked/contact_sheet.png").read_bytes()) == "compositeSynthetic"


def test_sample(tmp_path):
    model = ["--model.name", sampling.tiny(tmp_path / "m", "ddpm"), "--count", 3, "--sampler.steps", 2]
    more = ["--trajectory", 2, "--grid", "1x2", "--image_format", "webp"]
    sampling.drawn(tmp_path / "bare", *model, *more)
    sampling.drawn(tmp_path / "marked", *model, *more, "--provenance", "true")
    bare, made = sampling.read(tmp_path / "bare"), sampling.read(tmp_path / "marked")
    assert len(made) == 3
    for i, (key, files) in enumerate(made.items()):
        assert source(files["webp"]) == "trainedAlgorithmicMedia"
        assert read(files["webp"])["number"] == str(i)
        assert read(files["webp"])["parents"] == []
        assert np.array_equal(images.decode(bare[key]["webp"]), images.decode(files["webp"]))
    for name in ("grid.png", "trajectories/sample-00000000.png", "trajectories/sample-00000000.webp"):
        assert source((tmp_path / "marked" / name).read_bytes()) == "trainedAlgorithmicMedia"
        assert read((tmp_path / "bare" / name).read_bytes()) is None


def test_fuse(digits):
    fusing.fused("a.png", "b.png", "--output", "bare", "--ratio", "0.3")
    fusing.fused("a.png", "b.png", "--output", "marked", "--ratio", "0.3", "--provenance")
    told = read((digits / "marked/fused.png").read_bytes())
    assert told["parents"] == [sha256((digits / name).read_bytes()) for name in ("a.png", "b.png")]
    assert (told["mode"], told["ratio"], told["weights"]) == ("cross_fade", "0.3", "0.7 0.3")
    assert source((digits / "marked/fused.png").read_bytes()) == "trainedAlgorithmicMedia"
    assert source((digits / "marked/sheet.png").read_bytes()) == "compositeSynthetic"
    assert read((digits / "marked/input-0.png").read_bytes()) is None, "a model drew nothing of it"
    same = fusing.picture(digits / "bare/fused.png") == fusing.picture(digits / "marked/fused.png")
    assert same.all()


def test_an_edit_of_one_picture_is_an_edit(digits):
    fusing.fused("a.png", "--output", "o", "--edit.name", "variation", "--provenance")
    assert source((digits / "o/fused.png").read_bytes()) == EDITED


def test_inpaint_marks_what_it_painted_and_only_that(tmp_path):
    where, nothing = block((20, 14), 3, 3, 6, 9), np.zeros((14, 20), bool)
    for name, hole in (("a.png", where), ("b.jpg", where), ("c.bmp", where), ("same.png", nothing)):
        pair(tmp_path, name, noise("RGB", (20, 14)), hole)
    common = [*inpaints.folders_of(tmp_path), *inpaints.HARD]
    assert inpaints.drawn(tmp_path / "bare", *common) == 0
    assert inpaints.drawn(tmp_path / "o", *common, "--provenance", "--rows", 2) == 0
    for name in ("a.png", "b.jpg"):
        data = (tmp_path / "o/restored" / name).read_bytes()
        assert source(data) == "compositeWithTrainedAlgorithmicMedia"
        assert read(data)["parents"] == [sha256((tmp_path / "imgs" / name).read_bytes())]
        assert (
            inpaints.stored(tmp_path / "o/restored" / name)
            == inpaints.stored(tmp_path / "bare/restored" / name)
        ).all()
    assert read((tmp_path / "o/restored/a.png").read_bytes())["seed"] == "3"
    assert read((tmp_path / "o/restored/a_2.png").read_bytes())["seed"] == "4"
    assert read((tmp_path / "o/restored/same.png").read_bytes()) is None
    assert source((tmp_path / "o/collages/a_collage.png").read_bytes()) == "compositeSynthetic"
    assert json.loads((tmp_path / "o/lineage/a.json").read_text())["parents"][0]["key"] == "a"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_mark_goes_beside_exif_icc_alpha_and_resolution(kind):
    exif = Image.Exif()
    exif[0x010E] = "a mural"
    icc = b"profile " * 20
    image = noise("RGB" if kind == "JPEG" else "RGBA", (20, 12))
    given = {"exif": exif if kind == "TIFF" else exif.tobytes(), "icc_profile": icc, "dpi": (300, 300)}
    picture = pictures.opened(saved(image, kind, **given), 1 << 20)
    extension = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "TIFF": "tif"}[kind]
    mark = Mark(source=EDITED, model="m", model_hash="h", seed=1, parents=["11" * 32])
    bare, marked = (
        Image.open(io.BytesIO(pictures.encode(picture.image, picture, extension, m))) for m in (None, mark)
    )
    assert np.array_equal(np.asarray(bare), np.asarray(marked))
    assert marked.getexif()[0x010E] == "a mural"
    assert marked.info["icc_profile"] == icc
    assert marked.info.get("dpi") == bare.info.get("dpi")
    assert b"compositeWithTrainedAlgorithmicMedia" in marked.info["xmp"]


def test_a_bmp_cannot_be_marked(tmp_path, capsys):
    error = inpaints.refused(
        capsys, tmp_path, "--image", "a", "--mask", "b", "--provenance", "--output_format", "bmp"
    )
    assert "output_format='bmp'" in error
