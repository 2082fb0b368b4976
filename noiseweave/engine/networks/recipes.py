"""Which network, how it runs, what it is conditioned on."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from noiseweave.engine.checks import check
from noiseweave.engine.identity import ASIDE
from noiseweave.models import shipped

Precision = Literal["fp32", "bf16", "fp16"]
Conditioning = Literal["none", "text", "class"]
"""What a model is conditioned on beside the time step."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The diffusion model.

    Args:
        name: a shipped model (flowers-flow, of 256x256 flowers; digits-ddpm, of 16x16 grey digits), a folder that
            train or diffusers' save_pretrained wrote, or a hub id. No model is taken by itself.
        precision: what the network runs in; the scheduler's arithmetic is float32 always. auto takes bf16 where all
            workers have a GPU that computes in it, else fp32; a run that goes on keeps what it began with.
        micro_batch: images x time steps in one network call, halved when memory runs out. 0 picks 64 on a
            CPU (8 in half precision) and 256 on a GPU, fewer for large latents. A guided call has two rows for each.
        compile: torch.compile the network: faster, after a first call of minutes. auto does where the job has so many
            calls that it is done sooner, by what was measured on such a device.
        channels_last: keep the network's weights in NHWC order. null takes what measured fastest.
        attention: sdpa is PyTorch's fused kernel, eager three products. null takes what measured fastest.
        safety_checker: ask the safety checker of a pipeline that has one; what it flags is drawn once more, and left
            out where it is flagged again. false does without.
        lora: LoRA weights that are added to a text-to-image pipeline: a .safetensors file of diffusers' or kohya's
            format, or a folder with one; several as '["a.safetensors", "b.safetensors"]'.
        lora_weight: how much of each is added, or of all; 1 is as it was trained, 0 leaves the model as it is.
        lora_sha256: SHA-256 of each file, as a run writes it down: another content is refused. null takes the files
            as they are when the run begins.
    """

    name: str
    precision: Precision | Literal["auto"] = "auto"
    micro_batch: int = field(default=0, metadata=ASIDE)
    compile: bool | Literal["auto"] = field(default="auto", metadata=ASIDE)
    channels_last: bool | None = field(default=None, metadata=ASIDE)
    attention: Literal["sdpa", "eager"] | None = field(default=None, metadata=ASIDE)
    safety_checker: bool = True
    lora: str | tuple[str, ...] | None = field(default=None, metadata=ASIDE)  # their contents count
    lora_weight: float | tuple[float, ...] = 1.0
    lora_sha256: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check(self.micro_batch >= 0, "model.micro_batch", self.micro_batch, "0 (automatic) or more")
        _check_loras(self)

    @property
    def loras(self) -> tuple[str, ...]:
        """The LoRA files, none, one or several."""
        return (self.lora,) if isinstance(self.lora, str) else tuple(self.lora or ())

    @property
    def lora_weights(self) -> tuple[float, ...]:
        """Of each LoRA."""
        weight = self.lora_weight
        if isinstance(weight, int | float):
            return (float(weight),) * len(self.loras)
        return tuple(map(float, weight))


def _check_loras(model: ModelConfig) -> None:
    count, value, hashes = len(model.loras), model.lora_weight, model.lora_sha256
    check(all(path.strip() for path in model.loras), "model.lora", model.lora, "files or folders")
    fits = isinstance(value, float | int) or len(value) == count
    check(fits, "model.lora_weight", value, f"one number, or one for each of the {count} files")
    check(all(map(math.isfinite, model.lora_weights)), "model.lora_weight", value, "finite numbers")
    check(count > 0 or value in (1, (), []), "model.lora_weight", value, "nothing, as no model.lora is given")
    ok = hashes is None or (len(hashes) == count and all(re.fullmatch("[0-9a-f]{64}", h) for h in hashes))
    check(ok, "model.lora_sha256", hashes, f"64 hex digits for each of the {count} files, or null")


UNNAMED = ModelConfig(name="")
"""What a job's config has before a user names a model."""


