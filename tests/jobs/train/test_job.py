"""The train job on a tiny model: what a run leaves and says, bad pictures, bad configs."""

import contextlib
import dataclasses
import io
import json
import os

import numpy as np
import pytest
import safetensors.torch
import torch
from diffusers import DDPMPipeline
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training import arguments, config_of, log_of, make_shards, weights_of

from noiseweave.cluster import training
from noiseweave.cluster.session import ClusterConfig
from noiseweave.engine.networks import base_models
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.records import Quarantined
from noiseweave.jobs.cli import main
from noiseweave.jobs.train import config as train_config
from noiseweave.jobs.train import job as train
from noiseweave.jobs.train import report
from noiseweave.jobs.train.task import Source
from noiseweave.jobs.training import watch

os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"
SHEETS = ("--preview.every", "10")


@pytest.fixture(scope="module")
def bad_shards(tmp_path_factory):
    """Shards with two bad pictures, and a file that is no tar."""
    folder = tmp_path_factory.mktemp("shards")
    make_shards(folder, spoil={3, 17})
    (folder / "009.tar").write_bytes(b"no tar")
    return folder


@pytest.fixture(scope="module")
def whole(bad_shards, tmp_path_factory):
    """An undisturbed run with one worker, and what it printed."""
    output = tmp_path_factory.mktemp("whole") / "model"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["train", *arguments(bad_shards, output, *SHEETS)]) == 0
    (output.parent / "said.txt").write_text(said.getvalue())
    return output


def test_the_result_is_a_diffusers_folder_that_draws(whole):
    pipe = DDPMPipeline.from_pretrained(whole, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.scheduler.config.beta_schedule == "squaredcos_cap_v2"
    assert pipe.scheduler.config.prediction_type == "epsilon"
    images = pipe(batch_size=2, num_inference_steps=3, output_type="np").images
    assert images.shape == (2, 8, 8, 1)
    assert np.isfinite(images).all()


def test_it_learns_and_logs_every_step(whole):
    log = log_of(whole)
    assert sorted(log) == list(range(1, 21))
    assert log[20]["loss"] < 0.8 * log[1]["loss"]
    assert log[1]["lr"] == pytest.approx(2e-3 / 5)
    assert log[20]["samples_per_second"] > 0


def test_it_shows_loss_learning_rate_speed_and_time_left(whole, capsys):
    said = (whole.parent / "said.txt").read_text()
    assert "28 pictures" not in said, "what cannot be decoded is found while it trains"
    assert "30 pictures in 3 shards" in said
    last = next(line for line in said.splitlines() if line.startswith("step 20/20  loss "))
    assert all(word in last for word in ("lr ", " samples/s", " min left"))
    config = dataclasses.replace(config_of(whole, whole.parent / "shown"), steps=100)
    row = {"step": 40, "loss": 0.25, "lr": 1e-3, "seconds_per_step": 3.0, "samples_per_second": 2.5}
    watch.Watch(train_config.state(config, "log.jsonl"), config.steps)(row)
    assert capsys.readouterr().out == "step 40/100  loss 0.2500  lr 1.00e-03  2.5 samples/s  3.0 min left\n"


def test_tensorboard_shows_the_same_loss(whole):
    events = EventAccumulator(str(whole / "_run" / "tensorboard"))
    events.Reload()
    assert {"loss", "lr", "samples_per_second"} <= set(events.Tags()["scalars"])
    log = log_of(whole)
    for name in ("loss", "lr"):
        shown = {e.step: e.value for e in events.Scalars(name)}
        assert shown == pytest.approx({step: row[name] for step, row in log.items()})


def test_sheets_are_drawn_while_it_trains_and_a_strip_at_the_end(whole):
    assert sorted(p.name for p in (whole / "previews").iterdir()) == ["000000010.png", "000000020.png"]
    sheets = [np.asarray(Image.open(p)) for p in sorted((whole / "previews").iterdir())]
    assert sheets[0].shape == sheets[1].shape
    assert (sheets[0] != sheets[1]).any()
    strip = Image.open(whole / "strip.png")
    assert strip.width >= 4 * 48, "four pictures wide"
    assert strip.height >= 2 * 48, "a row for each sheet"


def test_the_average_is_what_is_saved_and_it_is_not_the_last_weights(whole):
    last = training.latest(str(whole / "_run" / "checkpoints"))
    average = safetensors.torch.load_file(f"{last}/ema.safetensors")
    model = safetensors.torch.load_file(f"{last}/model.safetensors")
    saved = weights_of(whole)
    assert all(torch.equal(saved[name], average[name]) for name in saved)
    assert any(not torch.allclose(saved[name], model[f"unet.{name}"], atol=1e-4) for name in saved)


def test_the_last_two_checkpoints_are_kept(whole):
    kept = [os.path.basename(name) for name in training.checkpoints(str(whole / "_run" / "checkpoints"))]
    assert kept == ["step-000000015", "step-000000020"]


def test_a_finished_run_says_so_and_a_changed_config_is_refused_by_name(bad_shards, whole, capsys):
    again = arguments(bad_shards, whole, *SHEETS)
    assert main(["train", *again]) == 0
    assert "finished already" in capsys.readouterr().out
    assert main(["train", *again, "--cluster.address", "auto", "--cluster.workers", "3"]) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit) as e:
        main(["train", *again, "--optimizer.lr", "0.5", "--seed", "3"])
    assert e.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "optimizer.lr 0.002 -> 0.5, seed 0 -> 3;" in line
    assert "batch" not in line
    with pytest.raises(SystemExit) as e:
        main(["train", *again, "--unet.channels", "[8, 24]"])
    assert "unet.channels [8, 16] -> [8, 24]" in capsys.readouterr().err


