"""The train job on tiny models: any number of workers, any kill, bad pictures, bad configs."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import safetensors.torch
import torch
from accelerate.state import AcceleratorState, GradientState
from diffusers import DDPMPipeline

from noiseweave.cluster import shards, storage, training
from noiseweave.cluster.session import ClusterConfig
from noiseweave.engine.images import encode
from noiseweave.engine.records import Bad
from noiseweave.jobs import train
from noiseweave.jobs.cli import main, parse
from noiseweave.jobs.train_loop import Pictures, Task, loop, slices

os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"
SMALL = """
steps: 20
batch: 8
log_every: 1
ema: 0.9
data: {size: 8, channels: 1}
unet: {channels: [8, 16], layers: 1, attention: [], head: 8, groups: 4}
optimizer: {lr: 2.0e-3, warmup: 5}
checkpoint: {every: 5, keep: 2}
cluster: {workers: 1, gpus_per_worker: 0}
"""


def picture(number: int) -> bytes:
    """A bright square that moves with the number, on a slope."""
    image = np.linspace(0, 60, 64).reshape(8, 8, 1)
    image[number % 5 : number % 5 + 3, number % 4 : number % 4 + 3] = 250
    return encode(image.astype(np.uint8))


def make_shards(folder, count=30, spoil=()) -> str:
    samples = [(f"{i:03d}", {"png": b"not a picture" if i in spoil else picture(i)}) for i in range(count)]
    for n, start in enumerate(range(0, count, 10)):
        storage.write(f"{folder}/{n:03d}.tar", shards.pack(samples[start : start + 10]))
    return str(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A config file and shards: two bad pictures, one file that is no tar."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.yaml").write_text(SMALL)
    make_shards(folder / "shards", spoil={3, 17})
    (folder / "shards" / "009.tar").write_bytes(b"no tar")
    return folder


def arguments(small, output, *more) -> list[str]:
    return ["--config", f"{small}/small.yaml", "--input", f"{small}/shards", "--output", str(output), *more]


def config_of(small, output, *more) -> train.Config:
    return parse("train", arguments(small, output, *more))[1]


@pytest.fixture(scope="module")
def whole(small, ray_session, tmp_path_factory):
    """An undisturbed run with one worker."""
    output = tmp_path_factory.mktemp("whole") / "model"
    assert main(["train", *arguments(small, output)]) == 0
    return output


def log_of(output) -> dict[int, float]:
    rows = map(json.loads, (output / "_run" / "log.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows}


def weights_of(output) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(output / "unet" / "diffusion_pytorch_model.safetensors")


def assert_same_weights(a, b, atol=1e-5):
    a, b = weights_of(a), weights_of(b)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=atol, rtol=0, msg=name)


class Alone:
    """A link to nobody: the loop runs in this process and keeps what it says."""

    def __init__(self):
        self.rank, self.world, self.gpu, self.resume = 0, 1, False, None
        self.rows, self.saved, self.failure = [], {}, None

    def post(self, row):
        self.rows.append(row)

    def fail(self, message):
        self.failure = message

    def save(self, step, files, metrics):
        self.saved[step] = files


@pytest.fixture
def alone(small, tmp_path):
    """Run the loop without Ray: a function from options to the link."""

    def go(*more):
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        link, config = Alone(), config_of(small, tmp_path / "out", *more)
        locations = [x for s in shards.find(config.input) for x in shards.locate(s)[0]]
        loop(Task(config=config, locations=locations, threads=1, quarantine=str(tmp_path / "bad")), link)
        return link

    yield go
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def losses(link) -> list[float]:
    return [row["loss"] for row in link.rows]


def test_the_result_is_a_diffusers_folder_that_draws(whole):
    pipe = DDPMPipeline.from_pretrained(whole, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.scheduler.config.beta_schedule == "squaredcos_cap_v2"
    assert pipe.scheduler.config.prediction_type == "epsilon"
    images = pipe(batch_size=2, num_inference_steps=3, output_type="np").images
    assert images.shape == (2, 8, 8, 1)
    assert np.isfinite(images).all()


def test_it_learns(whole):
    log = log_of(whole)
    assert sorted(log) == list(range(1, 21))
    assert log[20] < 0.8 * log[1]


def test_the_average_is_what_is_saved_and_it_is_not_the_last_weights(whole):
    last = training.latest(str(whole / "_run" / "checkpoints"))
    average = safetensors.torch.load_file(f"{last}/ema.safetensors")
    model = safetensors.torch.load_file(f"{last}/model.safetensors")
    saved = weights_of(whole)
    assert all(torch.equal(saved[name], average[name]) for name in saved)
    assert any(not torch.allclose(saved[name], model[name], atol=1e-4) for name in saved)


def test_two_workers_see_what_one_sees(small, whole, tmp_path):
    output = tmp_path / "two"
    assert main(["train", *arguments(small, output, "--cluster.workers", "2")]) == 0
    one, two = log_of(whole), log_of(output)
    assert one.keys() == two.keys()
    assert max(abs(one[step] - two[step]) / one[step] for step in one) < 1e-4
    assert_same_weights(whole, output, atol=1e-4)


def test_a_killed_driver_resumes_to_the_same_weights(small, whole, tmp_path):
    output = tmp_path / "killed"
    command = [sys.executable, "-m", "noiseweave", "train", *arguments(small, output)]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not training.checkpoints(str(output / "_run" / "checkpoints")):
        assert driver.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert not (output / "model_index.json").exists()
    assert main(["train", *arguments(small, output)]) == 0
    assert_same_weights(whole, output)


def test_a_finished_run_says_so_and_a_changed_config_is_refused_by_name(small, whole, capsys):
    assert main(["train", *arguments(small, whole)]) == 0
    assert "finished already" in capsys.readouterr().out
    assert main(["train", *arguments(small, whole, "--cluster.workers", "3")]) == 0
    with pytest.raises(SystemExit) as e:
        main(["train", *arguments(small, whole, "--optimizer.lr", "0.5", "--seed", "3")])
    assert e.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "optimizer.lr (0.002 -> 0.5), seed (0 -> 3);" in line
    assert "batch" not in line


def test_bad_pictures_and_shards_are_listed_once_and_the_run_goes_on(small, whole):
    rows = [json.loads(line) for line in (whole / "quarantine.jsonl").read_text().splitlines()]
    assert sorted((row["shard"][-7:], row["key"], row["reason"]) for row in rows) == [
        ("000.tar", "003", "not_an_image"),
        ("001.tar", "017", "not_an_image"),
        ("009.tar", "", "unreadable_tar"),
    ]
    assert train._quarantine(config_of(small, whole), [Bad(**rows[0])]).total() == 3


def test_half_precision_is_of_the_saved_weights(small, whole, tmp_path):
    last = training.latest(str(whole / "_run" / "checkpoints"))
    train._publish(config_of(small, tmp_path, "--save_precision", "fp16"), last)
    full, half = weights_of(whole), weights_of(tmp_path)
    assert all(torch.equal(half[name], full[name].half()) for name in full)
    assert DDPMPipeline.from_pretrained(tmp_path, torch_dtype=torch.float16).unet.dtype == torch.float16


def test_memory_changes_nothing_and_the_next_good_picture_stands_in(tmp_path):
    folder = make_shards(tmp_path, spoil={3, 4, 29})
    locations = [x for s in shards.find(folder) for x in shards.locate(s)[0]]
    once = Pictures(locations, train.DataRecipe(size=8), threads=2)
    each = Pictures(locations, train.DataRecipe(size=8, memory_gb=0), threads=2)
    assert once.kept is not None
    assert each.kept is None
    numbers = [4, 12, 3, 29, 12, 0, 25]
    assert np.array_equal(once[numbers], each[numbers])
    assert np.array_equal(once[[3, 4, 29]], once[[5, 5, 0]])
    assert once.bad == each.bad
    assert sorted(once.bad) == [3, 4, 29]


def test_nothing_that_can_be_decoded_is_one_clear_failure(tmp_path):
    folder = make_shards(tmp_path, count=4, spoil=range(4))
    locations = shards.locate(shards.find(folder)[0])[0]
    with pytest.raises(ValueError, match="none of 4 pictures"):
        Pictures(locations, train.DataRecipe(size=8, memory_gb=0), threads=1)[[0]]


def test_parts_of_a_batch_add_up_to_the_batch(alone):
    whole, parts = alone("--steps", "8"), alone("--steps", "8", "--accumulate", "3")
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)


def test_flip_changes_pictures_and_nothing_else(alone):
    plain, flipped = alone("--steps", "2"), alone("--steps", "2", "--data.flip", "true")
    assert losses(plain)[0] == pytest.approx(losses(flipped)[0], rel=0.2)
    assert losses(plain) != losses(flipped)


def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing_more(alone):
    link = alone("--optimizer.lr", "1e30", "--optimizer.warmup", "0")
    assert "not finite" in link.failure
    for files in link.saved.values():
        weights = safetensors.torch.load(files["model.safetensors"])
        assert all(torch.isfinite(w).all() for w in weights.values())


def test_a_checkpoint_opens_without_unpickling(alone, tmp_path):
    (tmp_path / "state.pt").write_bytes(alone("--steps", "1").saved[1]["optimizer.pt"])
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 1
    assert len(state["optimizer"]["state"]) > 0


@pytest.mark.parametrize(("batch", "world", "parts"), [(64, 1, 1), (64, 3, 2), (7, 2, 3)])
def test_slices_share_out_every_place_once_in_order(batch, world, parts):
    shares = [slices(batch, world, parts, rank) for rank in range(world)]
    assert [place for share in shares for part in share for place in part] == list(range(batch))
    assert all(part for share in shares for part in share)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--unet.channels", "[8, 10]", "unet.channels"),
        ("--data.size", "9", "data.size=9: a multiple of 2"),
        ("--optimizer.lr", "0", "optimizer.lr=0"),
        ("--steps", "0", "steps=0"),
        ("--input", "/nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_a_wrong_config_is_one_line_and_code_2(small, tmp_path, capsys, option, value, words):
    with pytest.raises(SystemExit) as e:
        main(["train", *arguments(small, tmp_path, option, value)])
    assert e.value.code == 2
    assert words in capsys.readouterr().err


def test_more_workers_than_pictures_in_a_batch_claims_nothing(small, ray_session, tmp_path):
    config = config_of(small, tmp_path / "out", "--batch", "1")
    with pytest.raises(ValueError, match="batch=1: 2 workers"):
        train.run(dataclasses.replace(config, cluster=ClusterConfig(workers=2, gpus_per_worker=0)))
    assert not (tmp_path / "out" / "_run").exists()
