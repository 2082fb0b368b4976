"""What each training worker does: take its parts of the global batches, step, commit checkpoints."""

from __future__ import annotations

import copy
import dataclasses
import io
import json
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor

from noiseweave.cluster import storage
from noiseweave.cluster.streams import Raw
from noiseweave.cluster.training import Link
from noiseweave.engine import base_models, collage, images, samplers, systems
from noiseweave.engine.objectives import coupled, learning_rate, moving_average
from noiseweave.engine.records import Bad
from noiseweave.engine.systems import Batch, System, Turn
from noiseweave.jobs.train import Config, blueprint, state
from noiseweave.jobs.train_data import Unreadable, batches
from noiseweave.jobs.train_input import Source

STRIP = 8  # pictures of a preview that go on the strip
ROWS = 1000  # of the log that a checkpoint holds: more than a killed driver can have left unwritten


@dataclass(frozen=True, kw_only=True)
class Task:
    """All that a worker is told.

    Attributes:
        threads: torch threads on a CPU.
        quarantine: folder for the list of pictures that could not be decoded.
    """

    config: Config
    source: Source
    threads: int
    quarantine: str


class Trainer:
    """Networks, average and optimizers of one worker, joined by accelerate to those of the others."""

    def __init__(self, config: Config, system: System, link: Link) -> None:
        self.config, self.system, self.link, self.step = config, system, link, 0
        self.accelerator = accelerator_of(config, link)
        self.rows: deque[dict[str, float]] = deque(maxlen=ROWS)
        self.networks: dict[str, Any] = dict(system.networks)
        self.optimizers = {name: self._optimizer(network) for name, network in self.networks.items()}
        average = self._restore() if link.resume else self.drawing.state_dict()
        self.wrapped: dict[str, Any] = {}
        for name, network in self.networks.items():
            self.wrapped[name], self.optimizers[name] = self.accelerator.prepare(
                network, self.optimizers[name]
            )
        self.ema = moving_average(self.drawing.parameters(), config.ema, self.step)
        self.ema.shadow_params = [
            average[n].detach().clone().to(self.accelerator.device)
            for n, _ in self.drawing.named_parameters()
        ]

    @property
    def drawing(self) -> Any:
        return self.networks[self.system.drawing]

    def _optimizer(self, network: Any) -> Any:
        r = self.config.optimizer
        return torch.optim.AdamW(network.parameters(), lr=r.lr, betas=r.betas, weight_decay=r.weight_decay)

    def _restore(self) -> dict[str, Tensor]:
        """Take everything from the checkpoint but the average, which comes back."""
        saved = torch.load(io.BytesIO(self.link.load("optimizer.pt")), weights_only=True)
        weights = safetensors.torch.load(self.link.load("model.safetensors"))
        for name, network in self.networks.items():
            inside = {n.removeprefix(f"{name}."): w for n, w in weights.items() if n.startswith(f"{name}.")}
            network.load_state_dict(inside)
            self.optimizers[name].load_state_dict(saved["optimizers"][name])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.step = saved["step"]
        self.rows.extend(json.loads(self.link.load("rows.json")))
        return safetensors.torch.load(self.link.load("ema.safetensors"))

    def average(self) -> dict[str, Tensor]:
        """The drawing network's state with averaged weights; its buffers are the last ones."""
        names = [n for n, _ in self.drawing.named_parameters()]
        return self.drawing.state_dict() | dict(zip(names, self.ema.shadow_params, strict=True))

    def files(self) -> dict[str, bytes]:
        """The checkpoint: tensors as safetensors, the optimizers for ``torch.load(weights_only=True)``."""
        weights = {f"{name}.{n}": w for name, x in self.networks.items() for n, w in x.state_dict().items()}
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None
        optimizers = {name: o.optimizer.state_dict() for name, o in self.optimizers.items()}
        buffer = io.BytesIO()
        torch.save({"step": self.step, "optimizers": optimizers, "scaler": scaler}, buffer)
        return {
            "model.safetensors": safetensors.torch.save(_plain(weights)),
            "ema.safetensors": safetensors.torch.save(_plain(self.average())),
            "optimizer.pt": buffer.getvalue(),
            "rows.json": json.dumps(list(self.rows)).encode(),
        }

    def lr(self, step: int) -> float:
        r = self.config.optimizer
        return learning_rate(step, peak=r.lr, steps=self.config.steps, warmup=r.warmup, decay=r.decay)

    def update(self, parts: list[Batch]) -> Tensor:
        """One step, all turns: float32 [turns], this worker's shares of the batch's mean losses.

        A loss is nan where the gradient is not finite.
        """
        parts = [_on(part, self.accelerator.device) for part in parts]
        parts = self._coupled(parts) if self.system.couples else parts
        losses = torch.stack([self._turn(turn, parts) for turn in self.system.turns])
        self.ema.step(self.drawing.parameters())
        self.step += 1
        return losses

    def watched(self, part: Batch) -> dict[str, float]:
        """More figures for the log, of this worker's part."""
        found = self.system.watch(self.networks, _on(part, self.accelerator.device))
        return {name: float(values.mean()) for name, values in found.items()}

    def _turn(self, turn: Turn, parts: list[Batch]) -> Tensor:
        optimizer = self.optimizers[turn.network]
        for group in optimizer.param_groups:
            group["lr"] = self.lr(self.step)
        # only the network that moves is called through its wrapper, which joins gradients over workers
        wrapped = self.wrapped[turn.network]
        networks = self.networks | {turn.network: wrapped}
        total = torch.zeros((), device=self.accelerator.device)
        for part in parts:
            with self.accelerator.accumulate(wrapped):
                with self.accelerator.autocast():
                    share = turn.loss(networks, part).sum() / self.config.batch
                # DDP takes the mean over workers and accelerate over parts; shares are to be summed.
                self.accelerator.backward(share * self.link.world * self.config.accumulate)
                if self.accelerator.sync_gradients:
                    total += self._gradient_check(self.networks[turn.network])
                optimizer.step()
                optimizer.zero_grad()
            total += share.detach()
        return total

    def _gradient_check(self, network: Any) -> Tensor:
        """Clip; 0, or nan when the norm is not finite. With fp16, accelerate skips such a step by itself."""
        norm = self.accelerator.clip_grad_norm_(
            network.parameters(), self.config.optimizer.clip or float("inf")
        )
        return norm.detach() * 0 if self.accelerator.scaler is None else torch.zeros_like(norm)

    def _coupled(self, parts: list[Batch]) -> list[Batch]:
        """The global batch's noises assigned to its pictures; the same on every worker, each keeps its rows."""
        x0, eps = torch.cat([p.x0 for p in parts]), torch.cat([p.eps for p in parts])
        all_x0, all_eps = self.accelerator.gather(x0), self.accelerator.gather(eps)
        first = self.link.rank * len(x0)
        mine = coupled(all_x0, all_eps)[first : first + len(x0)]
        rows = iter(all_eps[mine.to(all_eps.device)].split([len(p.x0) for p in parts]))
        return [dataclasses.replace(part, eps=next(rows)) for part in parts]