def test_other_pictures_under_the_same_name_are_another_run(whole, tmp_path, capsys):
    """The config names the folder alone; what lies in it is compared too."""
    recorded = json.loads((whole / "_run" / "config.json").read_text())
    (tmp_path / "out" / "_run").mkdir(parents=True)
    make_shards(tmp_path / "shards", count=20)
    recorded["input"] = str(tmp_path / "shards")
    (tmp_path / "out" / "_run" / "config.json").write_text(json.dumps(recorded))
    with pytest.raises(SystemExit):
        main(["train", *arguments(tmp_path / "shards", tmp_path / "out", *SHEETS)])
    assert "samples 30 -> 20;" in capsys.readouterr().err


def test_bad_pictures_and_shards_are_listed_once_and_the_run_goes_on(bad_shards, whole):
    rows = [json.loads(line) for line in (whole / "quarantine.jsonl").read_text().splitlines()]
    assert sorted((row["shard"][-7:], row["key"], row["reason"]) for row in rows) == [
        ("000.tar", "003", "not_an_image"),
        ("001.tar", "017", "not_an_image"),
        ("009.tar", "", "unreadable_tar"),
    ]
    assert report.quarantine(config_of(bad_shards, whole), [Quarantined(**rows[0])]).total() == 3
    said = (whole.parent / "said.txt").read_text()
    assert "quarantined: 2 not_an_image, 1 unreadable_tar" in said


def test_half_precision_is_of_the_saved_weights(bad_shards, whole, tmp_path):
    last = training.latest(str(whole / "_run" / "checkpoints"))
    config = config_of(bad_shards, tmp_path / "half", "--save_precision", "fp16")
    report.publish(config, Source(shards=(), payload=(), classes=0), last)
    full, half = weights_of(whole), weights_of(tmp_path / "half")
    assert all(torch.equal(half[name], full[name].half()) for name in full)
    assert (
        DDPMPipeline.from_pretrained(tmp_path / "half", torch_dtype=torch.float16).unet.dtype == torch.float16
    )
    assert base_models.load(ModelConfig(name=str(tmp_path / "half"))).dtype == torch.float32


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--unet.channels", "[8, 10]", "unet.channels"),
        ("--data.size", "9", "data.size=9: a multiple of 2"),
        ("--data.streams", "3", "data.streams=3: a divisor of batch=8"),
        ("--optimizer.lr", "0", "optimizer.lr=0"),
        ("--steps", "0", "steps=0"),
        ("--preview.sampler.name", "euler", "preview.sampler.name='euler': for a ddpm model"),
        ("--preview.sampler.steps", "1001", "preview.sampler.steps=1001: at most schedule.timesteps"),
        ("--input", "/nowhere/at/all", "/nowhere/at/all"),
        ("--input", "/nowhere/one.png", "no such picture"),
    ],
)
def test_a_wrong_config_is_one_line_and_code_2(bad_shards, tmp_path, capsys, option, value, words):
    with pytest.raises(SystemExit) as e:
        main(["train", *arguments(bad_shards, tmp_path / "out", option, value)])
    assert e.value.code == 2
    line = capsys.readouterr().err
    assert words in line
    assert line.count("\n") == 1
    assert not (tmp_path / "out" / "_run").exists()


@pytest.mark.parametrize(
    ("more", "workers", "words"),
    [
        (["--batch", "2", "--accumulate", "2"], 2, "batch=2: 2 workers x 2 parts"),
        (["--batch", "3"], 2, r"data.streams=1: a multiple of 2 workers"),
        (["--precision", "fp16"], 1, "fp16': needs a GPU"),
    ],
)
def test_what_these_workers_cannot_do_claims_nothing(bad_shards, ray_session, tmp_path, more, workers, words):
    config = config_of(bad_shards, tmp_path / "out", *more)
    with pytest.raises(ValueError, match=words):
        train.run(dataclasses.replace(config, cluster=ClusterConfig(workers=workers, gpus_per_worker=0)))
    assert not (tmp_path / "out" / "_run").exists()


def test_a_model_that_no_run_wrote_is_not_written_over(bad_shards, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "model_index.json").write_text("{}")
    with pytest.raises(SystemExit):
        main(["train", *arguments(bad_shards, tmp_path / "out")])
    assert "holds model_index.json, which no train run wrote" in capsys.readouterr().err
