"""What the pictures of an input are, looked at before a job begins: their size, and whether they have colour."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from noiseweave.cluster import shards, storage
from noiseweave.engine.pictures import images
from noiseweave.jobs.reading import shard_pictures
from noiseweave.jobs.reading.places import Place

MOST = 32  # pictures that are looked at
SHARDS = 8  # shards that are opened for it
OPENED = 32  # shards that are opened for the pictures themselves
LARGE = 2  # so many times a model's side, and a picture is much larger than what it draws


@dataclass(frozen=True, kw_only=True)
class Look:
    """What some pictures are.

    Attributes:
        sizes: (height, width) of each, upright; at least one.
        coloured: how many of them have colour.
    """

    sizes: tuple[tuple[int, int], ...]
    coloured: int

    @property
    def middle(self) -> tuple[int, int]:
        """(height, width) of the one whose short side is the median, the lower one of two."""
        return sorted(self.sizes, key=min)[(len(self.sizes) - 1) // 2]

    @property
    def channels(self) -> Literal[1, 3]:
        """1 where none has colour, else 3."""
        return 3 if self.coloured else 1

    def __str__(self) -> str:
        height, width = self.middle
        several = f" (the middle one of {len(self.sizes)} looked at)" if len(self.sizes) > 1 else ""
        return f"{width}x{height} in {_colour(self.channels)}{several}"


def _colour(channels: int) -> str:
    return "grey" if channels == 1 else "colour"


def spread(count: int, most: int = MOST) -> list[int]:
    """At most so many numbers of 0 .. count - 1, evenly spaced."""
    return sorted({i * count // most for i in range(most)}) if count > most else list(range(count))


def look(encoded: Iterable[bytes], max_pixels: int = images.MAX_PIXELS) -> Look | None:
    """What encoded pictures are; those that do not open are passed over. None where none opens."""
    sizes, coloured = [], 0
    for data in encoded:
        try:
            size, colour = images.glance(data, max_pixels)
        except ValueError:  # the job itself says what is wrong with it
            continue
        sizes.append(size)
        coloured += colour
    return Look(sizes=tuple(sizes), coloured=coloured) if sizes else None


def look_at_shards(found: Sequence[str], max_pixels: int = images.MAX_PIXELS) -> Look | None:
    """What pictures of some of these shards are, evenly spread over them; None where none opens."""
    chosen = [found[i] for i in spread(len(found), SHARDS)]
    return look((data for url in chosen for data in _some_of(url, MOST // len(chosen))), max_pixels)


def _some_of(url: str, most: int) -> list[bytes]:
    try:
        entries = [entry for entry in shards.index(url)[0] if entry.picture]
        members = [entries[i].members[entries[i].picture or ""] for i in spread(len(entries), most)]
        return storage.read_ranges(url, [(m.offset, m.size) for m in members]) if members else []
    except OSError:  # the job itself meets it again, and names the shard
        return []


def some(
    found: Sequence[str], most: int, side: int, channels: int, max_pixels: int = images.MAX_PIXELS
) -> np.ndarray:
    """About so many good pictures, evenly spread over OPENED of these shards: uint8 [N, side, side, channels]."""
    chosen = [found[i] for i in spread(len(found), OPENED)]
    out: list[np.ndarray] = []
    for url in chosen:
        try:
            places, _ = shards.locate(url)
            wanted = [places[i] for i in spread(len(places), -(-most // len(chosen)))]
            out += shard_pictures.read(wanted, side, channels, max_pixels)[0].values()
        except OSError:  # the job itself meets it again, and names the shard
            continue
    return shard_pictures.stacked(dict(enumerate(out)), side, channels)


def look_at_places(places: Sequence[Place], max_pixels: int = images.MAX_PIXELS) -> Look | None:
    """What pictures in files are, evenly spread over these; None where none opens."""

    def read() -> Iterable[bytes]:
        for i in spread(len(places)):
            try:
                yield places[i].read()
            except ValueError:  # quarantined by the job itself
                continue

    return look(read(), max_pixels)


def warning(
    seen: Look | None, model: str, side: int, channels: int, of: Callable[[tuple[int, int]], int] = min
) -> str | None:
    """What a person may not have meant: pictures much larger than a model's, or of other channels; None if all fits.

    Args:
        model: what it is called in the line.
        side: of what the model draws, in pixels.
        of: which side of a picture becomes ``side``: min where the centre square is kept, max where the whole is.
    """
    if seen is None:
        return None
    effects = ["they are made smaller"] * (of(seen.middle) > LARGE * side)
    if seen.channels != channels:
        effects.append("they lose their colour" if channels == 1 else "what it draws may have colour")
    if not effects:
        return None
    return f"the pictures are {seen}, {model} draws {side}x{side} in {_colour(channels)}: {' and '.join(effects)}"


def warn(text: str | None) -> None:
    """A warning on standard error, where there is one."""
    if text is not None:
        print(f"warning: {text}", file=sys.stderr, flush=True)
