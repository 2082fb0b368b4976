"""Recipes of pairing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from noiseweave.engine.checks import check


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