def accelerator_of(config: Config, link: Link) -> Accelerator:
    """accelerate's, with TensorBoard events below a local output folder."""
    local = "://" not in config.output
    accelerator = Accelerator(
        cpu=not link.gpu,
        mixed_precision="no" if config.precision == "fp32" else config.precision,
        gradient_accumulation_steps=config.accumulate,
        # training reads no batch norm's running statistics: nothing to send around
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        log_with="tensorboard" if local else None,
        project_dir=state(config) if local else None,
    )
    if local:
        accelerator.init_trackers("tensorboard")
    return accelerator


def _on(part: Batch, device: torch.device) -> Batch:
    moved = {f.name: getattr(part, f.name).to(device) for f in dataclasses.fields(part)}
    return Batch(**moved)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}


def loop(task: Task, link: Link) -> None:
    """The train loop of one worker."""
    config = task.config
    torch.set_num_threads(task.threads)
    device = "cuda" if link.gpu else "cpu"
    encoder = None if config.model.vae is None else base_models.load_encoder(config.model.vae, device)
    system = systems.build(blueprint(config, task.source.classes), encoder)
    trainer = Trainer(config, system, link)
    quarantine = Quarantine(task, link.rank, trainer.step)
    ready = batches(
        config, task.source, link.rank, link.world, trainer.step, system.model.noise_shape,
        quarantine.add, task.threads,
    )  # fmt: skip
    try:
        _steps(config, trainer, ready, quarantine)
    except Unreadable as e:
        if link.world > 1:  # the others wait for this one: only an error ends them
            raise
        link.fail(str(e))
    finally:
        ready.close()
        quarantine.write()
        trainer.accelerator.end_training()


