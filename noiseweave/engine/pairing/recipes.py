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
        hash: pairs whose perceptual hashes (pHash) differ in at most so many of 64 bits are near-duplicates and
            dropped, 0 to 32; null does not look.
        draw: range cuts the similarities from threshold to upper into top_k equal parts and draws a partner out of
            each by seed, for every image; top takes its top_k most similar partners.
        top_k: partners considered for each image.
        max_pairs: most pairs in all (for window scope: of each window), with draw=top the most similar, else by seed;
            null sets no bound.
        max_uses: pairs that one image may be part of (for window scope: in each window); null sets no bound.
        per_class: most pairs of one class (for window scope: in each window). balanced gives every class the same
            number: an equal share of max_pairs, or without it as many as the class with fewest has (one with less than
            a quarter of the median keeps what it has and holds no other back). null sets no bound. Pairs across
            classes (classes: any) have none.
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
    upper: float = 0.95
    hash: int | None = 6
    draw: Literal["range", "top"] = "range"
    top_k: int = 5
    max_pairs: int | None = None
    max_uses: int | None = 4
    per_class: Literal["balanced"] | int | None = "balanced"
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
        check(self.hash is None or 0 <= self.hash <= 32, "pairing.hash", self.hash, "0 to 32, or null")
        quota = self.per_class
        allowed = quota is None or quota == "balanced" or (isinstance(quota, int) and quota >= 1)
        check(allowed, "pairing.per_class", quota, "balanced, 1 or more, or null")
        check(self.group_images >= 2, "pairing.group_images", self.group_images, "2 or more")
        check(0 <= self.overlap < self.window, "pairing.overlap", self.overlap, "0 to window - 1")
