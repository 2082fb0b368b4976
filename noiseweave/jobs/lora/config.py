"""What a user may say of lora."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from noiseweave.cluster.session import ClusterConfig
from noiseweave.engine.checks import check
from noiseweave.engine.identity import ASIDE
from noiseweave.engine.lora.recipes import LoraObjective, LoraRecipe
from noiseweave.engine.networks.recipes import Precision
from noiseweave.engine.training.recipes import CheckpointRecipe, OptimizerRecipe

USUAL = {
    "input and output": ("input", "output", "overwrite"),
    "what it does": ("steps", "batch", "accumulate", "optimizer.lr", "lora.rank", "data.size"),
    "model": ("model.name", "precision"),
    "where it runs": ("cluster.address", "cluster.workers"),
}
# short spellings, those of the project that this job follows among them
ALIASES = {
    "--data_root": "--input",
    "--out": "--output",
    "--model": "--model.name",
    "--size": "--data.size",
    "--rank": "--lora.rank",
    "--alpha": "--lora.alpha",
    "--method": "--lora.method",
    "--lr": "--optimizer.lr",
    "--accum": "--accumulate",
    "--workers": "--cluster.workers",
    "--gpus_per_worker": "--cluster.gpus_per_worker",
    "--mask_mode": "--data.mask_mode",
    "--mask_suffix": "--data.mask_suffix",
}
OWNED = (
    "lora_unet.safetensors",
    "lora_unet_kohya.safetensors",
    "unet_partial_tuned.safetensors",
    "lora_transformer.safetensors",
    "lora_transformer_kohya.safetensors",
    "transformer_partial_tuned.safetensors",
    "report.json",
    "quarantine.jsonl",
    "validation",
)


@dataclass(frozen=True, kw_only=True)
class BaseRecipe:
    """The model that the weights are trained for.

    Args:
        name: a folder that diffusers' save_pretrained wrote, or a hub id: a Stable Diffusion 1, 2, XL or 3, FLUX.1,
            Z-Image or Qwen-Image, made for inpainting or plain.
    """

    name: str


UNNAMED = BaseRecipe(name="")


@dataclass(frozen=True, kw_only=True)
class PictureRecipe:
    """How pictures, their masks and their captions are read.

    Args:
        size: pictures are cut to about size x size pixels; 512 or 768 for most models, less to save memory.
        buckets: keep each picture near its own aspect, 1:2 to 2:1; false cuts the middle square.
        flip: mirror half of the pictures left to right; not for writing.
        crops: parts of each picture that are shown: 1 is the middle alone, each other one lies anywhere.
        zoom: crops but the first are up to so many times smaller than the picture.
        masks: null uses masks where there are any; false does without; true needs them.
        mask_suffix: without a folder of masks, a picture that lies beside another and is called as it and then so is
            its mask: x.mask.png of x.jpg, x_mask.png with _mask.
        mask_mode: the colour of the hole; null takes white for a folder masks_inverted, black elsewhere.
        captions: read the .txt beside a picture, or its sample's .txt.
        template: what a picture is called; {caption} stands for its caption, {label} for its class in a shard, by
            name where classes.json has one. Where it lacks one, that is left empty.
        caption_dropout: share of the samples whose caption is hidden, for classifier-free guidance.
        max_pixels: larger pictures are quarantined unread.
    """

    size: int = 512
    buckets: bool = True
    flip: bool = True
    crops: int = 1
    zoom: float = 1.0
    masks: bool | None = None
    mask_suffix: str = field(default=".mask", metadata=ASIDE)
    mask_mode: Literal["black", "white"] | None = None
    captions: bool = True
    template: str = "{caption}"
    caption_dropout: float = 0.0
    max_pixels: int = 64_000_000

    def __post_init__(self) -> None:
        check(8 <= self.size <= 8192, "data.size", self.size, "8 to 8192")
        ok = bool(self.mask_suffix) and "/" not in self.mask_suffix
        check(ok, "data.mask_suffix", self.mask_suffix, "the end of a file's name, such as .mask or _mask")
        check(1 <= self.crops <= 64, "data.crops", self.crops, "1 to 64")
        check(1 <= self.zoom <= 16, "data.zoom", self.zoom, "1 to 16")
        check(0 <= self.caption_dropout <= 1, "data.caption_dropout", self.caption_dropout, "0 to 1")
        check(self.max_pixels >= 1, "data.max_pixels", self.max_pixels, "1 or more")
        try:
            self.template.format(caption="", label="")
        except (
            AttributeError,
            KeyError,
            IndexError,
            ValueError,
        ):  # null has no words, and {caption.x} is none of them
            check(False, "data.template", self.template, "words, {caption} and {label}")


@dataclass(frozen=True, kw_only=True)
class ValidationRecipe:
    """What is measured on pictures that are never trained on.

    Args:
        share: of the pictures that are held out, chosen by a hash of their keys; 0 holds out none.
        every: steps between two looks; the first is before training, the last at its end. 0 never looks.
        most: held-out pictures that the loss is measured on.
        pictures: held-out pictures that are drawn each time, with the same noise; 0 draws none.
        steps: of the sampler that draws them.
        guidance: of it; null takes what is usual for the model, 5 to fill holes with Stable Diffusion 1, 2 and XL.
    """

    share: float = 0.0
    every: int = 100
    most: int = 16
    pictures: int = 0
    steps: int = 20
    guidance: float | None = None

    def __post_init__(self) -> None:
        check(0 <= self.share < 1, "validation.share", self.share, "0 (none) to below 1")
        check(self.every >= 0, "validation.every", self.every, "0 (never) or more")
        check(1 <= self.most <= 1024, "validation.most", self.most, "1 to 1024")
        check(0 <= self.pictures <= 64, "validation.pictures", self.pictures, "0 to 64")
        check(self.steps >= 1, "validation.steps", self.steps, "1 or more")
        scale = self.guidance
        check(scale is None or 1 <= scale <= 100, "validation.guidance", scale, "1 (off) to 100, or null")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Training of LoRA weights, or of the attention projections alone.

    One optimizer step is over batch x accumulate x workers pictures; the learning rate is what it is, whatever that
    number.

    Args:
        input: a folder with imgs/ and masks/ (black is the hole) or masks_inverted/ (white is), a folder of
            pictures, with masks beside them or without, or shards (folder, glob, brace pattern or URL).
        output: folder for the weights; the run's state lies in its _run/.
        overwrite: start anew where the output holds another run.
        prior: pictures of the subject's class, a folder or shards, which keep what the model knew of it; needs
            objective.prior_weight.
        prior_prompt: what they are called, where they have no caption.
        steps: optimizer steps.
        batch: pictures in one pass of a worker.
        accumulate: passes of each worker in one optimizer step.
        precision: what the network runs in; trained weights and optimizer stay float32. On a GPU the frozen
            weights are kept in it too.
        gradient_checkpointing: compute parts of the network twice instead of keeping them, to save memory.
        ema: decay of the moving average of the trained weights, which is what is saved; 0 saves the last ones.
        cache: folder for what the frozen encoders make of pictures and captions, shared by any number of runs;
            null takes _run/cache in the output, "off" encodes at each step.
        log_every: steps between rows of the log; a line is shown every few seconds at most.
        seed: of the first weights, the order, the noise and the holes.
        model: the model that the weights are for.
        lora: which weights are trained.
        objective: what they are trained to do.
        data: how pictures are read.
        optimizer: AdamW and its step size.
        checkpoint: what survives a kill.
        validation: what is measured on held-out pictures.
        cluster: where it runs; nothing there changes the result, but for the number of workers through the batch.
    """

    input: str = field(metadata=ASIDE)
    output: str = field(metadata=ASIDE)
    overwrite: bool = field(default=False, metadata=ASIDE)
    prior: str | None = field(default=None, metadata=ASIDE)
    prior_prompt: str = ""
    steps: int = 1000
    batch: int = field(default=1, metadata=ASIDE)
    accumulate: int = field(default=4, metadata=ASIDE)
    precision: Precision = "fp32"
    gradient_checkpointing: bool = False
    ema: float = 0.0
    cache: str | None = field(default=None, metadata=ASIDE)
    log_every: int = 10
    seed: int = 0
    model: BaseRecipe = field(default=UNNAMED, metadata=ASIDE)
    lora: LoraRecipe = field(default_factory=LoraRecipe)
    objective: LoraObjective = field(default_factory=LoraObjective)
    data: PictureRecipe = field(default_factory=PictureRecipe)
    optimizer: OptimizerRecipe = field(
        default_factory=lambda: OptimizerRecipe(lr=1e-4, warmup=0, decay="constant", betas=(0.9, 0.999))
    )
    checkpoint: CheckpointRecipe = field(default_factory=CheckpointRecipe)
    validation: ValidationRecipe = field(default_factory=ValidationRecipe)
    cluster: ClusterConfig = field(default_factory=ClusterConfig, metadata=ASIDE)

    def __post_init__(self) -> None:
        for name in ("input", "output"):
            check(bool(getattr(self, name).strip()), name, getattr(self, name), "a folder or URL")
        if not self.model.name.strip():
            raise ValueError(
                "model.name: no model is named; give a folder that diffusers' save_pretrained wrote, or a hub id: "
                "a Stable Diffusion 1, 2, XL or 3, FLUX.1, Z-Image or Qwen-Image"
            )
        for name in ("steps", "batch", "accumulate", "log_every"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        check(0 <= self.ema < 1, "ema", self.ema, "0 to below 1")
        check(0 <= self.seed < 1 << 63, "seed", self.seed, "0 to 2^63 - 1")
        weight = self.objective.prior_weight
        if (self.prior is None) != (weight == 0):
            raise ValueError(f"prior={self.prior!r}, objective.prior_weight={weight:g}: the two go together")
        size = math.inf if self.optimizer.decay == "constant" else self.steps
        check(self.optimizer.warmup <= size, "optimizer.warmup", self.optimizer.warmup, f"at most {size}")


def state(config: Config, *names: str) -> str:
    """A path below the run's own folder."""
    from noiseweave.cluster import storage

    return storage.join(config.output, "_run", *names)
