"""Small shards, the train loop alone, and what it leaves, for the tests of the train job."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from accelerate.state import AcceleratorState, GradientState
from sklearn.datasets import load_digits

from noiseweave.cluster import shards, storage, training
from noiseweave.engine.pictures.images import encode
from noiseweave.jobs.arguments import parse
from noiseweave.jobs.train import config as train_config
from noiseweave.jobs.train import input as train_input
from noiseweave.jobs.train import report, task
from noiseweave.jobs.train.loop import loop
from noiseweave.jobs.train.task import Task

SMALL = """
steps: 20
batch: 8
log_every: 1
ema: 0.9
model: {width: 8, latent: 8}
data: {size: 8, channels: 1, buffer: 8}
unet: {channels: [8, 16], layers: 1, attention: [], head: 8, groups: 4}
optimizer: {lr: 2.0e-3, warmup: 5}
checkpoint: {every: 5, keep: 2}
preview: {every: 0, count: 4, sampler: {steps: 2}}
cluster: {address: inline, gpus_per_worker: 0}
"""


def picture(number: int) -> bytes:
    """A bright square that moves with the number, on a slope."""
    image = np.linspace(0, 60, 64).reshape(8, 8, 1)
    image[number % 5 : number % 5 + 3, number % 4 : number % 4 + 3] = 250
    return encode(image.astype(np.uint8))


def make_shards(folder: Path, count: int = 30, spoil: Any = ()) -> str:
    """Shards of ten squares; those of the numbers in ``spoil`` are no pictures."""
    samples = [(f"{i:03d}", {"png": b"not a picture" if i in spoil else picture(i)}) for i in range(count)]
    for n, start in enumerate(range(0, count, 10)):
        storage.write(f"{folder}/{n:03d}.tar", shards.pack(samples[start : start + 10]))
    return str(folder)


def digit(number: int) -> bytes:
    """One of scikit-learn's digits, 8x8."""
    return encode(np.rint(load_digits().images[number] * 255 / 16).astype(np.uint8)[..., None])


def make_digits(folder: Path, count: int = 100) -> str:
    """One shard of labelled digits."""
    pictures = np.rint(load_digits().images[:count] * 255 / 16).astype(np.uint8)[..., None]
    rows = zip(pictures, load_digits().target, strict=False)
    samples = [(f"{i:03d}", {"png": encode(p), "cls": b"%d" % c}) for i, (p, c) in enumerate(rows)]
    storage.write(f"{folder}/digits.tar", shards.pack(samples))
    return str(folder)


def arguments(source: str | Path, output: str | Path, *more: str) -> list[str]:
    config = Path(output).parent / "small.yaml"
    config.write_text(SMALL)
    return ["--config", str(config), "--input", str(source), "--output", str(output), *more]


def config_of(source: str | Path, output: str | Path, *more: str) -> train_config.Config:
    return parse("train", arguments(source, output, *more))


def interrupted(command: list[str], output: Path) -> tuple[int, float, str]:
    """Ctrl-C after the first checkpoint of a job in a process: exit code, seconds that it took, standard error."""
    job = subprocess.Popen(
        [sys.executable, "-m", "noiseweave", *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    until = time.monotonic() + 300
    while not training.checkpoints(str(output / "_run" / "checkpoints")):
        assert job.poll() is None, job.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.05)
    job.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, said = job.communicate(timeout=120)
    return job.returncode, time.monotonic() - start, said.decode()


class Alone:
    """A link to nobody: the loop runs in this process and keeps what it says.

    Args:
        checkpoint: files to go on from.
    """

    rank, world, gpu = 0, 1, False

    def __init__(self, checkpoint: dict[str, bytes] | None = None) -> None:
        self.checkpoint = checkpoint
        self.resume = None if checkpoint is None else "here"
        self.rows: list[dict[str, Any]] = []
        self.earlier: list[dict[str, Any]] = []
        self.saved: dict[int, dict[str, bytes]] = {}
        self.failure: str | None = None

    def post(self, row):
        if "earlier" in row:
            self.earlier = row["earlier"]
        else:
            self.rows.append(row)

    def fail(self, message):
        self.failure = message

    def load(self, name):
        return self.checkpoint[name]

    def save(self, step, files, metrics):
        self.saved[step] = files

    def losses(self, name: str = "loss") -> list[float]:
        return [row[name] for row in self.rows]


class Both:
    """A real link's rank and world, with Alone's memory: for a loop that is one of several in a worker."""

    def __init__(self, link) -> None:
        self.rank, self.world, self.gpu, self.resume = link.rank, link.world, False, None
        self.rows: list[dict[str, Any]] = []

    def post(self, row):
        self.rows.append(row)

    def save(self, step, files, metrics):
        pass


def fresh() -> None:
    """Accelerate keeps one state a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def task_of(config: train_config.Config, source: task.Source | None = None) -> Task:
    source = train_input.write_own(train_input.survey(config)) if source is None else source
    return Task(config=config, source=source, threads=1, quarantine=train_config.state(config, "bad"))


def alone(config: train_config.Config, checkpoint: dict[str, bytes] | None = None, source=None) -> Alone:
    """Run the loop without Ray."""
    fresh()
    link = Alone(checkpoint)
    try:
        loop(task_of(config, source), link)
    finally:
        fresh()
    return link


def published(config: train_config.Config, link: Alone, folder: Path) -> str:
    """The last checkpoint as a model's folder."""
    for name, data in link.saved[max(link.saved)].items():
        storage.write(f"{folder}/{name}", data)
    report.publish(config, train_input.survey(config), str(folder))
    return config.output


def falls(losses: list[float], to: float) -> bool:
    """Whether the mean of the last fifth is below ``to`` times that of the first."""
    n = max(1, len(losses) // 5)
    return float(np.mean(losses[-n:])) < to * float(np.mean(losses[:n]))


def log_of(output: Path) -> dict[int, dict[str, float]]:
    rows = map(json.loads, (output / "_run" / "log.jsonl").read_text().splitlines())
    return {row["step"]: row for row in rows}


def weights_of(output: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(output / "unet" / "diffusion_pytorch_model.safetensors")


def assert_same_weights(a: Path, b: Path, atol: float) -> None:
    ours, theirs = weights_of(a), weights_of(b)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=atol, rtol=0, msg=name)
