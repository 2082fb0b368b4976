"""What each training worker of lora does: load the model, take its parts of the steps, look at what is held out."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from noiseweave.cluster import storage
from noiseweave.cluster.training import Link
from noiseweave.engine.inpainting import filling
from noiseweave.engine.inpainting.models import InpaintFacts, InpaintKind, InpaintModel
from noiseweave.engine.inpainting.recipes import InpaintRecipe
from noiseweave.engine.lora import adapters
from noiseweave.engine.lora.loss import Goal, LoraNetwork, held_out_loss, loss, prepare
from noiseweave.engine.lora.pipelines import ENCODERS, open_pipeline
from noiseweave.engine.networks import safety, text_pipeline
from noiseweave.engine.networks.families.registry import family_of
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.protocols import Pipeline
from noiseweave.engine.networks.recipes import TextRecipe
from noiseweave.engine.networks.safety import Checked, SafetyChecker
from noiseweave.engine.networks.text_pipeline import TextModel
from noiseweave.engine.pictures import collage
from noiseweave.engine.records import JsonMapping
from noiseweave.engine.training.systems import Learner, Turn
from noiseweave.jobs.lora.batches import Encoders, Reader, batches, pixels
from noiseweave.jobs.lora.cache import check_seen
from noiseweave.jobs.lora.config import Config, state
from noiseweave.jobs.lora.input import Item
from noiseweave.jobs.lora.task import Task
from noiseweave.jobs.training.trainer import Regime, Trainer, on_device, steps

NAME = "lora"  # of what is trained, in checkpoints


def regime(task: Task) -> Regime:
    """How the steps are made."""
    c = task.config
    return Regime(
        steps=c.steps,
        batch=c.batch * c.accumulate * task.workers,
        parts=c.accumulate * (1 + bool(task.source.prior)),
        precision=c.precision,
        ema=c.ema,
        optimizer=c.optimizer,
        log_every=c.log_every,
        checkpoint_every=c.checkpoint.every,
        seed=c.seed,
        state=state(c),
    )


def loop(task: Task, link: Link) -> None:
    """The train loop of one worker."""
    config = task.config
    torch.set_num_threads(task.threads)
    pipeline = _pipeline(task, link)
    network = LoraNetwork(adapters.attach(pipeline, config.lora, config.seed), family_of(pipeline))
    prepare(network, config.precision, config.gradient_checkpointing, link.gpu)
    trainer = Trainer(regime(task), learner(config, network, pipeline), link)
    # every worker looks for itself, and all hear of the first that lacks something
    if lacks := [said for said in gather_object([lacking(task)]) if said]:
        trainer.end()
        return link.fail(lacks[0])
    reader = Reader(config, task.source, Encoders(pipeline))
    ready = batches(reader, link.rank, link.world, trainer.step, task.threads)
    try:
        steps(trainer, ready, Validation(task, trainer, reader), lambda: None)
    finally:
        ready.close()
        trainer.end()


def lacking(task: Task) -> str | None:
    """What this node does not see of the data, in a line, or None."""
    source = task.source
    seen = [] if source.encoded and not source.draws_holes else list(source.folders)
    arrays = [p.path for places in source.encoded.values() for p in places.values() if "://" not in p.path]
    try:
        check_seen([*seen, *sorted(set(arrays))])
    except ValueError as e:
        return str(e)
    return None


def _pipeline(task: Task, link: Link) -> Any:
    """The pipeline without the parts that this worker has no use for, in float32 but for the frozen network."""
    config, source = task.config, task.source
    draws = config.validation.pictures > 0 and source.held and link.rank == 0
    encodes = not source.encoded or source.draws_holes
    says = not source.spoken or config.lora.text_encoder
    without = [] if draws or encodes else ["vae"]
    without += [] if draws or says else ENCODERS
    # FLUX.1 in float32 is 48 GB; weights that are trained themselves stay float32, see prepare
    half = link.gpu and config.lora.method == "lora"
    network = config.precision if half else "fp32"
    return open_pipeline(config.model.name, "cuda" if link.gpu else "cpu", *without, network=network)


def goal_of(config: Config, pipeline: Pipeline) -> Goal:
    """What the loss of a pipeline's network is."""
    return Goal(family=family_of(pipeline), scheduler=pipeline.scheduler, objective=config.objective)