def _steps(config: Config, trainer: Trainer, ready: Any, quarantine: Quarantine) -> None:
    link, losses, clock = trainer.link, [], Clock(trainer.step)
    preview = Preview(config, trainer)
    if trainer.rows:
        link.post({"earlier": list(trainer.rows)})
    for parts in ready:
        losses.append(trainer.update(parts))
        step = trainer.step
        saving = step == config.steps or step % config.checkpoint.every == 0
        if not saving and step % config.log_every != 0:
            preview.draw_at(step)
            continue
        # Checked before each checkpoint too, so that every checkpoint is a good one.
        values = trainer.accelerator.reduce(torch.stack(losses), "sum").mean(0).tolist()
        if not np.isfinite(values).all():
            first = step - len(losses) + 1
            return link.fail(f"loss or gradient is not finite in steps {first} to {step}")
        losses.clear()
        named = {turn.name: v for turn, v in zip(trainer.system.turns, values, strict=True)}
        row = {
            **named,
            **trainer.watched(parts[0]),
            "lr": trainer.lr(step - 1),
            **clock.row(step, config.batch),
        }
        link.post(row)
        trainer.rows.append(row)
        trainer.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=step)
        preview.draw_at(step)
        if saving:
            link.save(step, trainer.files() if link.rank == 0 else {}, named)
            quarantine.write()


class Clock:
    """Speed since this worker began."""

    def __init__(self, step: int) -> None:
        self.first, self.began = step, time.monotonic()

    def row(self, step: int, batch: int) -> dict[str, float]:
        seconds = (time.monotonic() - self.began) / (step - self.first)
        return {"step": step, "seconds_per_step": seconds, "samples_per_second": batch / seconds}


class Preview:
    """Draws a sheet every so many steps, on rank 0; always from the same noise and the same labels."""

    def __init__(self, config: Config, trainer: Trainer) -> None:
        self.config, self.trainer = config, trainer
        self.every = config.preview.every if trainer.link.rank == 0 else 0

    def draw_at(self, step: int) -> None:
        if not self.every or (step % self.every and step != self.config.steps):
            return
        pictures = self._draw()
        count = len(pictures)
        columns = min(STRIP, count)
        rows = [list(pictures[i : i + columns]) for i in range(0, count, columns)]
        page = collage.sheet(rows, tile=max(32, self.config.data.size))
        storage.write(storage.join(self.config.output, "previews", f"{step:09d}.png"), collage.png(page))
        raw = images.encode(np.concatenate(list(pictures[:columns]), 1))
        storage.write(state(self.config, "strips", f"{step:09d}.png"), raw)

    def _draw(self) -> np.ndarray:
        """uint8 [count, H, W, C]."""
        model, recipe = self.trainer.system.model, self.config.preview
        network = copy.deepcopy(self.trainer.drawing)
        network.load_state_dict(self.trainer.average())
        model = dataclasses.replace(model, network=network.eval())
        label = torch.arange(recipe.count) % model.classes if model.classes else None
        keys = range(recipe.count)
        return samplers.draw(model, keys, label, recipe.sampler, self.config.seed).image_BHWC


class Quarantine:
    """What this worker could not decode, left for the driver, which counts each picture once."""

    def __init__(self, task: Task, rank: int, first: int) -> None:
        self.found: dict[tuple[str, str], Bad] = {}
        # a list of its own for each start, so that a resumed worker keeps what was found before
        self.path = storage.join(task.quarantine, f"{first:09d}-{rank:05d}.jsonl")

    def add(self, raw: Raw, error: ValueError) -> None:
        self.found[raw.shard, raw.key] = Bad.of(error, shard=raw.shard, key=raw.key)

    def write(self) -> None:
        if self.found:
            lines = [json.dumps(dataclasses.asdict(b)) + "\n" for b in list(self.found.values())]
            storage.write(self.path, "".join(lines).encode())
