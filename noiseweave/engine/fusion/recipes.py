"""Recipes of fusion."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, cast

from noiseweave.engine.checks import check

Mode = Literal["linear", "cross_fade", "feature_selective", "layer_selective"]
MODES: tuple[Mode, ...] = ("linear", "cross_fade", "feature_selective", "layer_selective")
Modes = (
    Literal["linear", "cross_fade", "feature_selective", "layer_selective", "random", "all"]
    | tuple[Mode, ...]
)
"""One mode, several, or all of them, as a user says it."""


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
        check(self.source in allowed, "fusion.region.source", self.source, f"one of {', '.join(allowed)}")
        ok = self.mask is None or self.source == "file"
        check(ok, "fusion.region.mask", self.mask, "a picture, with fusion.region.source=file alone")
        check(0 < self.smooth <= 1, "fusion.region.smooth", self.smooth, "above 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class MixingRecipe:
    """How noise maps become one, whichever job mixes them.

    Args:
        modes: one of linear, cross_fade, feature_selective and layer_selective, or several, of which one is
            drawn; random and all stand for the four.
        ratio: weight of the second picture, 0 gives the first back, 1 the second; a range is drawn from.
        keep_spread: bring each fused step back to the standard deviation interpolated from its parents.
        region: where the second picture shows.
    """

    modes: Modes = "random"
    ratio: float | tuple[float, float] | None = None
    keep_spread: bool = True
    region: RegionRecipe = field(default_factory=RegionRecipe)

    def __post_init__(self) -> None:
        check(len(self.choices) > 0, "fusion.modes", self.modes, "at least one mode")
        if self.ratio is not None:
            low, high = self.bounds
            check(0 <= low <= high <= 1, "fusion.ratio", self.ratio, "0 to 1, the lower end of a range first")

    @property
    def choices(self) -> tuple[Mode, ...]:
        """The modes that one is drawn from."""
        if isinstance(self.modes, str):
            return MODES if self.modes in ("random", "all") else (cast(Mode, self.modes),)
        return self.modes

    @property
    def bounds(self) -> tuple[float, float]:
        """The range that the ratio is drawn from; a single number is both its ends.

        Raises:
            ValueError: there is no ratio.
        """
        if self.ratio is None:
            raise ValueError("fusion.ratio=None: a number, or a range")
        return (self.ratio, self.ratio) if isinstance(self.ratio, int | float) else self.ratio


@dataclass(frozen=True, kw_only=True)
class FusionRecipe(MixingRecipe):
    """How noise maps of the pairs of a data set become one.

    Args:
        modes: each pair draws one of these: linear, cross_fade, feature_selective, layer_selective; random is all.
        ratio: weight of the second picture, 0 gives the first back, 1 the second; each pair draws from a range.
        keep_spread: bring each fused step back to the standard deviation interpolated from its parents.
        region: where the second picture shows.
        adaptive: take the ratio from the pair's similarity, 0.2 at pairing.threshold and up to 0.5 for pairs
            that are alike, in place of a draw.
        variation: share of fresh noise in the fused map, 0 (none) to 1 (nothing but the map's beginning is kept):
            pictures that vary, and may leave their class; see gate.
        per_pair: pictures made of each pair, in the modes in turn, each with a ratio and fresh noise of its own.
    """

    ratio: float | tuple[float, float] = (0.3, 0.7)
    adaptive: bool = False
    variation: float = 0.0
    per_pair: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.variation <= 1, "fusion.variation", self.variation, "0 to 1")
        check(1 <= self.per_pair <= 1000, "fusion.per_pair", self.per_pair, "1 to 1000")


EditName = Literal["smooth", "contrast", "style", "variation"]
EDITS: tuple[EditName, ...] = ("smooth", "contrast", "style", "variation")


@dataclass(frozen=True, kw_only=True)
class EditRecipe:
    """An edit of one picture in its noise maps.

    Args:
        name: smooth (less texture), contrast (more of it), style (another tone and grain) or variation (other
            details, the same structure). Smooth is a low-pass filter. Style is drawn from the seed, or taken from
            a second picture.
        strength: 0 gives the picture back, 1 is the most.
    """

    name: EditName = "variation"
    strength: float = 0.5

    def __post_init__(self) -> None:
        check(self.name in EDITS, "edit.name", self.name, f"one of {', '.join(EDITS)}")
        check(0 <= self.strength <= 1, "edit.strength", self.strength, "0 to 1")


def adaptive_ratio(similarity: float, threshold: float, low: float = 0.2) -> float:
    """Weight of the second picture from the pair's cosine similarity: alike pairs are mixed, others barely.

    theta = arccos(similarity) is the angle between the two pictures' features, theta_max that of the least
    similar pair allowed. A mixture of ratio rho lies about rho * theta from its nearer parent. Keep that no
    more than it is where pairs are accepted at all, low * theta_max, so that the label holds:

        rho = min(1/2, low * theta_max / theta)

    So rho = low at ``threshold``, rises with similarity, and is 1/2 once theta <= 2 low theta_max.

    Args:
        similarity: cosine in [-1, 1]; below ``threshold`` it counts as ``threshold``.
        threshold: cosine of the least similar pair accepted, in [-1, 1].
        low: the ratio there, in [0, 1/2].
    """
    check(-1 <= similarity <= 1, "similarity", similarity, "-1 to 1")
    check(-1 <= threshold <= 1, "pairing.threshold", threshold, "-1 to 1")
    check(0 <= low <= 0.5, "low", low, "0 to 0.5")
    theta_max = math.acos(threshold)
    theta = min(math.acos(similarity), theta_max)
    return 0.5 if theta <= 2 * low * theta_max else low * theta_max / theta
