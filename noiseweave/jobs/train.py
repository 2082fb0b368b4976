"""``noiseweave train``: labelled or unlabelled shards -> a pixel-space DDPM as a diffusers folder.

The result depends on everything here but ``cluster``: each sample's noise and time step come from (seed,
step, place in the global batch), so one worker and many see the same batches.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from noiseweave.cluster import shards, storage
from noiseweave.cluster.ledger import flatten, refuse_foreign
from noiseweave.cluster.session import ClusterConfig, Session, session
from noiseweave.engine.recipes import Precision, check
from noiseweave.engine.records import Bad, Location


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """How pictures are read.

    Args:
        size: side in pixels; the short side is resized to it and the centre square kept.
        channels: 1 (grey) or 3 (RGB).
        flip: mirror half of the pictures left to right; not for digits or letters.
        memory_gb: pictures are decoded once and kept as uint8 where they fit in this, for each worker; else
            they are read anew for each batch.
    """

    size: int = 16
    channels: Literal[1, 3] = 1
    flip: bool = False
    memory_gb: float = 2.0

    def __post_init__(self) -> None:
        check(self.size >= 4, "data.size", self.size, "4 or more")
        check(self.memory_gb >= 0, "data.memory_gb", self.memory_gb, "0 or more")


@dataclass(frozen=True, kw_only=True)
class UnetRecipe:
    """The shape of diffusers' UNet2DModel.

    Args:
        channels: width of each level, each half as wide and high in pixels as the one before.
        layers: residual blocks in each level.
        attention: levels with self-attention, 0 the full resolution; the middle always has it.
        head: channels of an attention head.
        groups: groups of the normalisation; divides every width.
    """

    channels: tuple[int, ...] = (32, 64, 96)
    layers: int = 1
    attention: tuple[int, ...] = (1, 2)
    head: int = 8
    groups: int = 8

    def __post_init__(self) -> None:
        check(len(self.channels) >= 1, "unet.channels", self.channels, "at least one level")
        check(self.layers >= 1, "unet.layers", self.layers, "1 or more")
        check(self.groups >= 1, "unet.groups", self.groups, "1 or more")
        ok = all(c > 0 and c % self.groups == 0 for c in self.channels)
        check(ok, "unet.channels", self.channels, f"multiples of unet.groups={self.groups}")
        ok = self.head >= 1 and all(c % self.head == 0 for c in self.channels)
        check(ok, "unet.head", self.head, f"a divisor of each of unet.channels={self.channels}")
        ok = all(0 <= a < len(self.channels) for a in self.attention)
        check(ok, "unet.attention", self.attention, f"levels 0 to {len(self.channels) - 1}")


@dataclass(frozen=True, kw_only=True)
class ScheduleRecipe:
    """The noise schedule, saved with the model.

    Args:
        kind: cosine (squaredcos_cap_v2, Nichol & Dhariwal 2021) or linear (Ho et al. 2020).
        timesteps: steps of the whole chain.
        clip_sample: whether samplers clip their estimate of x0 to [-1, 1].
    """

    kind: Literal["cosine", "linear"] = "cosine"
    timesteps: int = 1000
    clip_sample: bool = True

    def __post_init__(self) -> None:
        check(2 <= self.timesteps <= 100_000, "schedule.timesteps", self.timesteps, "2 to 100000")


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
    """

    lr: float = 1e-3
    warmup: int = 100
    decay: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0

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
class Config:
    """Training of a pixel-space DDPM.

    Args:
        input: folder, glob, brace pattern or URL of WebDataset shards.
        output: folder that becomes a diffusers DDPMPipeline; the run's state lies in its _run/.
        overwrite: start anew where the output holds another run.
        steps: optimizer steps.
        batch: pictures in one optimizer step, over all workers.
        accumulate: parts that each worker takes its share of the batch in, to save memory.
        precision: what the network trains in; weights and optimizer stay float32.
        save_precision: of the final weights.
        ema: decay of the moving average of the weights, which is what is saved.
        log_every: steps between rows of the log; a line is shown every few seconds at most.
        seed: of the first weights, the order and the noise.
        data: how pictures are read.
        unet: the network.
        schedule: the noise schedule.
        optimizer: AdamW and its step size.
        checkpoint: what survives a kill.
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
    data: DataRecipe = field(default_factory=DataRecipe)
    unet: UnetRecipe = field(default_factory=UnetRecipe)
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    checkpoint: CheckpointRecipe = field(default_factory=CheckpointRecipe)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "log_every"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        check(0 <= self.ema < 1, "ema", self.ema, "0 to below 1")
        check(0 <= self.seed < 1 << 63, "seed", self.seed, "0 to 2^63 - 1")
        halvings = 1 << (len(self.unet.channels) - 1)
        ok = self.data.size % halvings == 0
        check(ok, "data.size", self.data.size, f"a multiple of {halvings}, as unet.channels has it")


def run(config: Config) -> int:
    """Train, or go on training, or say that it is done: 0 when the model is there, 1 when training failed."""
    config = dataclasses.replace(config, output=storage.absolute(config.output))
    found = shards.find(config.input)
    storage.check_writable(config.output)
    locations, bad = _index(found)
    identity = {"job": "train", **_flat(dataclasses.asdict(config)), "samples": len(locations)}
    path = _state(config, "config.json")
    refuse_foreign(config.output, storage.read_json(path) if storage.exists(path) else None, identity, ())
    if not config.overwrite and _finished(config, identity):
        print(f"{config.output}: finished already ({config.steps} steps)")
        return 0
    print(f"{len(locations)} pictures in {len(found)} shards -> {config.output}", flush=True)
    failure = _train(config, locations, bad, identity)
    counts = _quarantine(config, [])
    print("quarantined: " + (", ".join(f"{n} {r}" for r, n in sorted(counts.items())) or "none"))
    last = _last(config)
    if failure or not last.endswith(f"{config.steps:09d}"):
        why = failure or "training ended early"
        print(f"error: {why}; last good checkpoint: {last}", file=sys.stderr)
        return 1
    _publish(config, last)
    print(f"saved {config.output}")
    return 0


def _state(config: Config, *names: str) -> str:
    return storage.join(config.output, "_run", *names)


def _index(found: list[str]) -> tuple[list[Location], list[Bad]]:
    """All pictures, in the order of the shards, and what is wrong with the shards."""
    with ThreadPoolExecutor(16) as pool:
        parts = list(pool.map(shards.locate, found))
    locations = [location for good, _ in parts for location in good]
    if not locations:
        raise ValueError(f"input: no pictures in {len(found)} shards")
    return locations, [b for _, bad in parts for b in bad]


def _finished(config: Config, identity: dict[str, Any]) -> bool:
    """Whether this very run has ended in the output folder.

    Raises:
        ValueError: the folder holds something else; the line names what differs.
    """
    path, model = _state(config, "config.json"), storage.join(config.output, "model_index.json")
    if storage.exists(path):
        theirs = storage.read_json(path)
        changed = sorted(k for k in identity.keys() | theirs.keys() if identity.get(k) != theirs.get(k))
        if changed:
            what = ", ".join(f"{k} ({theirs.get(k)} -> {identity.get(k)})" for k in changed)
            raise ValueError(f"output {config.output!r} holds another run: {what}; --overwrite starts anew")
    elif storage.exists(model):
        raise ValueError(f"output {config.output!r} holds another model; --overwrite replaces it")
    return storage.exists(model)


def _claim(config: Config, identity: dict[str, Any], bad: list[Bad]) -> None:
    """Make the output folder this run's own, after all checks, so that a mistyped command claims nothing."""
    if config.overwrite:
        for name in ("model_index.json", "quarantine.jsonl", "_run"):
            storage.remove(storage.join(config.output, name))
    storage.write_json(_state(config, "config.json"), identity)
    _quarantine(config, bad)


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """``{"optimizer": {"lr": 1}}`` -> ``{"optimizer.lr": 1}``, without what changes no result."""
    where = ("cluster.", "output", "overwrite")
    flat = json.loads(json.dumps(flatten(config)))
    return {k: v for k, v in flat.items() if not k.startswith(where)}


