"""What each training worker does: read its slices of the global batches, step, commit checkpoints.

Letters as in engine.objectives. A step's batch is a list of places 0..batch-1; worker r of n takes the r-th
of n slices, in ``accumulate`` parts.
"""

from __future__ import annotations

import dataclasses
import io
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import safetensors.torch
import torch
from accelerate import Accelerator
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor

from noiseweave.cluster import storage
from noiseweave.cluster.training import Link
from noiseweave.engine import images
from noiseweave.engine.objectives import draw, epsilon_loss, learning_rate, moving_average, order
from noiseweave.engine.records import Bad, Location
from noiseweave.jobs.train import Config, DataRecipe


@dataclass(frozen=True, kw_only=True)
class Task:
    """All that a worker is told.

    Attributes:
        threads: torch threads on a CPU.
        quarantine: folder for the list of pictures that could not be decoded.
    """

    config: Config
    locations: Sequence[Location]
    threads: int
    quarantine: str


def scheduler_of(config: Config) -> Any:
    kinds = {"cosine": "squaredcos_cap_v2", "linear": "linear"}
    return DDPMScheduler(
        num_train_timesteps=config.schedule.timesteps,
        beta_schedule=kinds[config.schedule.kind],
        clip_sample=config.schedule.clip_sample,
        prediction_type="epsilon",
    )


def unet_of(config: Config) -> Any:
    """A UNet2DModel with its first weights, a function of the seed."""
    shape, levels = config.unet, range(len(config.unet.channels))
    torch.manual_seed(config.seed)
    return UNet2DModel(
        sample_size=config.data.size,
        in_channels=config.data.channels,
        out_channels=config.data.channels,
        block_out_channels=shape.channels,
        layers_per_block=shape.layers,
        attention_head_dim=shape.head,
        norm_num_groups=shape.groups,
        down_block_types=tuple("AttnDownBlock2D" if i in shape.attention else "DownBlock2D" for i in levels),
        up_block_types=tuple(
            "AttnUpBlock2D" if i in shape.attention else "UpBlock2D" for i in reversed(levels)
        ),
    )


def pipeline(config: Config, weights: bytes) -> Any:
    """The finished DDPMPipeline, from the bytes of a safetensors file."""
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[config.save_precision]
    unet = unet_of(config)
    unet.load_state_dict({n: t.to(dtype) for n, t in safetensors.torch.load(weights).items()}, assign=True)
    return DDPMPipeline(unet=unet, scheduler=scheduler_of(config))


