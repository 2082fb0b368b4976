"""What a user can choose about an algorithm, with its checks. Free of torch, so that ``--help`` is quick."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Mode = Literal["linear", "cross_fade", "feature_selective", "layer_selective"]
MODES: tuple[Mode, ...] = ("linear", "cross_fade", "feature_selective", "layer_selective")
Precision = Literal["fp32", "bf16", "fp16"]
SolverName = Literal["ddim", "sde-dpm-solver++"]
Hears = Literal["nothing", "words", "classes"]
"""What a model is told of a picture."""
SOLVER_NAMES: tuple[SolverName, ...] = ("ddim", "sde-dpm-solver++")

HOW_IT_RUNS = ("micro_batch", "compile", "channels_last", "attention")  # of a ModelConfig


def check(ok: bool, field: str, value: object, allowed: str) -> None:
    """Raise the ValueError of a recipe: which field, its value, what is allowed."""
    if not ok:
        raise ValueError(f"{field}={value!r}: {allowed}")


def check_steps(field: str, steps: int, trained: int) -> None:
    """Raise the ValueError of more steps than a model was trained with."""
    check(steps <= trained, field, steps, f"the model has {trained} time steps")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The diffusion model.

    Args:
        name: a shipped model (digits-ddpm), a folder that diffusers' save_pretrained wrote, or a hub id.
        precision: what the network runs in; the scheduler's arithmetic is float32 always.
        micro_batch: images x time steps in one network call, halved when memory runs out. 0 picks 64 on a
            CPU (8 in half precision) and 256 on a GPU, fewer for large latents. A guided call has two rows for each.
        compile: torch.compile the network: faster, after a first call of minutes. null is false.
        channels_last: keep the network's weights in NHWC order. null takes what measured fastest.
        attention: sdpa is PyTorch's fused kernel, eager three products. null takes what measured fastest.
    """

    name: str = "digits-ddpm"
    precision: Precision = "fp32"
    micro_batch: int = 0
    compile: bool | None = None
    channels_last: bool | None = None
    attention: Literal["sdpa", "eager"] | None = None

    def __post_init__(self) -> None:
        check(bool(self.name), "model.name", self.name, "a shipped model, a folder or a hub id")
        check(self.micro_batch >= 0, "model.micro_batch", self.micro_batch, "0 (automatic) or more")

    def identity(self) -> dict[str, Any]:
        """The fields that a result depends on; how the network is run changes it by rounding alone."""
        return {name: value for name, value in vars(self).items() if name not in HOW_IT_RUNS}


@dataclass(frozen=True, kw_only=True)
class InversionRecipe:
    """Edit-friendly DDPM inversion (Huberman-Spiegelglas et al., CVPR 2024, arXiv 2304.06140).

    Args:
        num_steps: time steps of the whole chain.
        skip: noisiest steps left out, so num_steps - skip are kept; more of them keep closer to the pictures.
        noise: independent draws fresh x_t noise for each image; shared uses the same for all images of a
            job, so that noise maps of different images differ only by content.
        sampler: the reverse process that is inverted and replayed. ddim is DDIM with eta = 1, of the paper;
            sde-dpm-solver++ is of order 2, for chains of 20 to 25 steps (arXiv 2211.01095, 2311.16711).
    """

    num_steps: int = 50
    skip: int = 10
    noise: Literal["independent", "shared"] = "independent"
    sampler: SolverName = "ddim"

    def __post_init__(self) -> None:
        check(1 <= self.num_steps <= 1000, "inversion.num_steps", self.num_steps, "1 to 1000")
        check(0 <= self.skip < self.num_steps, "inversion.skip", self.skip, "0 to num_steps - 1")
        allowed = f"one of {', '.join(SOLVER_NAMES)}"
        check(self.sampler in SOLVER_NAMES, "inversion.sampler", self.sampler, allowed)


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """What a model is told of each of B pictures.

    Attributes:
        source, target: one text for each picture, or its class (None for none) where the model is told classes,
            for the inversion and the replay. A fused picture is told its parents' targets, mixed by their weights.
        guidance_source, guidance_target: classifier-free guidance scales, 1 is off.
    """

    source: tuple[Any, ...]
    target: tuple[Any, ...]
    guidance_source: float
    guidance_target: float


