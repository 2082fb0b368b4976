"""What a user may say of train."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from noiseweave.cluster import shards, storage
from noiseweave.cluster.session import ClusterConfig
from noiseweave.engine.checks import check
from noiseweave.engine.identity import ASIDE
from noiseweave.engine.networks.recipes import BASELINES, Precision
from noiseweave.engine.networks.sizes import SIZES, widths
from noiseweave.engine.sampling.recipes import SamplerRecipe, sampler_name
from noiseweave.engine.training.recipes import (
    Blueprint,
    CheckpointRecipe,
    ModelRecipe,
    ObjectiveRecipe,
    OptimizerRecipe,
    ScheduleRecipe,
    UnetRecipe,
)

USUAL = {
    "input and output": ("input", "output", "overwrite"),
    "what it does": ("steps", "batch", "optimizer.lr", "data.size", "data.channels", "init"),
    "model": ("model.kind", "model.classes", "model.vae"),
    "where it runs": ("cluster.address", "cluster.workers"),
}
ALIASES = {
    "--image_path": "--input",
    "--img_size": "--data.size",
    "--train_steps": "--steps",
    "--batch_size": "--batch",
    "--lr": "--optimizer.lr",
}
OWNED = (
    "model_index.json",
    "noiseweave.json",
    "training_features.safetensors",
    "unet",
    "vqvae",
    "scheduler",
    "vae",
    "generator",
    "quarantine.jsonl",
    "previews",
    "strip.png",
    "classes.json",
)


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """How pictures are read.

    Args:
        size: side in pixels; the short side is resized to it and the centre square kept. 0 takes it from the
            pictures: the median of their short sides, brought down to what the network takes, and to 64, or 256 with
            model.vae.
        channels: 1 (grey) or 3 (RGB). 0 takes 3 where any of the pictures has colour. For size and channels 32
            pictures are looked at, evenly spread over the input.
        flip: mirror half of the pictures left to right; not for digits or letters.
        streams: the shards are cut into so many streams, and every batch takes as many pictures from each. The
            order of the data depends on it; it must divide the batch, and the number of workers must divide
            it. 0 takes the greatest common divisor of the batch and 8.
        buffer: pictures in the shuffle buffer of each stream.
    """

    size: int = 0
    channels: Literal[0, 1, 3] = 0
    flip: bool = False
    streams: int = 0
    buffer: int = 256

    def __post_init__(self) -> None:
        check(self.size == 0 or self.size >= 4, "data.size", self.size, "0 (from the pictures), or 4 or more")
        check(self.streams >= 0, "data.streams", self.streams, "0 (automatic) or more")
        check(self.buffer >= 1, "data.buffer", self.buffer, "1 or more")


@dataclass(frozen=True, kw_only=True)
class PreviewRecipe:
    """Sheets of samples while it trains, drawn from the averaged weights and always the same noise.

    Args:
        every: steps between sheets in previews/; 0 draws none.
        count: pictures on a sheet.
        sampler: how they are drawn.
    """

    every: int = 500
    count: int = 32
    sampler: SamplerRecipe = field(default_factory=lambda: SamplerRecipe(steps=20))

    def __post_init__(self) -> None:
        check(self.every >= 0, "preview.every", self.every, "0 (none) or more")
        check(1 <= self.count <= 1024, "preview.count", self.count, "1 to 1024")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Training of a base model.

    Args:
        input: folder, glob, brace pattern or URL of WebDataset shards; or one picture.
        output: folder that becomes the model; the run's state lies in its _run/.
        overwrite: start anew where the output holds another run.
        steps: optimizer steps.
        batch: pictures in one optimizer step, over all workers.
        accumulate: parts that each worker takes its share of the batch in, to save memory.
        precision: what the network trains in; weights and optimizer stay float32.
        save_precision: of the final weights.
        ema: decay of the moving average of the weights, which is what is saved; 0 saves the last weights.
        log_every: steps between rows of the log; a line is shown every few seconds at most.
        seed: of the first weights, the order and the noise.
        init: a model to start from (ddpm, linear_mixing or flow; a shipped one, a folder or a hub id): its weights,
            and with them its kind, network, VAE, schedule and pictures' size, which are then not given. Classes of
            the same name keep what it knows of them, others begin as no class.
        model: what is trained.
        objective: what it is trained to do.
        data: how pictures are read.
        unet: the network of a ddpm, linear_mixing or flow.
        schedule: the noise schedule of a ddpm.
        optimizer: AdamW and its step size.
        checkpoint: what survives a kill.
        preview: sheets of samples while it trains.
        cluster: where it runs; nothing there changes the result.
    """

    input: str
    output: str = field(metadata=ASIDE)
    overwrite: bool = field(default=False, metadata=ASIDE)
    steps: int = 3000
    batch: int = 64
    accumulate: int = 1
    precision: Precision = "fp32"
    save_precision: Literal["fp32", "fp16"] = "fp32"
    ema: float = 0.995
    log_every: int = 10
    seed: int = 0
    init: str | None = None
    model: ModelRecipe = field(default_factory=ModelRecipe)
    objective: ObjectiveRecipe = field(default_factory=ObjectiveRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    unet: UnetRecipe = field(default_factory=UnetRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    checkpoint: CheckpointRecipe = field(default_factory=CheckpointRecipe)
    preview: PreviewRecipe = field(default_factory=PreviewRecipe)
    cluster: ClusterConfig = field(default_factory=ClusterConfig, metadata=ASIDE)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "log_every"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        check(0 <= self.ema < 1, "ema", self.ema, "0 to below 1")
        check(0 <= self.seed < 1 << 63, "seed", self.seed, "0 to 2^63 - 1")
        check(
            self.batch % self.streams == 0, "data.streams", self.streams, f"a divisor of batch={self.batch}"
        )
        check(self.init is None or bool(self.init), "init", self.init, "a model's name or folder, or null")
        check_size(self)
        sampler_name(self.model.kind, self.preview.sampler, "preview.sampler")
        fits = self.model.kind != "ddpm" or self.preview.sampler.steps <= self.schedule.timesteps
        check(fits, "preview.sampler.steps", self.preview.sampler.steps, "at most schedule.timesteps")

    @property
    def streams(self) -> int:
        """How many streams the data is read as."""
        return self.data.streams or math.gcd(self.batch, 8)

    @property
    def single(self) -> bool:
        """Whether the input is one picture, and no shards."""
        return self.input.lower().endswith(tuple(f".{e}" for e in shards.PICTURES))

    @property
    def halvings(self) -> int:
        """What the unet's highest level has the side divided by."""
        return 1 << (len(self.unet.channels) - 1)


def check_size(config: Config) -> None:
    """Raise ValueError where the pictures' size does not fit the network; latents are checked by their VAE.

    A model to start from has a size of its own.
    """
    size, channels = config.data.size, config.data.channels
    if config.init is not None:
        return
    if config.model.kind in BASELINES:
        widths(size or SIZES[0], channels or 3, 1)
    elif config.model.vae is None:
        halvings = config.halvings
        check(size % halvings == 0, "data.size", size, f"a multiple of {halvings}, as unet.channels has it")
    else:
        check(channels in (0, 3), "data.channels", channels, "3 with model.vae")


def state(config: Config, *names: str) -> str:
    """A path below the run's own folder."""
    return storage.join(config.output, "_run", *names)


def blueprint(config: Config, classes: int) -> Blueprint:
    """What the networks are built from."""
    return Blueprint(
        model=config.model,
        objective=config.objective,
        unet=config.unet,
        schedule=config.schedule,
        classes=classes,
        size=config.data.size,
        channels=config.data.channels,
        seed=config.seed,
    )
