"""What travels to augment's workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from noiseweave.engine.networks import classes as model_classes
from noiseweave.engine.networks.recipes import Conditioning, Prompts
from noiseweave.jobs.augment.config import Config
from noiseweave.jobs.augment.reference import Reference
from noiseweave.jobs.reading.class_names import shown

if TYPE_CHECKING:
    from noiseweave.engine.records import Location


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the workers need to know of a job: plain values, small enough to travel with each callable.

    Attributes:
        config: the job's config.
        output: absolute output folder or URL.
        root: what the URLs of all shards begin with; a shard's name is the rest.
        pool_root: the same of the pool's shards; "" without a pool.
        channels, size: of the model's pictures.
        feature_side: side of the pictures that the extractor wants.
        model_hash: fingerprint of the model's files.
        conditioning: of the model: text, class or none.
        classes: names of the classes, where the input has them.
        known: names of the classes that a class-conditional model knows, where it has them.
        known_classes: how many it knows.
        forgotten: digests of the pictures that `noiseweave forget` named, see ``digest_of``.
    """

    config: Config
    output: str
    root: str
    channels: int
    size: int
    feature_side: int
    model_hash: str
    conditioning: Conditioning = "none"
    classes: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    known_classes: int = 0
    forgotten: frozenset[str] = frozenset()
    pool_root: str = ""

    @cached_property
    def reference(self) -> Reference:
        """The input, as what is read, embedded and judged."""
        config = self.config
        return Reference(
            root=self.root,
            channels=self.channels,
            size=self.size,
            features=config.features,
            feature_side=self.feature_side,
            model=config.model,
            model_size=config.size,
            quality=config.quality,
            seed=config.seed,
            max_pixels=config.max_pixels,
            gpus_per_worker=config.cluster.gpus_per_worker,
            forgotten=self.forgotten,
            pool_root=self.pool_root,
        )

    def name_of(self, shard: str) -> str:
        """A shard's name: it stays when the whole data set moves."""
        return self.reference.name_of(shard)

    def key_of(self, shard: str, key: str) -> str:
        """A picture's name in the whole data set."""
        return self.reference.key_of(shard, key)

    @cached_property
    def rows(self) -> tuple[int, ...]:
        """Of each of the input's named classes, the model's; ``known_classes`` is none. () where it has no names."""
        return model_classes.rows(len(self.classes), self.classes, self.known_classes, self.known)

    def class_of(self, label: int | None) -> int | None:
        """The model's class that a label means, by name or else by number; None for none that it knows."""
        if label is None:
            return None
        number = self.rows[label] if 0 <= label < len(self.rows) else label
        if self.rows and self.known and label >= len(self.rows):
            return None  # a label without a name, beside classes that have them
        return number if 0 <= number < self.known_classes else None

    def prompts_of(self, images: Sequence[Location]) -> Prompts | None:
        """What the model is conditioned on, for some pictures; None for nothing."""
        if self.conditioning == "none":
            return None
        if self.conditioning == "class":
            return self.config.prompt.classes([self.class_of(p.label) for p in images])
        names = [None if p.label is None else shown(p.label, self.classes) for p in images]
        return self.config.prompt.of(names, [p.caption for p in images])
