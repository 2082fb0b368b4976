"""Each kind of base model learns digits, in this process."""

import dataclasses
import io
import os

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import AutoencoderKL, LDMPipeline, UNet2DModel
from training import alone, arguments, config_of, digit, falls, make_digits, make_shards, published

from noiseweave.cluster import shards, storage
from noiseweave.cluster.session import session
from noiseweave.engine.networks import base_models
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.pictures import images
from noiseweave.engine.sampling import samplers
from noiseweave.engine.sampling.recipes import SamplerRecipe
from noiseweave.jobs.cli import main
from noiseweave.jobs.train import input as train_input

QUICK = ("--steps", "20", "--optimizer.lr", "5e-3", "--optimizer.warmup", "2")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return make_digits(tmp_path_factory.mktemp("digits"))


KINDS = {
    "epsilon": ["--schedule.kind", "linear"],
    "sample": ["--objective.target", "sample"],
    "v": ["--objective.target", "v_prediction", "--schedule.kind", "scaled_linear"],
    "epsilon-min-SNR": ["--objective.min_snr", "5"],
    "sample-min-SNR": ["--objective.target", "sample", "--objective.min_snr", "5"],
    "flow": ["--model.kind", "flow"],
    "flow-optimal-transport": ["--model.kind", "flow", "--objective.coupling", "optimal_transport"],
    "classes": ["--model.classes", "-1", "--data.flip", "true"],
    "vae": ["--model.kind", "vae", "--data.size", "16"],
}


@pytest.mark.parametrize("name", KINDS)
def test_its_loss_falls_and_what_is_saved_draws(name, digits, tmp_path):
    config = config_of(digits, tmp_path / "out", *QUICK, *KINDS[name])
    link = alone(config)
    assert link.failure is None
    assert falls(link.losses(), to=0.8), link.losses()
    model = base_models.load(ModelConfig(name=published(config, link, tmp_path / "last")))
    label = torch.tensor([3, 10]) if model.classes else None
    drawn = samplers.draw(model, range(2), label, SamplerRecipe(steps=2), 0)
    assert drawn.image_BHWC.shape == (2, config.data.size, config.data.size, 1)
    assert drawn.image_BHWC.std() > 0


def test_a_dcgan_moves_both_networks_and_logs_both_losses(digits, tmp_path):
    gan = ("--model.kind", "dcgan", "--data.size", "16", "--optimizer.lr", "1e-3")
    link = alone(config_of(digits, tmp_path / "out", *QUICK, *gan))
    assert link.failure is None
    assert falls(link.losses("loss_d"), to=0.95), link.losses("loss_d")
    assert np.isfinite(link.losses("loss_g")).all()
    last = link.rows[-1]
    assert 0 < last["d_drawn"] < last["d_real"] < 1, "digits look more real than first attempts"
    early, late = (safetensors.torch.load(link.saved[step]["model.safetensors"]) for step in (5, 20))
    moved = {name.split(".")[0] for name in early if not torch.equal(early[name], late[name])}
    assert moved == {"generator", "discriminator"}
    state = torch.load(io.BytesIO(link.saved[20]["optimizer.pt"]), weights_only=True)
    assert state["optimizers"].keys() == moved


def test_linear_mixing_on_one_picture_restores_it(tmp_path):
    (tmp_path / "one.png").write_bytes(digit(0))
    more = ("--model.kind", "linear_mixing", "--steps", "60", "--optimizer.lr", "1e-2")
    config = config_of(tmp_path / "one.png", tmp_path / "out", *more)
    link = alone(config)
    assert falls(link.losses(), to=0.2), link.losses()
    model = base_models.load(ModelConfig(name=published(config, link, tmp_path / "last")))
    truth = images.decode(digit(0), 1)[None]
    noisy, belief = samplers.denoise_once(model, truth, 0.7, ["x"], 0)
    error = [np.abs(x.astype(float) - truth).mean() for x in (noisy, belief)]
    assert error[1] < 0.4 * error[0]


def test_one_picture_lies_in_the_claimed_folder_and_overwrite_keeps_it(tmp_path):
    (tmp_path / "one.png").write_bytes(digit(0))
    config = config_of(tmp_path / "one.png", tmp_path / "out")
    source = train_input.survey(config)
    assert not (tmp_path / "out").exists(), "looking at the input writes nothing"
    (tmp_path / "one.png").write_bytes(digit(1))
    assert train_input.survey(config).identity != source.identity, "another picture is another run"
    train_input.write_own(source)
    (place,) = shards.locate(source.shards[0].url)[0]
    assert storage.read_ranges(source.shards[0].url, [(place.offset, place.size)]) == [digit(0)]


