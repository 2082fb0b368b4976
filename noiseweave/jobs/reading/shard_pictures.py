"""Pictures out of shards, decoded and fitted to one size."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from noiseweave.cluster import shards, storage
from noiseweave.engine.pictures import images, sides
from noiseweave.engine.records import Location, Quarantined

ShardPictures = tuple[list[Location], np.ndarray, list[Quarantined]]
"""Locations, an array with a row for each, and what was quarantined."""


def read(
    places: Sequence[Location], side: int, channels: int, max_pixels: int = images.MAX_PIXELS
) -> tuple[dict[int, np.ndarray], list[Quarantined]]:
    """Pictures of one shard by range reads: position in ``places`` -> uint8 [side, side, channels]; what was bad."""
    return decoded(places, encoded(places), side, channels, max_pixels)


class InputChanged(RuntimeError):
    """A picture is not what it was when it was first read."""


def encoded(places: Sequence[Location]) -> list[bytes]:
    """The files of pictures of one shard, by range reads.

    Raises:
        InputChanged: a file is not the one that the Location was made of.
    """
    data = storage.read_ranges(places[0].shard, [(p.offset, p.size) for p in places]) if places else []
    for place, content in zip(places, data, strict=True):
        check_same(place, content)
    return data


def check_same(place: Location, content: bytes) -> None:
    """Raise InputChanged where a file is not the one that the Location was made of."""
    if place.digest not in (None, digest_of(content)):
        raise InputChanged(f"input changed during the run: {place.shard}, key {place.key}")


def digest_of(content: bytes) -> str:
    """A ``Location.digest``."""
    return hashlib.sha256(content).hexdigest()[:16]


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
    data = encoded(places)
    found, worse = decoded(places, data, side, channels, max_pixels)
    kept = [
        replace(places[i], digest=digest_of(data[i]), broken_profile=images.has_broken_profile(data[i]))
        for i in sorted(found)
    ]
    return kept, stacked(found, side, channels), bad + worse


def cut_alike(
    files: Mapping[str, bytes], main: str, picture: tuple[str, bytes], size: int
) -> dict[str, bytes]:
    """A sample's members with its picture resized, and every other picture in it (.mask.png) cut and resized alike.

    Args:
        files: extension -> bytes.
        main: extension of its picture.
        picture: extension and bytes of that picture as it is now.

    Raises:
        ValueError: ``"reason: detail"``: a picture beside it does not open, or two would have one name.
    """
    out: dict[str, bytes] = {}
    for name, old in files.items():
        stem, _, last = name.rpartition(".")
        if name == main:
            name, old = picture
        elif last in shards.PICTURES:
            cut = sides.side_mask if name in shards.MASKS else sides.side_picture
            name, old = f"{stem}.png".lstrip("."), cut(files[main], old, size)
        if name in out:
            raise ValueError(f"two_pictures: two members would be .{name}")
        out[name] = old
    return out