def learner(config: Config, network: LoraNetwork, pipeline: Pipeline) -> Learner:
    """The network that learns, its loss, and what is kept of it."""
    goal = goal_of(config, pipeline)

    def mean(networks: JsonMapping, batch: Any) -> torch.Tensor:
        return loss(networks[NAME], batch, goal)

    return Learner(
        networks={NAME: network},
        turns=(Turn(name="loss", network=NAME, loss=mean),),
        drawing=NAME,
        products=lambda: adapters.files(adapters.state(network), config.lora),
    )


class Validation:
    """The loss of held-out pictures at fixed times and noise, and their drawings; on rank 0."""

    def __init__(self, task: Task, trainer: Trainer, reader: Reader) -> None:
        self.config, self.source, self.trainer, self.reader = task.config, task.source, trainer, reader
        self.batches: list[tuple[Any, list[Item]]] | None = None

    def due(self, step: int) -> bool:
        """Whether held-out pictures are looked at after a step."""
        every = self.config.validation.every
        return bool(self.source.held and every and (step % every == 0 or step == self.config.steps))

    def look(self, step: int) -> dict[str, float]:
        """The mean loss of held-out pictures, and their drawings."""
        trainer = self.trainer
        if self.batches is None:
            self.batches = self.reader.held_out(self.config.validation.most)
        network, goal = trainer.drawing, goal_of(self.config, self.reader.encoders.pipeline)
        losses = []
        with trainer.averaged():
            for batch, items in self.batches:
                with trainer.accelerator.autocast():
                    moved = on_device(batch, trainer.accelerator.device)
                    keys = [item.key for item in items]
                    losses += held_out_loss(network, moved, goal, keys, self.config.seed).tolist()
            if self.config.validation.pictures:
                self._draw(step)
        return {"validation_loss": float(np.mean(losses))}

    def _draw(self, step: int) -> None:
        network = self.trainer.drawing
        network.eval()
        try:
            with torch.random.fork_rng(devices=[]), self.trainer.accelerator.autocast():
                rows = list(self._rows())
        finally:
            network.train()
        page = collage.sheet(rows, tile=max(64, min(256, self.config.data.size)))
        name = storage.join(self.config.output, "validation", f"{step:09d}.png")
        storage.write(name, collage.png(page))

    def _rows(self) -> Iterator[list[np.ndarray]]:
        """Of each held-out picture, where the model sees holes: the picture, its hole in white, the repair."""
        recipe, model, guidance = self.config.validation, self._model(), self.source.model.guidance
        for item in self.source.held[: recipe.pictures]:
            prompt = Prompt(text=item.words, key=item.key)
            if not self.source.model.sees_holes:
                height, width = item.bucket
                assert model.text is not None
                words = TextRecipe(steps=recipe.steps, guidance=guidance, height=height, width=width)
                drawn = text_pipeline.checked(model.text, [prompt], words, self.config.seed)
                yield [self._shown(item, drawn, drawn.drawn[0, -1])]
                continue
            image = pixels(self.config, item, [0])[0]
            sample = self.reader.sample(item, -1, 0)
            assert sample.hole_HW is not None
            hole = sample.hole_HW[None]
            made = InpaintRecipe(steps=recipe.steps, guidance=guidance)
            filled = filling.checked(model, image, hole, [prompt], made, self.config.seed)
            shown = self._shown(item, filled, filled.drawn[0])
            yield [image[0], np.where(hole[0, ..., None], np.uint8(255), image[0]), shown]

    def _shown(self, item: Item, done: Checked, image_HWC: np.ndarray) -> np.ndarray:
        """What was drawn; grey, and named, where the pipeline's safety checker flags it."""
        if not done.flagged_B[0]:
            return image_HWC
        print(f"validation: {item.key}: flagged by the model's safety checker, not shown", file=sys.stderr)
        return np.full_like(image_HWC, 128)

    @functools.cached_property
    def _checker(self) -> SafetyChecker | None:
        return safety.taken_from(self.reader.encoders.pipeline)

    def _model(self) -> InpaintModel:
        checker, pipeline = self._checker, self.reader.encoders.pipeline
        pipeline.set_progress_bar_config(disable=True)
        kind: InpaintKind = "inpaint" if self.source.model.sees_holes else "latent"
        side, multiple = self.config.data.size, self.source.model.multiple
        about = InpaintFacts(kind=kind, channels=3, size=side, multiple=multiple)
        text = TextModel(pipeline=pipeline, scheduler=pipeline.scheduler, micro_batch=1, checker=checker)
        return InpaintModel(about=about, text=text, micro_batch=1)