class Pictures:
    """Pictures by number, decoded once where they fit in memory, else for each batch.

    One that cannot be decoded is listed in ``bad`` and the next good one stands in for it, whichever way they
    are read, so that neither memory nor the number of workers changes a batch.
    """

    def __init__(self, locations: Sequence[Location], recipe: DataRecipe, threads: int) -> None:
        self.locations, self.recipe, self.threads = locations, recipe, threads
        self.bad: dict[int, Bad] = {}
        self.kept: np.ndarray | None = None
        shape = (len(locations), recipe.size, recipe.size, recipe.channels)
        if np.prod(shape, dtype=float) <= recipe.memory_gb * 1e9:
            kept = np.zeros(shape, np.uint8)
            for i, image in self._read(range(len(locations))):
                kept[i] = image
            self.kept = kept

    def __getitem__(self, numbers: Sequence[int]) -> np.ndarray:
        """uint8 [len(numbers), H, W, C].

        Raises:
            ValueError: no picture at all can be decoded.
        """
        numbers = [self._good(i) for i in numbers]
        if self.kept is not None:
            return self.kept[numbers]
        found = dict(self._read(sorted(set(numbers))))
        # A picture found bad just now is skipped the second time; good ones of this batch are not read again.
        return np.stack([found[i] if i in found else self[[i]][0] for i in numbers])

    def _good(self, number: int) -> int:
        for i in range(number, number + len(self.locations)):
            if i % len(self.locations) not in self.bad:
                return i % len(self.locations)
        raise ValueError(f"none of {len(self.locations)} pictures can be decoded")

    def _read(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        with ThreadPoolExecutor(self.threads) as pool:
            for shard, group in groupby(numbers, key=lambda i: self.locations[i].shard):
                members = list(group)
                ranges = [(self.locations[i].offset, self.locations[i].size) for i in members]
                for i, image in zip(
                    members, pool.map(self._decode, storage.read_ranges(shard, ranges)), strict=True
                ):
                    if isinstance(image, str):
                        reason, _, detail = image.partition(": ")
                        self.bad[i] = Bad(
                            shard=shard, key=self.locations[i].key, reason=reason, detail=detail
                        )
                    else:
                        yield i, image

    def _decode(self, data: bytes) -> np.ndarray | str:
        try:
            return images.fit(images.decode(data, self.recipe.channels), self.recipe.size)
        except ValueError as e:
            return str(e)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A worker's part of a step: pictures in [-1, 1], their noise and time steps."""

    x0_BCHW: Tensor
    eps_BCHW: Tensor
    t_B: Tensor


def slices(batch: int, world: int, accumulate: int, rank: int) -> list[list[int]]:
    """The places of the global batch that a worker takes, in its parts; sizes differ by one at most."""
    mine = np.array_split(np.arange(batch), world)[rank]
    return [part.tolist() for part in np.array_split(mine, accumulate)]


def batch_of(pictures: Pictures, config: Config, step: int, places: Sequence[int]) -> Batch:
    numbers = order(config.seed, len(pictures.locations), step * config.batch + places[0], len(places))
    x_BHWC = pictures[numbers]
    shape = (config.data.channels, config.data.size, config.data.size)
    draws = [draw(config.seed, step, place, shape, config.schedule.timesteps) for place in places]
    flipped = [x[:, ::-1] if config.data.flip and d.flip else x for x, d in zip(x_BHWC, draws, strict=True)]
    return Batch(
        x0_BCHW=torch.from_numpy(np.stack(flipped)).permute(0, 3, 1, 2).float() / 127.5 - 1,
        eps_BCHW=torch.stack([d.eps_CHW for d in draws]),
        t_B=torch.tensor([d.t for d in draws]),
    )


def batches(pictures: Pictures, config: Config, link: Link, first: int) -> Iterator[list[Batch]]:
    """This worker's parts of the steps from ``first`` on; the next step is read while this one trains."""
    mine = slices(config.batch, link.world, config.accumulate, link.rank)

    def load(step: int) -> list[Batch]:
        return [batch_of(pictures, config, step, places) for places in mine]

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(load, first)
        for step in range(first, config.steps):
            ready, ahead = ahead.result(), pool.submit(load, min(step + 1, config.steps - 1))
            yield ready


class Trainer:
    """Model, EMA and optimizer of one worker, joined by accelerate to those of the others."""

    def __init__(self, config: Config, link: Link) -> None:
        self.config, self.link, self.step = config, link, 0
        half = "no" if config.precision == "fp32" else config.precision
        self.accelerator = Accelerator(
            cpu=not link.gpu, mixed_precision=half, gradient_accumulation_steps=config.accumulate
        )
        self.unet = unet_of(config)
        recipe = config.optimizer
        self.optimizer: Any = torch.optim.AdamW(
            self.unet.parameters(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        average = self._restore() if link.resume else self.unet.state_dict()
        self.ddp, self.optimizer = self.accelerator.prepare(self.unet, self.optimizer)
        self.unet = self.accelerator.unwrap_model(self.ddp)
        self.ema = moving_average(self.unet.parameters(), config.ema, self.step)
        self.ema.shadow_params = [
            average[n].detach().clone().to(self.accelerator.device) for n, _ in self.unet.named_parameters()
        ]
        self.alpha_bar_T = scheduler_of(config).alphas_cumprod.to(self.accelerator.device)

    def _restore(self) -> dict[str, Tensor]:
        """Take everything from the checkpoint but the EMA, which comes back."""
        state = torch.load(io.BytesIO(self.link.load("optimizer.pt")), weights_only=True)
        self.unet.load_state_dict(safetensors.torch.load(self.link.load("model.safetensors")))
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        return safetensors.torch.load(self.link.load("ema.safetensors"))

    def files(self) -> dict[str, bytes]:
        """The checkpoint: tensors as safetensors, the optimizer for ``torch.load(weights_only=True)``."""
        names = [n for n, _ in self.unet.named_parameters()]
        average = dict(zip(names, self.ema.shadow_params, strict=True))
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None
        state = {"step": self.step, "optimizer": self.optimizer.optimizer.state_dict(), "scaler": scaler}
        buffer = io.BytesIO()
        torch.save(state, buffer)
        return {
            "model.safetensors": safetensors.torch.save(_plain(self.unet.state_dict())),
            "ema.safetensors": safetensors.torch.save(_plain(average)),
            "optimizer.pt": buffer.getvalue(),
        }

    def lr(self, step: int) -> float:
        r = self.config.optimizer
        return learning_rate(step, peak=r.lr, steps=self.config.steps, warmup=r.warmup, decay=r.decay)

    def update(self, parts: list[Batch]) -> Tensor:
        """One optimizer step: this worker's share of the batch's mean loss, nan for a gradient that is."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(self.step)
        total = torch.zeros((), device=self.accelerator.device)
        for part in parts:
            with self.accelerator.accumulate(self.ddp):
                share = self._loss(part).sum() / self.config.batch
                # DDP takes the mean over workers and accelerate over parts; shares are to be summed.
                self.accelerator.backward(share * self.link.world * self.config.accumulate)
                if self.accelerator.sync_gradients:
                    total += self._gradient_check()
                self.optimizer.step()
                self.optimizer.zero_grad()
            total += share.detach()
        self.ema.step(self.unet.parameters())
        self.step += 1
        return total

    def _loss(self, part: Batch) -> Tensor:
        to = self.accelerator.device
        with self.accelerator.autocast():
            return epsilon_loss(
                lambda x, t: self.ddp(x, t).sample,
                part.x0_BCHW.to(to), part.eps_BCHW.to(to), part.t_B.to(to), self.alpha_bar_T,
            )  # fmt: skip

    def _gradient_check(self) -> Tensor:
        """Clip; 0, or nan when the norm is not finite. With fp16, accelerate skips such a step by itself."""
        norm = self.accelerator.clip_grad_norm_(
            self.unet.parameters(), self.config.optimizer.clip or float("inf")
        )
        return norm.detach() * 0 if self.accelerator.scaler is None else torch.zeros_like(norm)


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}


def loop(task: Task, link: Link) -> None:
    """The train loop of one worker."""
    config = task.config
    torch.set_num_threads(task.threads)
    pictures = Pictures(task.locations, config.data, task.threads)
    _report_bad(task, link, pictures, "start")
    if len(pictures.bad) == len(task.locations):
        return link.fail(f"none of {len(task.locations)} pictures can be decoded")
    trainer = Trainer(config, link)
    losses: list[Tensor] = []
    clock = Clock(trainer.step)
    for parts in batches(pictures, config, link, trainer.step):
        losses.append(trainer.update(parts))
        saving = trainer.step == config.steps or trainer.step % config.checkpoint.every == 0
        if not saving and trainer.step % config.log_every != 0:
            continue
        # Checked before each checkpoint too, so that every checkpoint is a good one.
        loss = float(trainer.accelerator.reduce(torch.stack(losses), "sum").mean())
        if not np.isfinite(loss):
            first = trainer.step - len(losses) + 1
            return link.fail(f"loss or gradient is not finite in steps {first} to {trainer.step}")
        losses.clear()
        link.post({"loss": loss, "lr": trainer.lr(trainer.step - 1), **clock.row(trainer.step, config.batch)})
        if saving:
            link.save(trainer.step, trainer.files() if link.rank == 0 else {}, {"loss": loss})
            _report_bad(task, link, pictures, f"{trainer.step:09d}")


class Clock:
    """Speed since this worker began."""

    def __init__(self, step: int) -> None:
        self.first, self.began = step, time.monotonic()

    def row(self, step: int, batch: int) -> dict[str, float]:
        seconds = (time.monotonic() - self.began) / (step - self.first)
        return {"step": step, "seconds_per_step": seconds, "samples_per_second": batch / seconds}


def _report_bad(task: Task, link: Link, pictures: Pictures, when: str) -> None:
    """Leave what this worker could not decode for the driver, which counts each picture once."""
    if pictures.bad:
        lines = [json.dumps(dataclasses.asdict(b)) + "\n" for b in list(pictures.bad.values())]
        storage.write(storage.join(task.quarantine, f"{when}-{link.rank:05d}.jsonl"), "".join(lines).encode())
