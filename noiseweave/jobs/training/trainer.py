"""Training, whatever is trained: a worker's steps, its checkpoints, the rows of the log."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import safetensors.torch
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor

from noiseweave.cluster import storage
from noiseweave.cluster.training import Link
from noiseweave.engine.networks.recipes import Precision
from noiseweave.engine.records import Json, JsonMapping
from noiseweave.engine.seeding import seed_of
from noiseweave.engine.training.objectives import coupled, learning_rate, moving_average
from noiseweave.engine.training.systems import Learner, Turn

if TYPE_CHECKING:
    from noiseweave.engine.training.recipes import OptimizerRecipe

ROWS = 1000  # of the log that a checkpoint holds: more than a killed driver can have left unwritten


@dataclass(frozen=True, kw_only=True)
class Regime:
    """How something is trained.

    Attributes:
        steps: optimizer steps.
        batch: samples in one step, over all workers.
        parts: forward and backward passes of each worker in a step.
        precision: what the networks are called in.
        ema: decay of the moving average; 0 keeps the last weights.
        log_every, checkpoint_every: steps.
        seed: of what the networks draw themselves (dropout).
        state: folder of the run's state.
    """

    steps: int
    batch: int
    parts: int
    precision: Precision
    ema: float
    optimizer: OptimizerRecipe
    log_every: int
    checkpoint_every: int
    seed: int
    state: str


class Beside(Protocol):
    """What happens beside the steps: previews, validation."""

    def due(self, step: int) -> bool:
        """Whether there is something to do after this step, or, at 0, before the first; the same on every rank."""

    def look(self, step: int) -> Mapping[str, float]:
        """Do it, on rank 0 alone; figures for the log."""


class Trainer:
    """Networks, average and optimizers of one worker, joined by accelerate to those of the others.

    Weights that need no gradient are frozen: no optimizer has them, no average, no checkpoint.
    """

    def __init__(self, regime: Regime, system: Learner, link: Link) -> None:
        self.regime, self.system, self.link, self.step = regime, system, link, 0
        self.accelerator = accelerator_of(regime, link)
        self.rows: deque[Json] = deque(maxlen=ROWS)
        self.networks: Json = dict(system.networks)
        self.optimizers: Json = {
            n: optimizer_of(regime.optimizer, network) for n, network in self.networks.items()
        }
        average = self._restore() if link.resume else kept(self.drawing)
        self.wrapped: Json = {}
        for name, network in self.networks.items():
            self.wrapped[name], self.optimizers[name] = self.accelerator.prepare(
                network, self.optimizers[name]
            )
        # found once: looking through a large network costs as much as a small step
        self.weights = {name: trained(network) for name, network in self.networks.items()}
        self.ema = moving_average(self.averaging.values(), regime.ema, self.step)
        self.ema.shadow_params = [
            average[n].detach().clone().to(self.accelerator.device) for n in self.averaging
        ]

    @property
    def drawing(self) -> Any:
        """The network that pictures are drawn with."""
        return self.networks[self.system.drawing]

    @property
    def averaging(self) -> Json:
        """The weights that are averaged, by name."""
        return self.weights[self.system.drawing]

    def _restore(self) -> dict[str, Tensor]:
        """Take everything from the checkpoint but the average, which comes back."""
        saved = torch.load(io.BytesIO(self.link.load("optimizer.pt")), weights_only=True)
        weights = safetensors.torch.load(self.link.load("model.safetensors"))
        for name, network in self.networks.items():
            inside = {n.removeprefix(f"{name}."): w for n, w in weights.items() if n.startswith(f"{name}.")}
            assert inside.keys() == kept(network).keys()
            network.load_state_dict(inside, strict=False)
            self.optimizers[name].load_state_dict(saved["optimizers"][name])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        self.step = saved["step"]
        self.rows.extend(json.loads(self.link.load("rows.json")))
        return safetensors.torch.load(self.link.load("ema.safetensors"))

    def average(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the drawing network, with averaged weights; its buffers are the last ones."""
        return kept(self.drawing) | dict(zip(self.averaging, self.ema.shadow_params, strict=True))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights stand in the drawing network while the block runs."""
        weights = list(self.averaging.values())
        self.ema.store(weights)
        self.ema.copy_to(weights)
        try:
            yield
        finally:
            self.ema.restore(weights)

    def files(self) -> dict[str, bytes]:
        """The checkpoint: tensors as safetensors, the optimizers for ``torch.load(weights_only=True)``."""
        weights = {f"{name}.{n}": w for name, x in self.networks.items() for n, w in kept(x).items()}
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None
        optimizers = {name: o.optimizer.state_dict() for name, o in self.optimizers.items()}
        buffer = io.BytesIO()
        torch.save({"step": self.step, "optimizers": optimizers, "scaler": scaler}, buffer)
        with self.averaged():
            products = self.system.products()
        return {
            "model.safetensors": safetensors.torch.save(_plain(weights)),
            "ema.safetensors": safetensors.torch.save(_plain(self.average())),
            "optimizer.pt": buffer.getvalue(),
            "rows.json": json.dumps(list(self.rows)).encode(),
            **products,
        }

    def end(self) -> None:
        """Close the log, and leave nothing to the next training in this process: accelerate keeps one state in each."""
        try:
            with storage.writing(self.regime.state, OSError):
                self.accelerator.end_training()
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()

    def lr(self, step: int) -> float:
        """The learning rate at a step."""
        r = self.regime.optimizer
        return learning_rate(step, peak=r.lr, steps=self.regime.steps, warmup=r.warmup, decay=r.decay)

    def update(self, parts: list[Any]) -> Tensor:
        """One step, all turns: float32 [turns], this worker's shares of the batch's mean losses.

        A loss is nan where the gradient is not finite.
        """
        torch.manual_seed(seed_of(self.regime.seed, "dropout", self.step, self.link.rank))
        parts = [on_device(part, self.accelerator.device) for part in parts]
        parts = self._coupled(parts) if self.system.couples else parts
        losses = torch.stack([self._turn(turn, parts) for turn in self.system.turns])
        self.ema.step(self.averaging.values())
        self.step += 1
        return losses

    def watched(self, part: Any) -> dict[str, float]:
        """More figures for the log, of this worker's part."""
        found = self.system.watch(self.networks, on_device(part, self.accelerator.device))
        return {name: float(values.mean()) for name, values in found.items()}

    def _turn(self, turn: Turn, parts: list[Any]) -> Tensor:
        assert len(parts) == self.regime.parts
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
                    share = turn.loss(networks, part).sum() / self.regime.batch
                # DDP takes the mean over workers and accelerate over parts; shares are to be summed.
                self.accelerator.backward(share * self.link.world * self.regime.parts)
                if self.accelerator.sync_gradients:
                    total += self._gradient_check(self.weights[turn.network])
                optimizer.step()
                optimizer.zero_grad()
            total += share.detach()
        return total

    def _gradient_check(self, weights: JsonMapping) -> Tensor:
        """Clip; 0, or nan when the norm is not finite. With fp16, accelerate skips such a step by itself."""
        limit = self.regime.optimizer.clip or float("inf")
        norm = self.accelerator.clip_grad_norm_(list(weights.values()), limit)
        return norm.detach() * 0 if self.accelerator.scaler is None else torch.zeros_like(norm)

    def _coupled(self, parts: list[Any]) -> list[Any]:
        """The global batch's noises assigned to its pictures; the same on every worker, each keeps its rows."""
        x0, eps = torch.cat([p.x0 for p in parts]), torch.cat([p.eps for p in parts])
        all_x0, all_eps = self.accelerator.gather(x0), self.accelerator.gather(eps)
        first = self.link.rank * len(x0)
        mine = coupled(all_x0, all_eps)[first : first + len(x0)]
        rows = iter(all_eps[mine.to(all_eps.device)].split([len(p.x0) for p in parts]))
        return [dataclasses.replace(part, eps=next(rows)) for part in parts]


