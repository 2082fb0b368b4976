"""The pictures of the page's input: a local folder, or shards; and its most similar pairs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from noiseweave.cluster import folders, shards, storage
from noiseweave.engine.pictures import images

MOST = 1000
"""Pictures of the input that are looked at."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A picture of the input.

    Attributes:
        name: as a person knows it.
        label: of its class; only pictures of one class are a pair.
        read: gives its file.
        path: of the file; None in a shard.
    """

    name: str
    label: str
    read: Callable[[], bytes]
    path: str | None = None


@dataclass(kw_only=True)
class Input:
    """Pairs of the input, the most similar first.

    Attributes:
        sources: by position.
        pairs: positions.
        origins: SHA-256 of a file -> its path, of those that are offered.
    """

    sources: Sequence[Source] = ()
    pairs: Sequence[tuple[int, int]] = ()
    origins: dict[str, str] = field(default_factory=dict)

    def pair(self, number: int) -> list[tuple[str, bytes]]:
        """(name, file) of the two pictures of a pair by number; after the last comes the first.

        Raises:
            ValueError: ``"reason: detail"``: a file cannot be read any more.
        """
        found = []
        for i in self.pairs[number % len(self.pairs)]:
            source = self.sources[i]
            data = source.read()
            if source.path is not None:
                self.origins[hashlib.sha256(data).hexdigest()] = source.path
            found.append((source.name, data))
        return found


def check(place: str) -> None:
    """Raise ValueError where an input is no local folder and names no shards."""
    if not os.path.isdir(os.path.expanduser(place)):
        shards.find(place)


def read(place: str, size: int, pixels: int) -> Input:
    """Read the first pictures of an input, and pair each with the one that is most like it.

    Args:
        size, pixels: a larger file or picture is passed over, as one that does not open.

    Raises:
        ValueError: no pictures are there.
    """
    from noiseweave.engine.features import spaces
    from noiseweave.engine.features.recipes import FeatureRecipe

    recipe = FeatureRecipe()
    kept, seen = [], []
    for source in _sources(place, size):
        try:
            seen.append(images.fit(images.decode(source.read(), 3, pixels), recipe.size))
        except ValueError:
            continue
        kept.append(source)
    if len(kept) < 2:
        raise ValueError(f"input={place!r}: two pictures at least")
    f_ND = spaces.similarity(recipe, spaces.pixels(np.stack(seen)))
    return Input(sources=kept, pairs=_pairs(f_ND @ f_ND.T, [source.label for source in kept]))


def _pairs(s_NN: np.ndarray, labels: Sequence[str]) -> list[tuple[int, int]]:
    """Each picture and the one of its class that is most like it, once; the most similar first."""
    label_N = np.array(labels)
    s_NN = np.where(label_N[:, None] == label_N, s_NN, -np.inf)
    np.fill_diagonal(s_NN, -np.inf)
    best_N = s_NN.argmax(1)
    found = {
        (min(i, j), max(i, j)): s_NN[i, j] for i, j in enumerate(best_N.tolist()) if s_NN[i, j] > -np.inf
    }
    return sorted(found, key=lambda pair: (-found[pair], pair)) or [(0, 1)]


def _sources(place: str, size: int) -> list[Source]:
    root = os.path.realpath(os.path.expanduser(place))
    if not os.path.isdir(root) or any(name.endswith(".tar") for name in os.listdir(root)):
        return _of_shards(place, size)
    return [
        Source(
            name=item.path,
            label=os.path.dirname(item.path),
            read=partial(folders.read, root, item.path, size, follow_links=False),
            path=storage.join(place, item.path),
        )
        for item in folders.listing(root, "").items[:MOST]
    ]


def _of_shards(place: str, size: int) -> list[Source]:
    found: list[Source] = []
    for url in shards.find(place):
        for at in shards.locate(url)[0]:
            if len(found) == MOST:
                return found
            if at.size <= size:
                take = partial(storage.read, url, at.offset, at.size)
                found.append(Source(name=at.key, label=str(at.label), read=take))
    return found
