"""What travels to augment's workers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, cast

from noiseweave.engine.networks.recipes import Conditioning, Prompts
from noiseweave.jobs.augment.config import Config

if TYPE_CHECKING:
    from noiseweave.engine.records import Location


FORGOTTEN = "forgotten.json"  # in _run: what `noiseweave forget` named


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the workers need to know of a job: plain values, small enough to travel with each callable.

    Attributes:
        config: the job's config.
        output: absolute output folder or URL.
        root: what the URLs of all shards begin with; a shard's name is the rest.
        channels, size: of the model's pictures.
        feature_side: side of the pictures that the extractor wants.
        model_hash: fingerprint of the model's files.
        conditioning: of the model: text, class or none.
        classes: names of the classes, where the prompts ask for them and the input has them.
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
    forgotten: frozenset[str] = frozenset()

    def name_of(self, shard: str) -> str:
        """A shard's name: it stays when the whole data set moves."""
        return shard[len(self.root) :]

    def key_of(self, shard: str, key: str) -> str:
        """A picture's name in the whole data set."""
        return f"{self.name_of(shard)}#{key}"

    def forgets(self, shard: str, key: str) -> bool:
        """Whether a picture is no longer to be used."""
        names = (self.name_of(shard), shard)
        return bool(self.forgotten) and any(digest_of(name, key) in self.forgotten for name in names)

    def prompts_of(self, images: Sequence[Location]) -> Prompts | None:
        """What the model is conditioned on, for some pictures; None for nothing."""
        if self.conditioning == "none":
            return None
        if self.conditioning == "class":
            return self.config.prompt.classes([p.label for p in images])
        return self.config.prompt.of([self._class_of(p.label) for p in images], [p.caption for p in images])

    def _class_of(self, label: int | None) -> str | None:
        known = label is not None and 0 <= label < len(self.classes)
        return self.classes[cast(int, label)] if known else None if label is None else str(label)


def digest_of(shard: str, key: str) -> str:
    """What a run keeps of a picture that was forgotten, in place of its name."""
    return hashlib.sha256(f"{shard}#{key}".encode()).hexdigest()


def common_root(found: list[str]) -> str:
    """The folder that all shards lie in, with its slash."""
    first, last = min(found).split("/")[:-1], max(found).split("/")[:-1]
    same = [a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
    return "/".join([*same, ""])
