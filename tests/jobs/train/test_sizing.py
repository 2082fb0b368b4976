"""train without data.size and data.channels: they come from the pictures, and the run is of what was taken."""

import json

import numpy as np
import pytest
import training
from flows import inline

from noiseweave.cluster import shards, storage
from noiseweave.engine.pictures import images
from noiseweave.jobs.arguments import parse
from noiseweave.jobs.train import sizing


def photos(folder, sizes, channels=3) -> str:
    """A shard of random pictures of these (height, width)."""
    draw = np.random.default_rng(0)
    pictures = [draw.integers(0, 255, (*size, channels), np.uint8) for size in sizes]
    rows = [(f"{i:03d}", {"png": images.encode(picture)}) for i, picture in enumerate(pictures)]
    storage.write(f"{folder}/a.tar", shards.pack(rows))
    return str(folder)


def settled(source, *more):
    return sizing.settled(parse("train", ["--input", source, "--output", "o", *more]))[0].data


@pytest.mark.parametrize(
    ("sizes", "more", "size"),
    [
        ([(16, 16)] * 3, [], 16),
        ([(240, 320), (320, 240), (100, 500)], [], 64),
        ([(16, 16), (50, 90), (400, 400)], [], 48),  # the middle one, brought down to a multiple of 4
        ([(16, 16)] * 5 + [(64, 64)] * 4, [], 16),
        ([(9, 9)], [], 8),
        ([(2, 2)], [], 4),
        ([(50, 50)], ["--unet.channels=32,64,64,96"], 48),
        ([(50, 50)], ["--model.kind=vae"], 32),
        ([(8, 8)], ["--model.kind=dcgan"], 16),
        ([(500, 500)], ["--model.kind=dcgan"], 64),
        ([(500, 500)], ["--model.vae=taesd"], 256),
        ([(100, 100)], ["--model.vae=taesd"], 96),  # 8 pixels on a latent, halved twice
        ([(240, 320)], ["--data.size=32"], 32),
    ],
)
def test_the_size_is_what_fits(tmp_path, sizes, more, size):
    assert settled(photos(tmp_path, sizes), *more).size == size


def test_the_channels_are_the_pictures(tmp_path):
    assert settled(photos(tmp_path / "grey", [(16, 16)], 1)).channels == 1
    assert settled(photos(tmp_path / "colour", [(16, 16)])).channels == 3
    assert settled(photos(tmp_path / "colour", [(16, 16)]), "--data.channels=1").channels == 1
    assert settled(photos(tmp_path / "grey", [(64, 64)], 1), "--model.vae=taesd").channels == 3


def test_what_was_taken_is_said_and_what_was_given_is_warned_of(tmp_path, capsys):
    source, small = photos(tmp_path / "in", [(240, 320)] * 8), tmp_path / "small.yaml"
    small.write_text(training.SMALL.replace("data: {size: 8, channels: 1, buffer: 8}", "data: {buffer: 8}"))
    words = ["--config", small, "--input", source, "--steps", 1]
    seen = "the pictures are 320x240 in colour (the middle one of 8 looked at)"
    assert inline("train", *words, "--output", tmp_path / "a") == 0
    told = capsys.readouterr()
    assert f"{seen}: data.size=64, data.channels=3\n" in told.out
    assert "warning" not in told.err
    assert inline("train", *words, "--output", tmp_path / "b", "--data.size=16", "--data.channels=1") == 0
    text = "the model that is trained draws 16x16 in grey: they are made smaller and they lose their colour"
    assert f"warning: {seen}, {text}\n" in capsys.readouterr().err


def test_no_picture_that_opens_needs_both_given(tmp_path):
    storage.write(f"{tmp_path}/a.tar", shards.pack([("a", {"png": b"no picture"})]))
    with pytest.raises(ValueError, match="none of the pictures looked at opens"):
        settled(str(tmp_path))
    assert settled(str(tmp_path), "--data.size=8", "--data.channels=1").size == 8


def test_colour_photos_make_a_model_of_colour(tmp_path):
    """The whole command, without any size; the same command goes on with it."""
    source = photos(tmp_path / "in", [(20, 30)] * 8)
    small = tmp_path / "small.yaml"
    small.write_text(training.SMALL.replace("data: {size: 8, channels: 1, buffer: 8}", "data: {buffer: 8}"))
    words = ["--config", small, "--input", source, "--output", tmp_path / "o", "--steps", 2]
    assert inline("train", *words) == 0
    about = json.loads((tmp_path / "o/noiseweave.json").read_text())
    assert (about["size"], about["channels"]) == (20, 3)
    known = json.loads((tmp_path / "o/_run/config.json").read_text())
    assert (known["data.size"], known["data.channels"]) == (20, 3)
    assert inline("train", *words) == 0


def test_one_picture(tmp_path):
    (tmp_path / "one.png").write_bytes(images.encode(np.zeros((40, 44, 1), np.uint8)))
    data = settled(str(tmp_path / "one.png"))
    assert (data.size, data.channels) == (40, 1)
