"""Training of a photo model ends with what its pictures are of, beside its weights."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from flows import inline
from skimage import data
from training import arguments

from noiseweave.cluster import shards, storage
from noiseweave.engine.features import networks, training_set
from noiseweave.engine.pictures import images

SCRIPT = Path(__file__).parents[3] / "scripts/training_features.py"
PHOTOS = ("--data.size=64", "--data.channels=3", "--steps=1", "--checkpoint.every=1", "--optimizer.warmup=0")


def make(folder, count):
    """Crops of one photo, in two shards."""
    photo, rng = data.astronaut(), np.random.default_rng(0)
    corners = rng.integers(0, 400, (count, 2))
    rows = [
        (f"{n:03d}", {"jpg": images.encode(photo[y : y + 100, x : x + 100], "jpg")})
        for n, (y, x) in enumerate(corners)
    ]
    for n in range(2):
        storage.write(f"{folder}/{n}.tar", shards.pack(rows[n::2]))
    return folder


@pytest.mark.parametrize(("count", "there"), [(60, True), (49, False)])
def test_the_file_lies_beside_the_weights_where_there_are_pictures_enough(count, there, tmp_path):
    out = tmp_path / "model"
    assert inline("train", *arguments(make(tmp_path / "in", count), out), *PHOTOS) == 0
    known = training_set.read("m", out)
    assert (known is not None) == there
    assert (out / "model_index.json").is_file()
    if known:
        assert known.weights == training_set.weights()
        assert len(known.held_N) == 12
        assert not known.nearness(known.centre_KD).far


def test_the_script_writes_into_a_folder_what_train_would(tmp_path, monkeypatch):
    source, model = make(tmp_path / "in", 60), tmp_path / "model"
    assert inline("train", *arguments(source, model), *PHOTOS) == 0
    written = (model / training_set.FILE).read_bytes()
    (model / training_set.FILE).unlink()
    monkeypatch.setattr(sys, "argv", ["training_features.py", str(source), str(model)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert (model / training_set.FILE).read_bytes() == written


def test_a_network_that_fails_costs_the_file_alone(tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("no such weights")

    monkeypatch.setattr(networks, "load", broken)
    out = tmp_path / "model"
    assert inline("train", *arguments(make(tmp_path / "in", 60), out), *PHOTOS) == 0
    assert (out / "model_index.json").is_file()
    assert not (out / training_set.FILE).exists()
    assert "augment will not compare" in capsys.readouterr().err


def test_small_or_grey_pictures_have_none(tmp_path):
    for name, how in {"small": ("--data.size=32",), "grey": ("--data.channels=1",)}.items():
        out = tmp_path / name
        assert inline("train", *arguments(make(tmp_path / "in", 60), out), *PHOTOS, *how) == 0
        assert not (out / training_set.FILE).exists()
