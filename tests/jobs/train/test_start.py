"""train --init: the weights it begins with, what is taken of the model, what contradicts it."""

import json

import pytest
import torch
from training import arguments, make_shards, picture, weights_of

from noiseweave import models
from noiseweave.cluster import shards, storage
from noiseweave.jobs.arguments import parse
from noiseweave.jobs.cli import main
from noiseweave.jobs.train import start

FLOW = ("--model.kind", "flow", "--model.classes", "2")


def labelled(folder, names):
    rows = [(f"{i:03d}", {"png": picture(i), "cls": str(i % len(names)).encode()}) for i in range(16)]
    storage.write(f"{folder}/shards/000.tar", shards.pack(rows))
    storage.write_json(f"{folder}/classes.json", names)
    return f"{folder}/shards"


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A small flow of two classes."""
    folder = tmp_path_factory.mktemp("first")
    source = labelled(folder, ["oak", "rose"])
    assert main(["train", *arguments(source, folder / "model", *FLOW)]) == 0
    return folder / "model"


def on(first, source, output, *more):
    """Arguments of a run that starts from a model and hardly moves."""
    keep = ("--data.buffer=8", "--ema=0", "--checkpoint.every=1", "--preview.every=0", "--batch=8")
    hardly = ("--steps=1", "--optimizer.lr=1e-12", "--optimizer.warmup=0", "--optimizer.weight_decay=0")
    inline = ("--cluster.address=inline", "--cluster.gpus_per_worker=0")
    named = ["--input", str(source), "--output", str(output), "--init", str(first)]
    return ["train", *named, *keep, *hardly, *inline, *more]


def test_it_begins_with_the_models_weights_and_its_classes_by_name(first, tmp_path, capsys):
    source = labelled(tmp_path, ["rose", "elm", "oak"])
    assert main(on(first, source, tmp_path / "model", "--model.classes=-1")) == 0
    assert "which knows 2 of 3 classes" in capsys.readouterr().out
    old, new = weights_of(first), weights_of(tmp_path / "model")
    rows = old.pop("class_embedding.weight"), new.pop("class_embedding.weight")
    torch.testing.assert_close(rows[1], rows[0][[1, 2, 0, 2]], atol=1e-6, rtol=0)
    assert old.keys() == new.keys()
    for name, weight in old.items():
        torch.testing.assert_close(new[name], weight, atol=1e-6, rtol=0)
    config = json.loads((tmp_path / "model" / "_run" / "config.json").read_text())
    assert "flow" in json.dumps(config)


def test_numbers_without_names_are_said_to_be_the_models(first, tmp_path, capsys):
    source = labelled(tmp_path, ["oak", "rose"])
    storage.remove(f"{tmp_path}/classes.json")
    assert main(on(first, source, tmp_path / "model", "--model.classes=-1")) == 0
    said = capsys.readouterr().out
    assert "the input has no class names: its numbers are taken for the model's classes (oak, rose)" in said


def test_a_changed_model_is_another_run(first, tmp_path, capsys):
    source = make_shards(tmp_path / "shards")
    copy = tmp_path / "copy"
    for file in first.rglob("*"):
        if file.is_file() and "_run" not in file.parts:
            storage.write(str(copy / file.relative_to(first)), file.read_bytes())
    assert main(on(copy, source, tmp_path / "model")) == 0
    weights = next((copy / "unet").glob("*.safetensors"))
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(bytes(raw))
    with pytest.raises(SystemExit) as e:
        main(on(copy, source, tmp_path / "model"))
    assert e.value.code == 2
    assert "init_hash" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--model.kind=linear_mixing",), "model.kind='linear_mixing': flow, as init="),
        (("--model.vae=taesd",), "model.vae='taesd': left out: init has its own"),
        (("--data.size=16",), "data.size=16: 8, as init="),
        (("--data.channels=3",), "data.channels=3: 1, as init="),
        (("--unet.layers=2",), "unet="),
        (("--schedule.timesteps=90",), "schedule="),
    ],
)
def test_what_contradicts_the_model_is_refused(first, tmp_path, capsys, more, words):
    with pytest.raises(SystemExit) as e:
        main(on(first, make_shards(tmp_path / "shards"), tmp_path / "model", *more))
    assert e.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_a_model_that_is_not_there_or_of_another_kind_is_one_line(tmp_path, capsys):
    source = make_shards(tmp_path / "shards")
    with pytest.raises(SystemExit) as e:
        main(on(tmp_path / "none", source, tmp_path / "model"))
    assert e.value.code == 2
    assert "none" in capsys.readouterr().err
    vae = ("--model.kind=vae", "--data.size=16", "--steps=1")
    assert main(["train", *arguments(source, tmp_path / "vae", *vae)]) == 0
    with pytest.raises(SystemExit) as e:
        main(on(tmp_path / "vae", source, tmp_path / "model"))
    assert e.value.code == 2
    assert "a ddpm, linear_mixing or flow, and no vae" in capsys.readouterr().err


def test_a_shipped_latent_model_gives_its_size_and_its_vae():
    config = start.settled(parse("train", on("flowers-flow", "i", "o")[1:]))
    assert (config.data.size, config.data.channels, config.model.kind) == (256, 3, "flow")
    assert config.model.vae == f"{models.resolve('flowers-flow')}/vqvae"