@pytest.mark.parametrize(("dropout", "moved"), [("0", range(10)), ("1", [10])])
def test_labels_are_told_or_hidden(digits, tmp_path, dropout, moved):
    """Only the embeddings of classes that the network was told of move; number 10 means no class."""
    more = ("--model.classes", "10", "--model.label_dropout", dropout, "--optimizer.weight_decay", "0")
    link = alone(config_of(digits, tmp_path / "out", "--batch", "64", "--steps", "6", *more))
    early, late = (
        safetensors.torch.load(link.saved[step]["model.safetensors"])["unet.class_embedding.weight"]
        for step in (5, 6)
    )
    assert len(late) == 11
    assert set((early != late).any(1).nonzero().flatten().tolist()) == set(moved)


def test_as_many_classes_as_the_shards_have(digits, tmp_path):
    assert train_input.survey(config_of(digits, tmp_path / "out", "--model.classes", "-1")).classes == 10
    assert train_input.survey(config_of(digits, tmp_path / "out")).classes == 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--model.classes", "5"], "model.classes=5: more than 9, the highest label"),
        (["--model.kind", "gan"], "dcgan"),
        (["--schedule.kind", "square"], "scaled_linear"),
        (["--model.kind", "vae"], "data.size=8: a power of two, 16 to 128"),
        (["--model.kind", "dcgan", "--model.classes", "10", "--data.size", "16"], "model.classes=10: 0 with"),
        (["--model.vae", "/nowhere"], "data.channels=1: 3 with model.vae"),
        (["--model.vae", "/nowhere", "--data.channels", "3"], "'/nowhere': no such folder"),
    ],
)
def test_what_does_not_fit_is_one_line_and_claims_nothing(digits, tmp_path, capsys, more, words):
    with pytest.raises(SystemExit) as e:
        main(["train", *arguments(digits, tmp_path / "out", *more)])
    assert e.value.code == 2
    line = capsys.readouterr().err
    assert words in line
    assert line.count("\n") == 1
    assert not (tmp_path / "out" / "_run").exists()


def test_classes_without_labels_are_refused(tmp_path):
    config = config_of(make_shards(tmp_path / "shards"), tmp_path / "out", "--model.classes", "-1")
    with pytest.raises(ValueError, match=r"model.classes=-1: 0, as no picture has a label"):
        train_input.survey(config)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    torch.manual_seed(0)
    network = AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=2,
        scaling_factor=0.5,
    )
    folder = tmp_path_factory.mktemp("vae")
    network.save_pretrained(folder)
    return str(folder)


LATENT = ("--data.channels", "3", "--data.size", "16", "--data.flip", "true", "--model.classes", "-1")


def test_a_latent_model_trains_on_latents_made_once(digits, vae, tmp_path):
    config = config_of(digits, tmp_path / "out", *LATENT, "--model.vae", vae, *QUICK)
    source = train_input.survey(config)
    with session(config.cluster) as s:
        made = train_input.latents(config, source, s)
        before = os.stat(made.shards[0].url)
        assert train_input.latents(config, source, s) == made, "a resumed run takes what is there"
    assert os.stat(made.shards[0].url).st_mtime_ns == before.st_mtime_ns
    assert made.count == source.count == 100
    assert_latents_of(made.shards[0].url, vae)
    link = alone(config, source=made)
    assert falls(link.losses(), to=0.9), link.losses()
    folder = published(config, link, tmp_path / "last")
    model = base_models.load(ModelConfig(name=folder))
    assert (model.noise_shape, model.size, model.channels, model.classes) == ((2, 8, 8), 16, 3, 10)
    pipe = LDMPipeline.from_pretrained(folder)
    assert isinstance(pipe.unet, UNet2DModel)
    assert isinstance(pipe.vqvae, AutoencoderKL)


def assert_latents_of(url, vae):
    """The first digit's shard entry is its encoding, then that of its mirror image, with its label."""
    place = shards.located(url, ("npy",))[0][0][1]
    (data,) = storage.read_ranges(url, [(place.offset, place.size)])
    picture = images.fit(images.decode(digit(int(place.key)), 3), 16)
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
    encoder = AutoencoderKL.from_pretrained(vae).eval()
    with torch.no_grad():
        wanted = torch.cat([encoder.encode(v).latent_dist.mean * 0.5 for v in (x, x.flip(3))])
    assert np.abs(np.load(io.BytesIO(data)) - wanted.numpy()).max() < 2e-3
    assert place.label == 0


def test_latents_of_a_size_that_does_not_fit_are_refused(digits, vae, tmp_path):
    config = config_of(digits, tmp_path / "out", *LATENT, "--model.vae", vae)
    odd = dataclasses.replace(config, data=dataclasses.replace(config.data, size=18))
    with pytest.raises(ValueError, match=r"latents' side=9: a multiple of 2"):
        train_input.survey(odd)
    with pytest.raises(ValueError, match=r"data.size=17: a multiple of 2, the scale factor of model.vae"):
        train_input.survey(dataclasses.replace(config, data=dataclasses.replace(config.data, size=17)))