@dataclass(frozen=True, kw_only=True)
class PromptRecipe:
    """What a text-to-image model is told about the pictures. Other models read no words; a class-conditional one
    is told each picture's label, and takes the guidance alone.

    In template and target, {label} stands for a picture's class name, or its number where there are no names,
    and {caption} for its caption.

    Args:
        source: what the pictures show, for the inversion; a list gives one text for each. null takes the
            template or each sample's caption; what has none is told nothing.
        template: for augment, in place of the captions: "a photo of a {label}". A sample that lacks what the
            template asks for is told its caption.
        target: what the replay is told: with it, pictures are edited. null takes the source again, so that a
            picture comes back as it was, and a fused one is told its parents' texts, mixed by their weights.
        guidance_source: classifier-free guidance scale of the inversion (arXiv 2207.12598), 1 is off. null
            takes 1, or 3.5 with a target (arXiv 2304.06140).
        guidance_target: that of the replay. null takes guidance_source, or 15 with a target.
    """

    source: str | tuple[str, ...] | None = None
    template: str | None = None
    target: str | None = None
    guidance_source: float | None = None
    guidance_target: float | None = None

    def __post_init__(self) -> None:
        for name in ("guidance_source", "guidance_target"):
            value = getattr(self, name)
            check(value is None or 1 <= value <= 100, f"prompt.{name}", value, "1 (off) to 100, or null")
        one = self.source is None or self.template is None
        check(one, "prompt.template", self.template, "either source or template, not both")

    def given(self, guidance: bool = True) -> str | None:
        """The first field that is not as it is by default, with its value; None where all are.

        Args:
            guidance: look at the guidance scales too.
        """
        names = [n for n in self.__dataclass_fields__ if guidance or not n.startswith("guidance")]
        fields = {name: getattr(self, name) for name in names}
        return next((f"prompt.{name}={value!r}" for name, value in fields.items() if value is not None), None)

    def classes(self, labels: Sequence[int | None]) -> Prompts:
        """The labels of B pictures, for a model that is told classes."""
        guidance = self.guidance_source or 1.0
        return Prompts(
            source=tuple(labels), target=tuple(labels), guidance_source=guidance,
            guidance_target=self.guidance_target or guidance,
        )  # fmt: skip

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
        told = sources or [_filled(self.template, *k) or k[1] or "" for k in known]
        aims = [_filled(self.target, *k) for k in known]
        guidance = self.guidance_source or (1.0 if self.target is None else 3.5)
        return Prompts(
            source=tuple(told), guidance_source=guidance,
            target=tuple(text if aim is None else aim for aim, text in zip(aims, told, strict=True)),
            guidance_target=self.guidance_target or (guidance if self.target is None else 15.0),
        )  # fmt: skip


def _filled(text: str | None, label: str | None, caption: str | None) -> str | None:
    """A template with a picture's own words; None where there is no template, or it asks for what is not there.

    Captions come from anywhere: what they hold in braces is not filled in once more.
    """
    words = {"label": label, "caption": caption}
    if text is None or any(f"{{{name}}}" in text and word is None for name, word in words.items()):
        return None
    return re.sub(r"\{(label|caption)\}", lambda found: words[found[1]] or "", text)


