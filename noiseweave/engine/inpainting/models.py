"""Models that fill holes: what a name means, and how it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from noiseweave.engine.lora import weights
from noiseweave.engine.lora.weights import Lora
from noiseweave.engine.networks import base_models, pretrained, text_pipeline, tuning
from noiseweave.engine.networks.backbone import DTYPES
from noiseweave.engine.networks.base_models import BaseModel
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.networks.text_pipeline import TextModel

FAMILY = (*text_pipeline.FAMILY, "StableDiffusionInpaintPipeline", "StableDiffusionXLInpaintPipeline")

Kind = Literal["inpaint", "latent", "pixel"]


@dataclass(frozen=True, kw_only=True)
class About:
    """A model before it is loaded.

    Attributes:
        kind: inpaint is a UNet that sees the hole and what lies around it (9 channels); latent is any other
            pipeline of the Stable Diffusion family; pixel is a base model (ddpm).
        channels: of its pictures, 1 or 3.
        size: side in pixels that it was made for.
        multiple: sides of its pictures are multiples of it; 0 where it draws size x size only.
    """

    kind: Kind
    channels: int
    size: int
    multiple: int

    @property
    def repaint(self) -> bool:
        """Whether it is no inpainting model, so that RePaint is used."""
        return self.kind != "inpaint"

    @property
    def reads_prompts(self) -> bool:
        return self.kind != "pixel"


@dataclass(kw_only=True)
class InpaintModel:
    """A model, ready to fill holes: a pipeline (text) or a base model, never both.

    Attributes:
        about: what describe says of it.
        text: the pipeline of an inpaint or latent model; ``text_pipeline.too_long`` takes it.
        base: a pixel model.
        micro_batch: pictures in one call, halved for good when memory runs out.
    """

    about: About
    text: TextModel | None = None
    base: BaseModel | None = None
    micro_batch: int

    @property
    def device(self) -> torch.device:
        return self.base.device if self.base else self._text.pipeline.device

    @property
    def vae(self) -> Any:
        """What latents belong to, or None where x is pixels."""
        return self.base.encoder if self.base else self._text.pipeline.vae

    @property
    def scheduler(self) -> Any:
        return self.base.scheduler if self.base else self._text.scheduler

    @property
    def _text(self) -> TextModel:
        assert self.text is not None
        return self.text


def _index(name: str) -> tuple[Path, dict[str, Any]]:
    folder = pretrained.find(name, ["model_index.json", "*/config.json"])
    return folder, pretrained.read(name, folder, "model_index.json")


def describe(name: str) -> About:
    """What a shipped model, a folder or a hub id is, read from its configs alone.

    Raises:
        ValueError: one line, when it is no model that can inpaint.
    """
    folder, index = _index(name)
    if index.get("_class_name") in FAMILY:
        return _describe_pipeline(name, folder)
    about = base_models.describe(name)
    if about["kind"] != "ddpm":
        raise ValueError(
            f"model {name!r}: a {about['kind']}; inpainting takes a ddpm or a Stable Diffusion pipeline"
        )
    return About(kind="pixel", channels=about["channels"], size=about["size"], multiple=0)


def _describe_pipeline(name: str, folder: Path) -> About:
    unet, vae = (pretrained.read(name, folder, f"{part}/config.json") for part in ("unet", "vae"))
    latent, seen = vae.get("latent_channels", 4), unet.get("in_channels")
    # 9 = noisy latent, mask, latent of the masked picture (Rombach et al., arXiv 2112.10752, section 4.5)
    kind: Kind = "inpaint" if seen == 2 * latent + 1 else "latent"
    if seen not in (latent, 2 * latent + 1):
        raise ValueError(
            f"model {name!r}: its unet takes {seen} channels; inpainting takes {latent} or {2 * latent + 1}"
        )
    blocks = vae.get("block_out_channels") or vae.get("encoder_block_out_channels") or ()
    side = unet.get("sample_size")
    if not blocks or not side:
        raise ValueError(f"model {name!r}: {folder} does not say the size of its pictures")
    factor, side = 2 ** (len(blocks) - 1), side if isinstance(side, int) else max(side)
    return About(kind=kind, channels=vae.get("out_channels", 3), size=side * factor, multiple=factor)


def locate(name: str) -> Path:
    """A pipeline's folder or hub id -> the folder with all its files.

    Raises:
        ValueError: one line: what is missing, comes with code of its own, or is kept as pickle.
    """
    folder = pretrained.find(name, text_pipeline.WANTED)
    index = pretrained.read(name, folder, "model_index.json")
    text_pipeline.check_parts(name, folder, index)
    return folder


def fingerprint(name: str) -> str:
    """SHA-256 over the model's configs, vocabulary and weights (16 hex digits)."""
    _, index = _index(name)
    if index.get("_class_name") not in FAMILY:
        return base_models.fingerprint(name)
    return text_pipeline.fingerprint(locate(name))


def load(config: ModelConfig, device: str = "cpu", loras: Sequence[Lora] = ()) -> InpaintModel:
    """Load a model that ``describe`` knows.

    micro_batch 0 takes 16 pictures of a pipeline on a GPU and 4 elsewhere, of a pixel model 256 and 64.

    Args:
        loras: what is added to a pipeline's weights; none for a pixel model.

    Raises:
        ValueError: one line, when it is missing, broken or of another kind, or a LoRA does not fit.
    """
    about = describe(config.name)
    assert about.kind != "pixel" or not loras
    on_gpu = torch.device(device).type == "cuda"
    if about.kind == "pixel":
        base = base_models.load(config, device)
        return InpaintModel(about=about, base=base, micro_batch=config.micro_batch or (256 if on_gpu else 64))
    size = config.micro_batch or (16 if on_gpu else 4)
    pipeline = _pipeline(config, device, loras)
    text = TextModel(pipeline=pipeline, scheduler=pipeline.scheduler, micro_batch=size)
    return InpaintModel(about=about, text=text, micro_batch=size)


def _pipeline(config: ModelConfig, device: str, loras: Sequence[Lora]) -> Any:
    from diffusers import AutoPipelineForInpainting

    exact = replace(config, precision="fp32") if loras else config
    pipeline = text_pipeline.opened(AutoPipelineForInpainting, exact, locate(config.name))
    if loras:
        weights.add(pipeline, loras)
        pipeline.to(DTYPES[config.precision])
    if config.precision == "fp16" and getattr(pipeline.vae.config, "force_upcast", False):
        pipeline.vae.to(torch.float32)  # it overflows in float16
    tuning.tune(pipeline.unet, config, device)
    return pipeline.to(device)
