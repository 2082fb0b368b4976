"""``noiseweave train``: shards, or one picture -> a base model as a folder.

The result depends on everything here but ``cluster``: each sample's chance comes from (seed, step, place in the
global batch), and the batches are cut from streams that know nothing of workers, so one worker and many see
the same.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from noiseweave.cluster import storage
from noiseweave.cluster.ledger import check_same, flatten, refuse_foreign
from noiseweave.cluster.session import ClusterConfig, Session
from noiseweave.engine.baselines import widths
from noiseweave.engine.recipes import Precision, SamplerRecipe, check, sampler_name
from noiseweave.engine.training_recipes import (
    BASELINES,
    Blueprint,
    ModelRecipe,
    ObjectiveRecipe,
    ScheduleRecipe,
    UnetRecipe,
)  # fmt: skip

if TYPE_CHECKING:
    from noiseweave.jobs.train_input import Source

OWNED = (
    "model_index.json", "noiseweave.json", "unet", "vqvae", "scheduler", "vae", "generator",
    "quarantine.jsonl", "previews", "strip.png",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """How pictures are read.

    Args:
        size: side in pixels; the short side is resized to it and the centre square kept.
        channels: 1 (grey) or 3 (RGB).
        flip: mirror half of the pictures left to right; not for digits or letters.
        streams: the shards are cut into so many streams, and every batch takes as many pictures from each. The
            order of the data depends on it; it must divide the batch, and the number of workers must divide
            it. 0 takes the greatest common divisor of the batch and 8.
        buffer: pictures in the shuffle buffer of each stream.
    """

    size: int = 16
    channels: Literal[1, 3] = 1
    flip: bool = False
    streams: int = 0
    buffer: int = 256

    def __post_init__(self) -> None:
        check(self.size >= 4, "data.size", self.size, "4 or more")
        check(self.streams >= 0, "data.streams", self.streams, "0 (automatic) or more")
        check(self.buffer >= 1, "data.buffer", self.buffer, "1 or more")


@dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    """AdamW and its step size.

    Args:
        lr: highest learning rate.
        warmup: steps of the straight line up to it.
        decay: cosine goes down to 0 at the last step, constant stays.
        weight_decay: of AdamW.
        betas: of AdamW.
        clip: largest norm of the gradient; 0 does not clip.
        eight_bit: keep AdamW's averages in 8 bits (Dettmers et al., arXiv 2110.02861); needs bitsandbytes.
    """

    lr: float = 1e-3
    warmup: int = 100
    decay: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    eight_bit: bool = False

    def __post_init__(self) -> None:
        check(0 < self.lr < math.inf, "optimizer.lr", self.lr, "above 0")
        check(self.warmup >= 0, "optimizer.warmup", self.warmup, "0 or more")
        check(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "0 or more")
        check(all(0 <= b < 1 for b in self.betas), "optimizer.betas", self.betas, "0 to below 1")
        check(self.clip >= 0, "optimizer.clip", self.clip, "0 (off) or more")


@dataclass(frozen=True, kw_only=True)
class CheckpointRecipe:
    """What survives a kill.

    Args:
        every: steps between checkpoints; the last step always makes one.
        keep: newest checkpoints kept.
    """

    every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        check(self.every >= 1, "checkpoint.every", self.every, "1 or more")
        check(self.keep >= 1, "checkpoint.keep", self.keep, "1 or more")


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
    output: str
    overwrite: bool = False
    steps: int = 3000
    batch: int = 64
    accumulate: int = 1
    precision: Precision = "fp32"
    save_precision: Literal["fp32", "fp16"] = "fp32"
    ema: float = 0.995
    log_every: int = 10
    seed: int = 0
    model: ModelRecipe = field(default_factory=ModelRecipe)
    objective: ObjectiveRecipe = field(default_factory=ObjectiveRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    unet: UnetRecipe = field(default_factory=UnetRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    checkpoint: CheckpointRecipe = field(default_factory=CheckpointRecipe)
    preview: PreviewRecipe = field(default_factory=PreviewRecipe)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "log_every"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        check(0 <= self.ema < 1, "ema", self.ema, "0 to below 1")
        check(0 <= self.seed < 1 << 63, "seed", self.seed, "0 to 2^63 - 1")
        check(
            self.batch % self.streams == 0, "data.streams", self.streams, f"a divisor of batch={self.batch}"
        )
        check_size(self)
        sampler_name(self.model.kind, self.preview.sampler, "preview.sampler")
        fits = self.model.kind != "ddpm" or self.preview.sampler.steps <= self.schedule.timesteps
        check(fits, "preview.sampler.steps", self.preview.sampler.steps, "at most schedule.timesteps")

    @property
    def streams(self) -> int:
        return self.data.streams or math.gcd(self.batch, 8)


def check_size(config: Config) -> None:
    """Raise ValueError where the pictures' size does not fit the network; latents are checked by their VAE."""
    size, kind = config.data.size, config.model.kind
    if kind in BASELINES:
        widths(size, config.data.channels, 1)
    elif config.model.vae is None:
        halvings = 1 << (len(config.unet.channels) - 1)
        check(size % halvings == 0, "data.size", size, f"a multiple of {halvings}, as unet.channels has it")
    else:
        check(config.data.channels == 3, "data.channels", config.data.channels, "3 with model.vae")


