"""What each training worker does: build its system, take its parts of the global batches, draw previews."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch

from noiseweave.cluster import storage
from noiseweave.cluster.streams import Raw
from noiseweave.cluster.training import Link
from noiseweave.engine.networks import tuning
from noiseweave.engine.networks.base_models import BaseModel
from noiseweave.engine.pictures import collage, images
from noiseweave.engine.records import Quarantined
from noiseweave.engine.sampling import samplers
from noiseweave.jobs import outputs
from noiseweave.jobs.train import start
from noiseweave.jobs.train.batches import Unreadable, batches, streams_of
from noiseweave.jobs.train.config import Config, state
from noiseweave.jobs.train.task import Task
from noiseweave.jobs.training.trainer import Regime, Trainer, steps

STRIP = 8  # pictures of a preview that go on the strip


def regime(config: Config) -> Regime:
    """How the steps are made."""
    return Regime(
        steps=config.steps,
        batch=config.batch,
        parts=config.accumulate,
        precision=config.precision,
        ema=config.ema,
        optimizer=config.optimizer,
        log_every=config.log_every,
        checkpoint_every=config.checkpoint.every,
        seed=config.seed,
        state=state(config),
    )


def loop(task: Task, link: Link) -> None:
    """The train loop of one worker."""
    config = task.config
    torch.set_num_threads(task.threads)
    device = "cuda" if link.gpu else "cpu"
    system = start.build(config, task.source, device)
    tuning.tune_training(system.model.network, config.precision, device)
    trainer = Trainer(regime(config), system, link)
    quarantine = Quarantine(task, link.rank, trainer.step)
    ready = batches(
        config,
        task.source,
        streams_of(config, link.rank, link.world),
        trainer.step,
        system.model.noise_shape,
        quarantine.add,
        task.threads,
    )
    try:
        steps(trainer, ready, Preview(config, trainer, system.model), quarantine.write)
    except Unreadable as e:
        if link.world > 1:  # the others wait for this one: only an error ends them
            raise
        link.fail(str(e))
    finally:
        ready.close()
        quarantine.write()
        trainer.end()


class Preview:
    """Draws a sheet every so many steps, on rank 0; always from the same noise and the same labels."""

    def __init__(self, config: Config, trainer: Trainer, model: BaseModel) -> None:
        self.config, self.trainer, self.model = config, trainer, model

    def due(self, step: int) -> bool:
        """Whether samples are drawn after a step."""
        every = self.config.preview.every
        return bool(step and every and (step % every == 0 or step == self.config.steps))

    def look(self, step: int) -> dict[str, float]:
        """Write the sheet of a step; no figures."""
        pictures = self._draw()
        count = len(pictures)
        columns = min(STRIP, count)
        rows = [list(pictures[i : i + columns]) for i in range(0, count, columns)]
        page = collage.sheet(rows, tile=max(32, self.config.data.size))
        storage.write(storage.join(self.config.output, "previews", f"{step:09d}.png"), collage.png(page))
        raw = images.encode(np.concatenate(list(pictures[:columns]), 1))
        storage.write(state(self.config, "strips", f"{step:09d}.png"), raw)
        return {}

    def _draw(self) -> np.ndarray:
        """uint8 [count, H, W, C]."""
        model, recipe = self.model, self.config.preview
        network = copy.deepcopy(self.trainer.drawing)
        network.load_state_dict(self.trainer.average())
        model = dataclasses.replace(model, network=network.eval())
        label = torch.arange(recipe.count) % model.classes if model.classes else None
        keys = range(recipe.count)
        return samplers.draw(model, keys, label, recipe.sampler, self.config.seed).image_BHWC


class Quarantine:
    """What this worker could not decode, left for the driver, which counts each picture once."""

    def __init__(self, task: Task, rank: int, first: int) -> None:
        self.found: dict[tuple[str, str], Quarantined] = {}
        # a list of its own for each start, so that a resumed worker keeps what was found before
        self.path = storage.join(task.quarantine, f"{first:09d}-{rank:05d}.jsonl")

    def add(self, raw: Raw, error: ValueError) -> None:
        """Note a picture that could not be decoded."""
        self.found[raw.shard, raw.key] = Quarantined.of(error, shard=raw.shard, key=raw.key)

    def write(self) -> None:
        """Write what was noted, for the driver to gather."""
        if self.found:
            storage.write(self.path, outputs.json_lines(map(dataclasses.asdict, list(self.found.values()))))