def _train(config: Config, locations: list[Location], bad: list[Bad], identity: dict[str, Any]) -> str | None:
    """Train on the cluster; what went wrong, in one line."""
    from noiseweave.cluster.training import run_training
    from noiseweave.jobs.train_loop import Task, loop

    with session(config.cluster) as s:
        _check(config, s)
        _claim(config, identity, bad)
        task = Task(config=config, locations=locations, threads=s.threads, quarantine=_state(config, "bad"))
        try:
            return run_training(
                loop, task, name="checkpoints", storage_path=_state(config), session=s,
                max_failures=s.retries, keep=config.checkpoint.keep, watch=Watch(config),
            )  # fmt: skip
        except RuntimeError as e:
            return f"training failed: {e}"


def _check(config: Config, s: Session) -> None:
    """Raise ValueError for what the config asks and these workers cannot do."""
    if s.workers * config.accumulate > config.batch:
        raise ValueError(f"batch={config.batch}: {s.workers} workers x {config.accumulate} parts at least")
    if s.gpus_per_worker not in (0, 1):
        raise ValueError(f"cluster.gpus_per_worker={s.gpus_per_worker:g}: training needs 1, or 0 for CPUs")
    if config.precision == "fp16" and s.gpus_per_worker == 0:
        raise ValueError("precision='fp16': needs a GPU; fp32 or bf16 on CPUs")


