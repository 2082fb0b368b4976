"""What a user can choose about edits and adaptive ratios. Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from noiseweave.engine.recipes import check

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