def trained(network: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The weights of a network that need a gradient, by name."""
    return {name: w for name, w in network.named_parameters() if w.requires_grad}


def kept(network: torch.nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds of a network: its state without frozen weights."""
    frozen = {name for name, w in network.named_parameters() if not w.requires_grad}
    return {name: w for name, w in network.state_dict().items() if name not in frozen}


def optimizer_of(recipe: OptimizerRecipe, network: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW on the trained weights of a network."""
    kind: Any = torch.optim.AdamW
    if recipe.eight_bit:
        import bitsandbytes

        kind = bitsandbytes.optim.AdamW8bit
    weights = trained(network).values()
    return kind(weights, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)


def accelerator_of(regime: Regime, link: Link) -> Accelerator:
    """accelerate's, with TensorBoard events in a local run's folder."""
    local = "://" not in regime.state
    accelerator = Accelerator(
        cpu=not link.gpu,
        mixed_precision="no" if regime.precision == "fp32" else regime.precision,
        gradient_accumulation_steps=regime.parts,
        # training reads no batch norm's running statistics: nothing to send around
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        log_with="tensorboard" if local else None,
        project_dir=regime.state if local else None,
    )
    if local:
        accelerator.init_trackers("tensorboard")
    return accelerator


def on_device(part: Any, device: torch.device) -> Any:
    """A batch, a dataclass of tensors and of mappings of them, on the device."""
    moved = {f.name: _moved(getattr(part, f.name), device) for f in dataclasses.fields(part)}
    return dataclasses.replace(part, **moved)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mapping):
        return {name: _moved(item, device) for name, item in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}


def steps(trainer: Trainer, ready: Iterable[list[Any]], beside: Beside, saved: Callable[[], None]) -> None:
    """All steps that are left: update, log, look beside, save.

    Args:
        ready: a worker's parts of each step.
        saved: called after each checkpoint.
    """
    regime, link, losses, clock = trainer.regime, trainer.link, [], Clock(trainer.step)
    if trainer.rows:
        link.post({"earlier": list(trainer.rows)})
    elif beside.due(0) and link.rank == 0:
        _log(trainer, {"step": 0, **beside.look(0)})
    for parts in ready:
        losses.append(trainer.update(parts))
        step = trainer.step
        saving = step == regime.steps or step % regime.checkpoint_every == 0
        if not (saving or beside.due(step) or step % regime.log_every == 0):
            continue
        # Checked before each checkpoint too, so that every checkpoint is a good one.
        values = trainer.accelerator.reduce(torch.stack(losses), "sum").mean(0).tolist()
        if not np.isfinite(values).all():
            first = step - len(losses) + 1
            return link.fail(f"loss or gradient is not finite in steps {first} to {step}")
        losses.clear()
        named = {turn.name: v for turn, v in zip(trainer.system.turns, values, strict=True)}
        row = {**named, **trainer.watched(parts[0]), "lr": trainer.lr(step - 1)}
        row |= clock.row(step, regime.batch)
        if beside.due(step) and link.rank == 0:
            row |= beside.look(step)
        _log(trainer, row)
        if saving:
            link.save(step, trainer.files() if link.rank == 0 else {}, named)
            saved()


def _log(trainer: Trainer, row: Json) -> None:
    trainer.link.post(row)
    trainer.rows.append(row)
    with storage.writing(trainer.regime.state, OSError):  # TensorBoard's errors name no file
        trainer.accelerator.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])


class Clock:
    """Speed since this worker began."""

    def __init__(self, step: int) -> None:
        self.first, self.began = step, time.monotonic()

    def row(self, step: int, batch: int) -> dict[str, float]:
        """Seconds a step and samples a second since the clock began."""
        seconds = (time.monotonic() - self.began) / (step - self.first)
        return {"step": step, "seconds_per_step": seconds, "samples_per_second": batch / seconds}
