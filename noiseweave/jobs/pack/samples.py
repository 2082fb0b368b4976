"""What every source of ``pack`` shares: a sample on its way into a shard, its picture, its label, its side."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from noiseweave.cluster import shards, storage
from noiseweave.engine import formats
from noiseweave.engine.records import JsonMapping, Quarantined
from noiseweave.engine.seeding import seed_of
from noiseweave.jobs.outputs import NAMED

if TYPE_CHECKING:
    from noiseweave.cluster.folders import Listing
    from noiseweave.jobs.pack.config import Config

DOUBLE = re.compile(r"(--[0-9]+)+$")


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A sample as it goes into a shard: extension -> bytes.

    Attributes:
        held_out: it is for validation.
        broken_profile: its picture's colour profile is ignored.
    """

    key: str
    label: int | None
    files: Mapping[str, bytes]
    held_out: bool = False
    broken_profile: bool = False


@dataclass(kw_only=True)
class Side:
    """One folder of shards while it is written: the samples of the open shard, and the sums so far."""

    folder: str
    batch: list[Packed] = field(default_factory=list)
    held: int = 0
    shards: int = 0
    samples: int = 0
    size: int = 0
    labels: Counter[int] = field(default_factory=Counter)


@dataclass(kw_only=True)
class Tally:
    """What the report says; ``left_out`` counts what ``keep_labels`` passed over, ``others`` names ignored files."""

    sides: list[Side]
    left_out: int = 0
    broken_profiles: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    others: list[str] = field(default_factory=list)
    bad: list[Quarantined] = field(default_factory=list)

    def ignore(self, found: Listing, used: Counter[str] | None = None, names: Sequence[str] = ()) -> None:
        """Count the files of a folder that are ignored.

        Args:
            used: those that are of use, by extension.
            names: what these are called.
        """
        self.ignored += found.ignored - (used or Counter())
        others = [path for path in found.others if path.rpartition("/")[2] not in names]
        self.others = [*self.others, *others][:NAMED]

    @property
    def samples(self) -> int:
        """Samples of all sides."""
        return sum(side.samples for side in self.sides)


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened input.

    Attributes:
        what: what it was taken for, in words.
        classes: names by number, [] where it has none.
        total: pictures in it, None where nobody knows before the end.
        results: every sample in a fixed order, or why there is none.
    """

    what: str
    classes: Sequence[str]
    total: int | None
    results: Iterable[Packed | Quarantined]


def packed(
    config: Config, key: str, label: int | None, files: dict[str, bytes], meta: JsonMapping, content: bytes
) -> Packed:
    """A sample with its ``.cls`` and ``.json``; ``content`` is the picture as the input holds it."""
    number = renumbered(config, label)
    if number is not None:
        files["cls"] = str(number).encode()
    files["json"] = json.dumps(meta).encode()
    return finished(config, key, number, files, content)


def finished(
    config: Config, key: str, label: int | None, files: Mapping[str, bytes], content: bytes
) -> Packed:
    """A sample with what its picture, as the input holds it, decides."""
    from noiseweave.engine.pictures import images

    return Packed(
        key=key,
        label=label,
        files=files,
        held_out=held_out(config, key, content),
        broken_profile=images.has_broken_profile(content),
    )


def held_out(config: Config, key: str, content: bytes) -> bool:
    """Whether a sample is for validation: a function of the seed and its key (or its picture) alone.

    The number that ``Keys`` gave a repeated key does not count, so samples of one key stay together.
    """
    if not config.validation:
        return False
    by_key = config.split_by == "key"
    mark = DOUBLE.sub("", key) if by_key else hashlib.blake2b(content, digest_size=16).hexdigest()
    return seed_of(config.seed, "split", mark) < config.validation * 2**63


def wanted(config: Config, label: object) -> bool:
    """Whether samples of a label are kept."""
    return config.kept is None or label in config.kept


def renumbered(config: Config, label: int | None) -> int | None:
    """The number that a label gets in the shards."""
    if config.labels == "none" or label is None:
        return None
    return config.kept.index(label) if config.renumber and config.kept else label


def picture(config: Config, data: bytes) -> tuple[str, bytes]:
    """Encoded bytes -> (extension, bytes) as they go into the shard: the same, unless a size is given.

    Raises:
        ValueError: ``"reason: detail"`` of a picture that does not decode.
    """
    from noiseweave.engine.pictures import images

    if len(data) > storage.IMAGE_LIMIT:
        raise ValueError(f"too_large: more than {storage.IMAGE_LIMIT} bytes")
    image_HWC = images.decode(data)
    if config.size is None:
        name = formats.extension_of(data)
        assert name is not None, data[:16]  # it was decoded
        return name, data
    extension = config.image_format or "png"
    return extension, images.encode(images.fit(image_HWC, config.size), extension)


def mask_beside(config: Config, data: bytes, sides: Mapping[str, bytes]) -> dict[str, bytes]:
    """A picture's mask, where it has one, as it goes into the shard: extension -> bytes.

    Args:
        data: the encoded picture.
        sides: its side files by extension.

    Raises:
        ValueError: ``"bad_mask: ..."`` of one that is none or does not fit; ``"ambiguous: ..."`` of several.
    """
    from noiseweave.engine.pictures.sides import side_mask

    found = [extension for extension in sides if extension in shards.MASKS]
    if len(found) > 1:
        raise ValueError(f"ambiguous: {len(found)} masks, {', '.join(sorted(found))}")
    return {
        extension if config.size is None else "mask.png": side_mask(data, sides[extension], config.size)
        for extension in found
    }


def in_order(
    config: Config, load: Callable[..., Packed | Quarantined], jobs: Iterable[tuple[Any, ...]]
) -> Iterator[Packed | Quarantined]:
    """``load(config, *job)`` of each job with a few threads, a few jobs at a time, in the jobs' order."""
    from concurrent.futures import ThreadPoolExecutor

    threads = config.threads or min(8, os.cpu_count() or 1)
    waiting = iter(jobs)
    with ThreadPoolExecutor(threads) as pool:
        while chunk := list(islice(waiting, 4 * threads)):
            yield from pool.map(lambda job: load(config, *job), chunk)


class Keys:
    """Makes the keys of a stream distinct: the second ``a`` becomes ``a--2``. Any number of them, on the disk."""

    def __init__(self) -> None:
        self.taken = sqlite3.connect("")  # a temporary file of SQLite's own, gone with the connection
        self.taken.execute("PRAGMA journal_mode = OFF")
        self.taken.execute("CREATE TABLE taken (key TEXT PRIMARY KEY, uses INTEGER) WITHOUT ROWID")
        self.taken.execute("BEGIN")

    def distinct(self, key: str) -> str:
        """The key, or, where it was there before, the key with the next free number."""
        if self._take(key):
            return key
        (uses,) = self.taken.execute("SELECT uses FROM taken WHERE key = ?", (key,)).fetchone()
        while not self._take(f"{key}--{uses + 1}"):
            uses += 1
        self.taken.execute("UPDATE taken SET uses = ? WHERE key = ?", (uses + 1, key))
        return f"{key}--{uses + 1}"

    def _take(self, key: str) -> bool:
        return self.taken.execute("INSERT OR IGNORE INTO taken VALUES (?, 1)", (key,)).rowcount == 1


def missing_package(name: str, kind: str) -> ValueError:
    """The error of a format whose package is not installed."""
    return ValueError(f"format {kind}: the {name} package is missing; pip install 'noiseweave[sources]'")