@dataclass(frozen=True, kw_only=True)
class RegionRecipe:
    """Where the second picture of a fusion shows. Its share at a place is the mask there times that of the mode.

    Args:
        source: everywhere; file (a mask: white shows the second picture, black the first); saliency (where the
            second picture's own noise is strong).
        mask: for fuse, the file's path or URL, fitted as the pictures are. augment takes the .mask.png of the
            second picture's sample.
        smooth: standard deviation of the saliency's Gaussian, as a share of the map's shorter side.
    """

    source: Literal["everywhere", "file", "saliency"] = "everywhere"
    mask: str | None = None
    smooth: float = 0.12

    def __post_init__(self) -> None:
        allowed = ("everywhere", "file", "saliency")
        check(self.source in allowed, "region.source", self.source, f"one of {', '.join(allowed)}")
        ok = self.mask is None or self.source == "file"
        check(ok, "region.mask", self.mask, "a picture, with region.source=file and with no other")
        check(0 < self.smooth <= 1, "region.smooth", self.smooth, "above 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class FusionRecipe:
    """How noise maps of a pair become one.

    Args:
        modes: each pair draws one of these (linear, cross_fade, feature_selective, layer_selective).
        ratio_min: lowest weight of the second image, 0 gives the first image back.
        ratio_max: highest weight of the second image, 1 gives the second image back.
        keep_spread: bring each fused step back to the standard deviation interpolated from its parents.
        adaptive: take the ratio from the pair's similarity, 0.2 at pairing.threshold and up to 0.5 for pairs
            that are alike, in place of a draw from ratio_min to ratio_max.
        variation: share of fresh noise in the fused map, 0 (none) to 1 (nothing but the map's beginning is kept):
            pictures that vary, and may leave their class; see gate. null is 1 where the model is told the pictures'
            classes and so keeps to them, else 0.
        per_pair: pictures made of each pair, each with a mode, a ratio and fresh noise of its own.
        region: where the second picture shows.
    """

    modes: tuple[Mode, ...] = MODES
    ratio_min: float = 0.3
    ratio_max: float = 0.7
    keep_spread: bool = True
    adaptive: bool = False
    variation: float | None = None
    per_pair: int = 1
    region: RegionRecipe = field(default_factory=RegionRecipe)

    def __post_init__(self) -> None:
        check(len(self.modes) > 0, "fusion.modes", self.modes, "at least one mode")
        check(0 <= self.ratio_min <= 1, "fusion.ratio_min", self.ratio_min, "0 to 1")
        check(self.ratio_min <= self.ratio_max <= 1, "fusion.ratio_max", self.ratio_max, "ratio_min to 1")
        share = self.variation
        check(share is None or 0 <= share <= 1, "fusion.variation", share, "0 to 1, or null")
        check(1 <= self.per_pair <= 1000, "fusion.per_pair", self.per_pair, "1 to 1000")

    def settled(self, told: bool) -> FusionRecipe:
        """With the share of fresh noise that null stands for; ``told``: the model is told the classes."""
        return replace(self, variation=float(told)) if self.variation is None else self


@dataclass(frozen=True, kw_only=True)
class FeatureRecipe:
    """What pictures are compared in.

    Args:
        name: pixels (downscaled pixels, no download), unet (mid-block activations of the diffusion model, no
            download), inception (pytorch-fid's InceptionV3, 2048 values), efficientnet-lite0 (1280), resnet50
            (torchvision's ImageNet weights, 2048), digits-classifier (ships, 64) or the folder of such a
            classifier, or the id or folder of a transformers vision model (facebook/dinov2-small,
            openai/clip-vit-base-patch32).
        size: side that pixels are downscaled to.
        noise_level: for unet, the noise level that activations are read at, as a share of the schedule.
        batch: pictures in one network call.
        weights: for inception, efficientnet-lite0 and resnet50, the file with their weights, as published; null
            looks in torch hub's folder and downloads them.
        cache: folder or URL where features are kept by the pictures' content, for any later run of any job;
            null keeps them in the run alone.
    """

    name: str = "pixels"
    size: int = 16
    noise_level: float = 0.1
    batch: int = 64
    weights: str | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        allowed = (
            "pixels, unet, inception, efficientnet-lite0, resnet50, a classifier or a transformers model"
        )
        check(bool(self.name), "features.name", self.name, allowed)
        published = self.name in ("inception", "efficientnet-lite0", "resnet50")
        check(self.weights is None or published, "features.weights", self.weights, f"null for {self.name}")
        check(2 <= self.size <= 64, "features.size", self.size, "2 to 64")
        check(0 <= self.noise_level < 1, "features.noise_level", self.noise_level, "0 to below 1")
        check(self.batch >= 1, "features.batch", self.batch, "1 or more")


@dataclass(frozen=True, kw_only=True)
class PairingRecipe:
    """Which pictures are fused with which.

    Args:
        threshold: lowest cosine similarity of a pair.
        upper: pairs above this cosine are near-duplicates and dropped.
        top_k: most similar partners considered for each image.
        max_pairs: pairs kept, the most similar first (for window scope: of each window); null keeps all.
        max_uses: pairs that one image may be part of (for window scope: in each window); null sets no bound.
        classes: same_class pairs equal labels only, any pairs across labels.
        block: rows of the similarity matrix held at once; memory grows with block x block.
        group_images: images inverted together; each is inverted once for all its pairs in the group.
        group_pairs: most pairs in one group, so most samples in one output shard.
        scope: dataset is exact over the whole input; window pairs inside runs of consecutive shards, so
            the first output is written while input still arrives.
        window: shards in a window.
        overlap: shards that a window shares with the one before.
    """

    threshold: float = 0.7
    upper: float = 0.999
    top_k: int = 5
    max_pairs: int | None = None
    max_uses: int | None = None
    classes: Literal["same_class", "any"] = "same_class"
    block: int = 4096
    group_images: int = 64
    group_pairs: int = 128
    scope: Literal["dataset", "window"] = "dataset"
    window: int = 4
    overlap: int = 1

    def __post_init__(self) -> None:
        check(-1 <= self.threshold <= 1, "pairing.threshold", self.threshold, "-1 to 1")
        check(self.threshold <= self.upper <= 1, "pairing.upper", self.upper, "threshold to 1")
        for name in ("top_k", "block", "group_pairs", "window"):
            check(getattr(self, name) >= 1, f"pairing.{name}", getattr(self, name), "1 or more")
        for name in ("max_pairs", "max_uses"):
            value = getattr(self, name)
            check(value is None or value >= 1, f"pairing.{name}", value, "1 or more, or null")
        check(self.group_images >= 2, "pairing.group_images", self.group_images, "2 or more")
        check(0 <= self.overlap < self.window, "pairing.overlap", self.overlap, "0 to window - 1")


SAMPLERS = ("auto", "ddpm", "ddim", "dpm-solver++", "euler", "midpoint", "heun", "dopri5")
Sampler = Literal["auto", "ddpm", "ddim", "dpm-solver++", "euler", "midpoint", "heun", "dopri5"]


@dataclass(frozen=True, kw_only=True)
class SamplerRecipe:
    """How a base model draws.

    Args:
        name: ddpm (ancestral), ddim or dpm-solver++ for a noise schedule; euler, midpoint, heun or dopri5
            (torchdiffeq's solvers) for a flow; auto takes ddim, or euler for a flow. A vae and a dcgan need
            none.
        steps: of the sampler; dopri5 picks its own from tolerance. euler calls the network once a step,
            midpoint and heun twice.
        eta: noise of ddim, 0 (none) to 1 (as much as ddpm).
        guidance: classifier-free guidance scale; 1 is off. Above 1 each step has two network calls.
        tolerance: of dopri5, relative and absolute.
        spacing: which time steps of a schedule are taken: trailing ends on the noisiest (Lin et al. 2023),
            leading on the cleanest (Ho et al. 2020).
    """

    name: Sampler = "auto"
    steps: int = 50
    eta: float = 0.0
    guidance: float = 1.0
    tolerance: float = 1e-4
    spacing: Literal["trailing", "leading"] = "trailing"

    def __post_init__(self) -> None:
        check(1 <= self.steps <= 100_000, "sampler.steps", self.steps, "1 to 100000")
        check(0 <= self.eta <= 1, "sampler.eta", self.eta, "0 to 1")
        check(0 <= self.guidance <= 100, "sampler.guidance", self.guidance, "0 to 100")
        check(0 < self.tolerance < 1, "sampler.tolerance", self.tolerance, "above 0, below 1")


OF_NOISE_SCHEDULE = ("ddpm", "ddim", "dpm-solver++")
OF_FLOW = ("euler", "midpoint", "heun", "dopri5")


def sampler_name(kind: str, recipe: SamplerRecipe, field: str = "sampler") -> str:
    """The sampler that a recipe means for a kind of base model; "none" for a vae or dcgan.

    Raises:
        ValueError: it is not one for such a model.
    """
    allowed = {"ddpm": OF_NOISE_SCHEDULE, "vae": (), "dcgan": ()}.get(kind, OF_FLOW)
    if recipe.name == "auto":
        return {"ddpm": "ddim", "vae": "none", "dcgan": "none"}.get(kind, "euler")
    if recipe.name not in allowed:
        what = f"auto, {', '.join(allowed)}" if allowed else "auto"
        raise ValueError(f"{field}.name={recipe.name!r}: for a {kind} model it is one of {what}")
    return recipe.name