def check_named(model: ModelConfig) -> None:
    """Raise ValueError, with the choices, where a job needs a model and none is named."""
    if not model.name.strip():
        raise ValueError(
            f"model.name: no model is named; give a shipped one ({', '.join(shipped())}), a folder "
            "that noiseweave train or diffusers' save_pretrained wrote, or a hub id"
        )


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What a model is conditioned on for each of B pictures.

    Attributes:
        source, target: one text for each picture, or its class (None for none) where the model is class-
            conditional, for the inversion and the replay. A fused picture has its parents' targets, mixed by weight.
        guidance_source, guidance_target: classifier-free guidance scales, 1 is off.
        guidance_interval: lowest and highest sigma that is guided, of both.
    """

    source: tuple[Any, ...]
    target: tuple[Any, ...]
    guidance_source: float
    guidance_target: float
    guidance_interval: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class PromptRecipe:
    """What a text-to-image model is conditioned on. Other models read no words; a class-conditional one is
    conditioned on each picture's label, and takes the guidance alone.

    In template and target, {label} stands for a picture's class name, or its number where there are no names,
    and {caption} for its caption.

    Args:
        source: what the pictures show, for the inversion; a list gives one text for each. null takes the
            template or each sample's caption; what has none is inverted without conditioning.
        template: for augment, in place of the captions: "a photo of a {label}". A sample that lacks what the
            template asks for has its caption.
        target: the replay's prompt: with it, pictures are edited. null takes the source again, so that a
            picture comes back as it was, and a fused one has its parents' texts, mixed by their weights.
        guidance_source: classifier-free guidance scale of the inversion (arXiv 2207.12598), 1 is off. null
            takes 1, or 3.5 with a target (arXiv 2304.06140); of FLUX.1 dev, whose guidance is an input, 1.5.
        guidance_target: that of the replay. null takes guidance_source, or 15 with a target; of SD3 13.5, of FLUX.1
            dev 5.5 (arXiv 2412.08629), of Qwen-Image 4 (and 1 of the inversion).
        guidance_interval: lowest and highest noise at which there is guidance, of both (arXiv 2404.07724): sigma of
            alpha picture + sigma noise, 0 to 1. A step outside costs one row of the network in place of two. null
            is everywhere.
    """

    source: str | tuple[str, ...] | None = None
    template: str | None = None
    target: str | None = None
    guidance_source: float | None = None
    guidance_target: float | None = None
    guidance_interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("guidance_source", "guidance_target"):
            value = getattr(self, name)
            check(value is None or 1 <= value <= 100, f"prompt.{name}", value, "1 (off) to 100, or null")
        low, high = self.interval
        within = "0 to 1, the lower end first, or null"
        check(0 <= low <= high <= 1, "prompt.guidance_interval", self.guidance_interval, within)
        one = self.source is None or self.template is None
        check(one, "prompt.template", self.template, "either source or template, not both")

    @property
    def interval(self) -> tuple[float, float]:
        """The sigmas that are guided."""
        return self.guidance_interval or (0.0, 1.0)

    def given(self, guidance: bool = True) -> str | None:
        """The first field that is not as it is by default, with its value; None where all are.

        Args:
            guidance: look at the guidance scales too.
        """
        names = [n for n in self.__dataclass_fields__ if guidance or not n.startswith("guidance")]
        fields = {name: getattr(self, name) for name in names}
        return next((f"prompt.{name}={value!r}" for name, value in fields.items() if value is not None), None)

    def classes(self, labels: Sequence[int | None]) -> Prompts:
        """The labels of B pictures, for a class-conditional model."""
        guidance = self.guidance_source or 1.0
        return Prompts(
            source=tuple(labels),
            target=tuple(labels),
            guidance_source=guidance,
            guidance_target=self.guidance_target or guidance,
            guidance_interval=self.interval,
        )

    def settled(self, edit: tuple[float, float]) -> PromptRecipe:
        """With the guidance of an edit, where there is a target and none is chosen: of inversion and replay."""
        if self.target is None:
            return self
        source, target = self.guidance_source, self.guidance_target
        return replace(self, guidance_source=source or edit[0], guidance_target=target or edit[1])

    def of(self, labels: Sequence[str | None], captions: Sequence[str | None]) -> Prompts:
        """The texts of B pictures.

        Args:
            labels: class name or number of each picture, or None.
            captions: of each, or None.

        Raises:
            ValueError: source is a list of another length.
        """
        count = len(labels)
        sources = [self.source] * count if isinstance(self.source, str) else self.source
        right = sources is None or len(sources) == count
        check(right, "prompt.source", self.source, f"one text, or one for each of the {count} pictures")
        known = list(zip(labels, captions, strict=True))
        texts = sources or [_filled(self.template, *k) or k[1] or "" for k in known]
        aims = [_filled(self.target, *k) for k in known]
        guidance = self.guidance_source or (1.0 if self.target is None else 3.5)
        return Prompts(
            source=tuple(texts),
            guidance_source=guidance,
            target=tuple(text if aim is None else aim for aim, text in zip(aims, texts, strict=True)),
            guidance_target=self.guidance_target or (guidance if self.target is None else 15.0),
            guidance_interval=self.interval,
        )


def _filled(text: str | None, label: str | None, caption: str | None) -> str | None:
    """A template with a picture's own words; None where there is no template, or it asks for what is not there.

    Captions come from anywhere: what they hold in braces is not filled in once more.
    """
    words = {"label": label, "caption": caption}
    if text is None or any(f"{{{name}}}" in text and word is None for name, word in words.items()):
        return None
    return re.sub(r"\{(label|caption)\}", lambda found: words[found[1]] or "", text)


Kind = Literal["ddpm", "linear_mixing", "flow", "vae", "dcgan"]
KINDS: tuple[Kind, ...] = ("ddpm", "linear_mixing", "flow", "vae", "dcgan")
UNETS = ("ddpm", "linear_mixing", "flow")
BASELINES = ("vae", "dcgan")


TextSampler = Literal["dpm-solver++", "ddim", "ddpm", "euler", "pipeline"]


@dataclass(frozen=True, kw_only=True)
class Usual:
    """What is taken of a family of models where a user does not choose.

    Attributes:
        sampler, steps, guidance: of a drawing, as ``TextRecipe`` has them.
        edit: guidance of the inversion and of the replay of a text-guided edit.
        fill: guidance of a hole's filling.
        distilled: made for a few steps, so that an inversion has ``noise_shift`` 1.
    """

    sampler: TextSampler = "pipeline"
    steps: int
    guidance: float
    edit: tuple[float, float]
    fill: float = 5.0
    distilled: bool = False


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How a text-to-image model draws; null takes what is usual for its family.

    Args:
        sampler: dpm-solver++ (second order multistep, Lu et al., arXiv 2211.01095), ddim, ddpm (ancestral),
            euler, or pipeline, the scheduler that the model's folder names. null takes dpm-solver++, and pipeline of a
            flow (SD3, FLUX.1, Qwen-Image), which has that and euler alone.
        steps: of the sampler, at most as many as the model was trained with. null takes 25; 28 of SD3 and FLUX.1 dev,
            4 of FLUX.1 schnell, Turbo and LCM, 9 of Z-Image, 50 of Qwen-Image.
        guidance: classifier-free guidance scale (Ho & Salimans, arXiv 2207.12598); 1 is off, and then a
            negative prompt has no effect. Above 1 each step has two network calls. FLUX.1 dev and LCM take it as an
            input instead, in one call. null takes 7.5; 7 of SD3, 4 of Qwen-Image, 3.5 of FLUX.1 dev, 8.5 of an LCM,
            1 of Turbo, of Z-Image and of FLUX.1 schnell, which has no other.
        height: pixels, a multiple of 8, of flows of 16; null takes what the model was made for.
        width: as height.
        eta: noise of ddim, 0 (none) to 1 (as much as ddpm).
    """

    sampler: TextSampler | None = None
    steps: int | None = None
    guidance: float | None = None
    height: int | None = None
    width: int | None = None
    eta: float = 0.0

    def __post_init__(self) -> None:
        self.of(Usual(sampler="ddim" if self.eta else "pipeline", steps=1, guidance=1.0, edit=(1.0, 1.0)))

    def of(self, usual: Usual) -> TextRecipe:
        """The recipe, with what was not chosen taken from a family.

        Raises:
            ValueError: as of ``TextRecipe``.
        """
        return TextRecipe(
            sampler=self.sampler or usual.sampler,
            steps=usual.steps if self.steps is None else self.steps,
            guidance=usual.guidance if self.guidance is None else self.guidance,
            height=self.height,
            width=self.width,
            eta=self.eta,
        )


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """How a text-to-image model draws.

    Args:
        sampler, steps, guidance, height, width, eta: as ``TextOptions`` has them, chosen.
    """

    sampler: TextSampler = "dpm-solver++"
    steps: int = 25
    guidance: float = 7.5
    height: int | None = None
    width: int | None = None
    eta: float = 0.0

    def __post_init__(self) -> None:
        check(1 <= self.steps <= 100_000, "text.steps", self.steps, "1 to 100000")
        check(1 <= self.guidance <= 100, "text.guidance", self.guidance, "1 (off) to 100")
        for name in ("height", "width"):
            value = getattr(self, name)
            fits = value is None or (8 <= value <= 8192 and value % 8 == 0)
            check(fits, f"text.{name}", value, "a multiple of 8, 8 to 8192, or null")
        check(0 <= self.eta <= 1, "text.eta", self.eta, "0 to 1")
        noisy = self.eta == 0 or self.sampler in ("ddim", "pipeline")
        check(noisy, "text.eta", self.eta, f"0, for {self.sampler} has none; it belongs to ddim")
