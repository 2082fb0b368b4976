"""What a user may say of fuse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from noiseweave.engine.checks import check
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion.recipes import EditRecipe, MixingRecipe, Mode, Modes
from noiseweave.engine.networks.recipes import UNNAMED, ModelConfig, PromptRecipe, Prompts, check_named
from noiseweave.engine.seeding import seed_of

POSITIONAL = "images"
POSITIONAL_HELP = "The pictures need no flag: noiseweave fuse a.png b.png --model.name NAME --output out/fuse"
USUAL = {
    "input and output": ("images", "output"),
    "what it does": ("fusion.modes", "fusion.ratio", "weights", "sweep", "edit.name", "seed"),
    "model": ("model.name", "prompt.target", "inversion.num_steps", "inversion.skip"),
}
ALIASES = {
    "--mode": "--fusion.modes",
    "--ratio": "--fusion.ratio",
    "--fusion_mode": "--fusion.modes",
    "--fusion_ratio": "--fusion.ratio",
}


@dataclass(frozen=True, kw_only=True)
class FuseRecipe(MixingRecipe):
    """How the pictures' noise maps become one.

    Args:
        modes: linear, cross_fade, feature_selective or layer_selective; of several, or random, the seed draws one.
        ratio: weight of the second picture, 0 gives the first back, 1 the second; of several pictures, the
            weight that all but the first share equally. null weighs all pictures alike; with a region, 1.
        keep_spread: bring each fused step back to the standard deviation interpolated from its parents.
        region: where the second of two pictures shows.
        variation: share of fresh noise in the fused map, 0 (none) to 1 (nothing but the map's beginning is kept);
            drawn from the seed and the pictures.
    """

    modes: Modes = "cross_fade"
    ratio: float | None = None
    variation: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.variation <= 1, "fusion.variation", self.variation, "0 to 1")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Two or more pictures -> their fusion in noise space; with a target prompt or an edit, one -> an edit.

    Args:
        images: two or more pictures, or one and prompt.target or edit.name; files or URLs. Style takes a second
            picture as its reference.
        output: folder or URL for fused.png, input-0.png.., sheet.png, fuse.json and, with sweep, sweep.png.
        fusion: how the noise maps are mixed.
        weights: one number for each picture in place of fusion.ratio; they are normalised.
        sweep: also write sweep.png, every mode (rows) at every ratio of ratios (columns).
        ratios: columns of the sweep.
        edit: of one picture, in its noise maps.
        cache: folder or URL that keeps noise maps, so that the same pictures with other modes, ratios, edits or
            targets cost only replays; null keeps none.
        cache_mib: MiB of noise maps that the cache may hold; the least recently used leave first.
        provenance: the files of fused pictures and sheets say in XMP that a model made them, which, and from what.
        seed: the result depends on it and on the bytes of the pictures.
        size: side of the pictures in pixels, for a latent model; null takes what the model was made for.
        model: the diffusion model.
        inversion: how pictures become noise maps.
        prompt: what a text-to-image model is conditioned on.
        labels: of a class-conditional model: the class of each picture, by its name in the model's classes.json or
            by its number, as roses,tulips; one stands for all. null conditions on no class.
    """

    images: tuple[str, ...] = ()
    output: str
    fusion: FuseRecipe = field(default_factory=FuseRecipe)
    weights: tuple[float, ...] | None = None
    sweep: bool = False
    ratios: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    edit: EditRecipe | None = None
    cache: str | None = None
    cache_mib: float = 4096
    provenance: bool = False
    seed: int = 0
    size: int | None = None
    model: ModelConfig = UNNAMED
    inversion: InversionRecipe = field(default_factory=InversionRecipe)
    prompt: PromptRecipe = field(default_factory=PromptRecipe)
    labels: str | None = None

    def __post_init__(self) -> None:
        count, edits = len(self.images), self.prompt.target is not None or self.edit is not None
        allowed = "two or more pictures, or one and prompt.target or edit.name"
        check(count >= 2 - edits, "images", list(self.images), allowed)
        check_edit(self)
        self._check_region()
        some = self.labels is None or len(self.labels.split(",")) in (1, count)
        check(some, "labels", self.labels, f"one class, or one for each of the {count} pictures")
        check_prompt(self.prompt)
        check(bool(self.output.strip()), "output", self.output, "a folder or URL")
        check_named(self.model)
        check(0 <= self.cache_mib < math.inf, "cache_mib", self.cache_mib, "0 or more")
        ok = len(self.ratios) > 0 and all(0 <= r <= 1 for r in self.ratios)
        check(ok, "ratios", list(self.ratios), "at least one number, each 0 to 1")
        self._check_weights()

    def _check_region(self) -> None:
        region, count = self.fusion.region, len(self.images)
        two = count == 2 or region.source == "everywhere"
        allowed = f"everywhere, as it is for two pictures, not {count}"
        check(two, "fusion.region.source", region.source, allowed)
        given = region.mask is not None or region.source != "file"
        check(given, "fusion.region.mask", region.mask, "a picture, with fusion.region.source=file")

    def _check_weights(self) -> None:
        ratio, count = self.fusion.ratio, len(self.images)
        one = ratio is None or self.weights is None
        check(one, "fusion.ratio", ratio, "either fusion.ratio or weights, not both")
        alone = count == 1 and (ratio is not None or self.sweep)
        check(not alone, "images", list(self.images), "two, for fusion.ratio or sweep")
        if self.weights is not None:
            values = list(self.weights)
            check(len(values) == count, "weights", values, f"one for each of the {count} pictures")
            ok = min(values) >= 0 and 0 < sum(values) < math.inf
            check(ok, "weights", values, "numbers >= 0 with a sum above 0")

    @property
    def mode(self) -> Mode:
        """The mode of the fused picture, once ``drawn`` has left one."""
        return self.fusion.choices[0]

    @property
    def prompts(self) -> Prompts:
        """The prompts of each picture, where the model is conditioned on text."""
        nothing = [None] * len(self.images)
        return self.prompt.of(nothing, nothing)

    @property
    def shares(self) -> list[float]:
        """The pictures' weights, with sum 1."""
        if self.weights is not None:
            return [w / sum(self.weights) for w in self.weights]
        count = len(self.images)
        if self.edit is not None:
            return [1.0, 0.0][:count]
        ratio = self.fusion.ratio
        if ratio is None and self.fusion.region.source != "everywhere":
            return [0.0, 1.0]
        return [1 / count] * count if ratio is None else spread(ratio, count)


def drawn(config: Config, keys: Sequence[str]) -> Config:
    """With one mode: of several, the seed and the pictures' keys draw it."""
    modes = config.fusion.choices
    mode = modes[seed_of(config.seed, "mode", *keys) % len(modes)]
    return replace(config, fusion=replace(config.fusion, modes=mode))


def check_edit(config: Config) -> None:
    """Raise ValueError where an edit is given what only a fusion takes."""
    if config.edit is None:
        return
    pictures, fusing = list(config.images), (config.fusion.ratio, config.weights)
    allowed = 2 if config.edit.name == "style" else 1
    check(
        len(pictures) <= allowed, "images", pictures, "one for an edit; style takes a second as its reference"
    )
    ok = fusing == (None, None) and not config.sweep and config.fusion.region.source == "everywhere"
    check(ok, "edit.name", config.edit.name, "without fusion.ratio, weights, sweep and fusion.region")


def check_prompt(prompt: PromptRecipe) -> None:
    """Raise ValueError where a prompt asks for what is known of a data set's samples alone."""
    check(prompt.template is None, "prompt.template", prompt.template, "null for fuse; it has source")
    asks = [word for word in ("{label}", "{caption}") if word in (prompt.target or "")]
    check(not asks, "prompt.target", prompt.target, "a plain text for fuse, whose pictures have no labels")


def spread(ratio: float, count: int) -> list[float]:
    """(1 - ratio) for the first picture; the others share ``ratio`` equally."""
    return [1 - ratio, *[ratio / (count - 1)] * (count - 1)]
