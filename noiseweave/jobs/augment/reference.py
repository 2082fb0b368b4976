"""Labelled pictures that made ones are held against: in ``augment`` its input, in ``evaluate`` what is compared with.

Their features, the index of their shards and the judge that is trained on them need no more than this.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.judging.recipes import QualityRecipe
from noiseweave.engine.networks.recipes import ModelConfig

FORGOTTEN = "forgotten.json"  # in _run: what `noiseweave forget` named


@dataclass(frozen=True, kw_only=True)
class Reference:
    """How the pictures of some shards are read, embedded and judged. Small enough to travel to workers.

    Attributes:
        root: what the URLs of all shards begin with; a shard's name is the rest.
        pool_root: the same of the pool's shards, whose names begin with its last folder; "" without one.
        channels, size: of the pictures as the judge sees them, and the model makes them.
        features: their feature space.
        feature_side: side of the pictures that the extractor wants.
        model, model_size: the diffusion model and the side that it is asked for (None is its own), where the space is
            of its features.
        quality: the judge.
        forgotten: digests of the pictures that `noiseweave forget` named, see ``digest_of``.
    """

    root: str
    channels: int
    size: int
    features: FeatureRecipe
    feature_side: int
    model: ModelConfig
    model_size: int | None
    quality: QualityRecipe
    seed: int
    max_pixels: int
    gpus_per_worker: float | None
    forgotten: frozenset[str] = frozenset()
    pool_root: str = ""

    def name_of(self, shard: str) -> str:
        """A shard's name: it stays when the whole data set moves."""
        of_pool = bool(self.pool_root) and shard.startswith(self.pool_root)
        if of_pool and (len(self.pool_root) > len(self.root) or not shard.startswith(self.root)):
            return shard[len(above(self.pool_root)) :]
        return shard[len(self.root) :]

    def key_of(self, shard: str, key: str) -> str:
        """A picture's name in the whole data set."""
        return f"{self.name_of(shard)}#{key}"

    def forgets(self, shard: str, key: str) -> bool:
        """Whether a picture is no longer to be used."""
        names = (self.name_of(shard), shard)
        return bool(self.forgotten) and any(digest_of(name, key) in self.forgotten for name in names)


def above(root: str) -> str:
    """The folder that a folder lies in; both with their slash."""
    return root[: root.rstrip("/").rfind("/") + 1]


def digest_of(shard: str, key: str) -> str:
    """What a run keeps of a picture that was forgotten, in place of its name."""
    return hashlib.sha256(f"{shard}#{key}".encode()).hexdigest()
