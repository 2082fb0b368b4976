"""Pictures out of shards, decoded and fitted to one size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from noiseweave.cluster import shards, storage
from noiseweave.engine.pictures import images
from noiseweave.engine.records import Location, Quarantined

ShardPictures = tuple[list[Location], np.ndarray, list[Quarantined]]
"""Locations, an array with a row for each, and what was quarantined."""


def read(
    places: Sequence[Location], side: int, channels: int, max_pixels: int = images.MAX_PIXELS
) -> tuple[dict[int, np.ndarray], list[Quarantined]]:
    """Pictures of one shard by range reads: position in ``places`` -> uint8 [side, side, channels]; what was bad."""
    return decoded(places, encoded(places), side, channels, max_pixels)


def encoded(places: Sequence[Location]) -> list[bytes]:
    """The files of pictures of one shard, by range reads."""
    return storage.read_ranges(places[0].shard, [(p.offset, p.size) for p in places]) if places else []


def decoded(
    places: Sequence[Location], data: Sequence[bytes], side: int, channels: int, max_pixels: int
) -> tuple[dict[int, np.ndarray], list[Quarantined]]:
    """As ``read``, of files that were read."""
    found, bad = {}, []
    for i, (where, content) in enumerate(zip(places, data, strict=True)):
        try:
            found[i] = images.fit(images.decode(content, channels, max_pixels), side)
        except ValueError as e:
            bad.append(Quarantined.of(e, shard=where.shard, key=where.key))
    return found, bad


def stacked(found: Mapping[int, np.ndarray], side: int, channels: int) -> np.ndarray:
    """uint8 [N, side, side, channels], in the order of their positions; N may be 0."""
    order = [found[i] for i in sorted(found)]
    return np.stack(order) if order else np.zeros((0, side, side, channels), np.uint8)


def read_shard(url: str, side: int, channels: int, max_pixels: int = images.MAX_PIXELS) -> ShardPictures:
    """Every good picture of a shard: locations, uint8 [N, side, side, channels], and what was bad."""
    places, bad = shards.locate(url)
    found, worse = read(places, side, channels, max_pixels)
    return [places[i] for i in sorted(found)], stacked(found, side, channels), bad + worse