class Watch:
    """Prints a line every few seconds and keeps the log: one JSON row for every ``log_every`` steps."""

    def __init__(self, config: Config, seconds: float = 5.0) -> None:
        self.path, self.steps, self.seconds = _state(config, "log.jsonl"), config.steps, seconds
        old = storage.read(self.path).splitlines() if storage.exists(self.path) else []
        self.rows = {row["step"]: row for row in map(json.loads, old)}
        self.shown = 0.0

    def __call__(self, row: dict[str, Any]) -> None:
        self.rows[row["step"]] = row
        last = row["step"] == self.steps
        if time.monotonic() - self.shown < self.seconds and not last:
            return
        self.shown = time.monotonic()
        storage.write(self.path, _lines(self.rows))
        left = (self.steps - row["step"]) * row["seconds_per_step"]
        print(
            f"step {row['step']}/{self.steps}  loss {row['loss']:.4f}  lr {row['lr']:.2e}  "
            f"{row['samples_per_second']:.0f} samples/s  {left / 60:.1f} min left",
            flush=True,
        )


def _lines(rows: dict[Any, Any]) -> bytes:
    """Rows as JSON lines, in the order of their keys."""
    return b"".join(json.dumps(row).encode() + b"\n" for _, row in sorted(rows.items()))


def _quarantine(config: Config, bad: list[Bad]) -> Counter[str]:
    """Add ``bad`` and what the workers could not decode to quarantine.jsonl, once each; reason -> count."""
    path, folder = storage.join(config.output, "quarantine.jsonl"), _state(config, "bad")
    files = [path] * storage.exists(path) + [storage.join(folder, f) for f in storage.names_in(folder)]
    rows = [json.loads(line) for file in files for line in storage.read(file).splitlines()]
    rows += [dataclasses.asdict(b) for b in bad]
    unique = {(r["shard"], r["key"], r["reason"]): r for r in rows}
    if unique:
        storage.write(path, _lines(unique))
    return Counter(reason for _, _, reason in unique)


def _last(config: Config) -> str:
    from noiseweave.cluster.training import latest

    return latest(_state(config, "checkpoints")) or "none"


def _publish(config: Config, checkpoint: str) -> None:
    """A checkpoint's EMA as a diffusers folder; model_index.json, which makes it one, is written last."""
    from noiseweave.jobs.train_loop import pipeline

    weights = storage.read(storage.join(checkpoint, "ema.safetensors"))
    with tempfile.TemporaryDirectory() as temporary:
        pipeline(config, weights).save_pretrained(temporary)
        files = [p for p in Path(temporary).rglob("*") if p.is_file()]
        for file in sorted(files, key=lambda p: p.name == "model_index.json"):
            target = storage.join(config.output, file.relative_to(temporary).as_posix())
            storage.write(target, file.read_bytes())