def run(config: Config) -> int:
    """Train, or go on training, or say that it is done: 0 when the model is there, 1 when training failed."""
    from noiseweave.cluster.session import session
    from noiseweave.jobs import train_input, train_report

    config = dataclasses.replace(config, output=storage.absolute(config.output))
    storage.check_writable(config.output)
    source = train_input.survey(config)
    identity = {"job": "train", **_flat(dataclasses.asdict(config)), **source.identity}
    path = state(config, "config.json")
    refuse_foreign(config.output, storage.read_json(path) if storage.exists(path) else None, identity, ())
    if not config.overwrite and _finished(config, identity):
        print(f"{config.output}: finished already ({config.steps} steps)")
        return 0
    print(f"{source.count} pictures in {len(source.shards)} shards -> {config.output}", flush=True)
    with session(config.cluster) as s:
        _check(config, s)
        _claim(config, identity)
        source = train_input.write_own(source)
        train_report.quarantine(config, source.bad)
        failure = _train(config, source, s)
    counts = train_report.quarantine(config, [])
    print("quarantined: " + (", ".join(f"{n} {r}" for r, n in sorted(counts.items())) or "none"))
    last = train_report.last(config)
    if failure or not last.endswith(f"{config.steps:09d}"):
        why = failure or "training ended early"
        print(f"error: {why}; last good checkpoint: {last}", file=sys.stderr)
        return 1
    train_report.publish(config, source.classes, last)
    print(f"saved {config.output}")
    return 0


def state(config: Config, *names: str) -> str:
    return storage.join(config.output, "_run", *names)


def blueprint(config: Config, classes: int) -> Blueprint:
    return Blueprint(
        model=config.model, objective=config.objective, unet=config.unet, schedule=config.schedule,
        classes=classes, size=config.data.size, channels=config.data.channels, seed=config.seed,
    )  # fmt: skip


def _finished(config: Config, identity: dict[str, Any]) -> bool:
    """Whether this very run has ended in the output folder.

    Raises:
        ValueError: the folder holds something else; the line names what differs.
    """
    path, model = state(config, "config.json"), storage.join(config.output, "model_index.json")
    if storage.exists(path):
        check_same(config.output, storage.read_json(path), identity)
    elif storage.exists(model):
        raise ValueError(f"output {config.output!r} holds another model; --overwrite replaces it")
    return storage.exists(model)


def _claim(config: Config, identity: dict[str, Any]) -> None:
    """Make the output folder this run's own, after all checks, so that a mistyped command claims nothing."""
    if config.overwrite:
        for name in (*OWNED, "_run"):
            storage.remove(storage.join(config.output, name))
    storage.write_json(state(config, "config.json"), identity)


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """``{"optimizer": {"lr": 1}}`` -> ``{"optimizer.lr": 1}``, without what changes no result."""
    where = ("cluster.", "output", "overwrite")
    flat = json.loads(json.dumps(flatten(config)))
    return {k: v for k, v in flat.items() if not k.startswith(where)}


def _train(config: Config, source: Source, s: Session) -> str | None:
    """Train on the cluster; what went wrong, in one line."""
    from noiseweave.cluster.training import run_training
    from noiseweave.jobs import train_input
    from noiseweave.jobs.train_loop import Task, loop
    from noiseweave.jobs.train_report import Watch

    if config.model.vae is not None:
        source = train_input.latents(config, source, s)
    task = Task(config=config, source=source, threads=s.threads, quarantine=state(config, "bad"))
    try:
        return run_training(
            loop, task, name="checkpoints", storage_path=state(config), session=s,
            max_failures=s.retries, keep=config.checkpoint.keep, watch=Watch(state(config, "log.jsonl"), config.steps),
        )  # fmt: skip
    except RuntimeError as e:
        return f"training failed: {e}"


def _check(config: Config, s: Session) -> None:
    """Raise ValueError for what the config asks and these workers cannot do."""
    check_workers(config.precision, config.optimizer, s)
    check(
        config.streams % s.workers == 0, "data.streams", config.streams, f"a multiple of {s.workers} workers"
    )
    if s.workers * config.accumulate > config.batch:
        raise ValueError(f"batch={config.batch}: {s.workers} workers x {config.accumulate} parts at least")


def check_workers(precision: Precision, optimizer: OptimizerRecipe, s: Session) -> None:
    """Raise ValueError for what no training can do on these workers."""
    if s.gpus_per_worker not in (0, 1):
        raise ValueError(f"cluster.gpus_per_worker={s.gpus_per_worker:g}: training needs 1, or 0 for CPUs")
    if precision == "fp16" and s.gpus_per_worker == 0:
        raise ValueError("precision='fp16': needs a GPU; fp32 or bf16 on CPUs")
    if optimizer.eight_bit and importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("optimizer.eight_bit=True: needs bitsandbytes, which is not installed here")
