"""Recipes of fusion."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from noiseweave.engine.checks import check

Mode = Literal["linear", "cross_fade", "feature_selective", "layer_selective"]
MODES: tuple[Mode, ...] = ("linear", "cross_fade", "feature_selective", "layer_selective")


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


EditName = Literal["smooth", "contrast", "style", "variation"]
EDITS: tuple[EditName, ...] = ("smooth", "contrast", "style", "variation")


@dataclass(frozen=True, kw_only=True)
class EditRecipe:
    """An edit of one picture in its noise maps.

    Args:
        name: smooth (low-pass of the texture), contrast (more of it), style (tone and grain, drawn from the
            seed or taken from a second picture), variation (other details, the same structure).
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
