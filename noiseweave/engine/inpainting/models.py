"""Models that fill holes: what a name means, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from noiseweave.engine.diffusion.path import Prediction
from noiseweave.engine.networks import base_models, latents, memory, paths, safety, text_pipeline, tuning
from noiseweave.engine.networks.base_models import BaseModel
from noiseweave.engine.networks.facts import ModelFacts, read_facts
from noiseweave.engine.networks.families.registry import text_to_image
from noiseweave.engine.networks.protocols import Adding, Pipeline, Scheduler
from noiseweave.engine.networks.recipes import UNETS, ModelConfig
from noiseweave.engine.networks.text_pipeline import TextModel

InpaintKind = Literal["inpaint", "latent", "pixel"]


@dataclass(frozen=True, kw_only=True)
class InpaintFacts:
    """What a model that fills holes takes.

    Attributes:
        kind: inpaint is a network that sees the hole and what lies around it; latent is any other pipeline that
            reads texts; pixel is a base model (ddpm, flow or linear_mixing).
        channels: of its pictures, 1 or 3.
        size: side in pixels that it was made for.
        multiple: sides of its pictures are multiples of it; 0 where it draws size x size only.
    """

    kind: InpaintKind
    channels: int
    size: int
    multiple: int

    @property
    def repaint(self) -> bool:
        """Whether it is no inpainting model, so that RePaint is used."""
        return self.kind != "inpaint"

    @property
    def reads_prompts(self) -> bool:
        """Whether it is conditioned on text."""
        return self.kind != "pixel"


@dataclass(kw_only=True)
class InpaintModel:
    """A model, ready to fill holes: a pipeline (text) or a base model, never both.

    Attributes:
        about: what for_inpainting says of it.
        text: the pipeline of an inpaint or latent model.
        base: a pixel model.
        micro_batch: pictures in one call, halved for good when memory runs out.
    """

    about: InpaintFacts
    text: TextModel | None = None
    base: BaseModel | None = None
    micro_batch: int

    @property
    def device(self) -> torch.device:
        """Where its network is."""
        return self.base.device if self.base else self._text.pipeline.device

    @property
    def vae(self) -> Any:
        """What latents belong to, or None where x is pixels."""
        return self.base.encoder if self.base else self._text.pipeline.vae

    @property
    def scheduler(self) -> Scheduler:
        """diffusers' scheduler that its folder names."""
        return self.base.scheduler if self.base else self._text.scheduler

    @property
    def prediction(self) -> Prediction:
        """What its network gives."""
        return self.base.prediction if self.base else paths.prediction_of(self.scheduler)

    @property
    def _text(self) -> TextModel:
        assert self.text is not None
        return self.text


def for_inpainting(model: ModelFacts) -> InpaintFacts:
    """What a model takes where it fills holes.

    Raises:
        ValueError: one line, when it is no model that can inpaint.
    """
    latent, seen = model.latent_channels, model.network_channels
    if model.family in UNETS:
        return InpaintFacts(kind="pixel", channels=model.channels, size=model.side, multiple=0)
    if model.conditioning != "text":
        raise ValueError(
            f"model {model.name!r}: a {model.family}; inpainting takes {', '.join(UNETS)} and {text_to_image()}"
        )
    if not model.sees_holes and seen != latent:
        raise ValueError(
            f"model {model.name!r}: its network takes {seen} channels; inpainting takes {latent}, those of the "
            "latents, or those of a network that is shown the hole"
        )
    kind: InpaintKind = "inpaint" if model.sees_holes else "latent"
    return InpaintFacts(kind=kind, channels=model.channels, size=model.side, multiple=model.multiple)


def load(config: ModelConfig, device: str = "cpu", add: Adding | None = None) -> InpaintModel:
    """Load a model that ``for_inpainting`` knows.

    micro_batch 0 takes 16 pictures of a pipeline on a GPU and 4 elsewhere, of a pixel model 256 and 64.

    Args:
        add: adds the config's LoRA files, see ``text_pipeline.with_loras``.

    Raises:
        ValueError: one line, when it is missing, broken or of another kind, or a LoRA does not fit.
    """
    facts = read_facts(config.name)
    for_inpainting(facts)
    if facts.conditioning == "text":
        return model_of(facts, config, _text_model(facts, config, device, add))
    return model_of(facts, config, base_models.load(config, device, facts))


def model_of(facts: ModelFacts, config: ModelConfig, drawing: BaseModel | TextModel) -> InpaintModel:
    """A loaded model, ready to fill holes; the networks are shared with it.

    A VAE that overflows in float16 is in float32 from here on.

    Raises:
        ValueError: as of ``for_inpainting``.
    """
    about = for_inpainting(facts)
    if isinstance(drawing, BaseModel):
        size = config.micro_batch or (256 if drawing.device.type == "cuda" else 64)
        return InpaintModel(about=about, base=drawing, micro_batch=size)
    vae = drawing.pipeline.vae
    if vae.dtype == torch.float16 and latents.overflows(vae.config):
        vae.to(torch.float32)
    return InpaintModel(about=about, text=drawing, micro_batch=drawing.micro_batch)


def _text_model(facts: ModelFacts, config: ModelConfig, device: str, add: Adding | None) -> TextModel:
    pipeline = _pipeline(facts, config, device, add)
    size = config.micro_batch or (16 if torch.device(device).type == "cuda" else 4)
    checker = safety.taken_from(pipeline)
    return TextModel(pipeline=pipeline, scheduler=pipeline.scheduler, micro_batch=size, checker=checker)


def _pipeline(facts: ModelFacts, config: ModelConfig, device: str, add: Adding | None) -> Pipeline:
    import diffusers

    family = facts.reader
    kind = family.filling if facts.sees_holes else family.pipeline
    config, precision = tuning.settled_here(config, device)
    memory.check_fits(facts, precision, device)
    pipeline = text_pipeline.with_loras(getattr(diffusers, kind), config, facts.folder, add)
    tuning.tune(family.network_of(pipeline), config, device)
    return pipeline.to(device)
