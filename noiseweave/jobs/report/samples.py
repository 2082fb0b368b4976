"""What lies in a job's output folder, sample by sample: counted over all, and some picked for the gallery.

Memory does not grow with the number of samples.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from noiseweave.cluster import shards, storage
from noiseweave.cluster.labels import text_of
from noiseweave.cluster.ledger import finite
from noiseweave.engine.formats import is_picture
from noiseweave.engine.records import Json, JsonMapping
from noiseweave.jobs.outputs import PICTURES, ROWS, ShardName
from noiseweave.jobs.reading.class_names import shown
from noiseweave.jobs.report.records import Damage, shallow

KINDS_OF = {"augment": "augmented", "sample": "sample", "inpaint": "inpainted"}
KEPT = "kept"
BINS = 20_000  # of the similarities in -1..1
IMAGES = 1 << 19  # images whose pairs are counted; of more, a random part of about so many
KINDS = 1000  # classes and modes that are kept apart
FIELDS, CHARACTERS = 60, 2000  # of one sample's lineage, in the page


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a picture's bytes lie: a range of a file, or, where size is None, a whole one."""

    url: str
    offset: int = 0
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """A sample of the output.

    Attributes:
        key: its name.
        picture: its picture.
        lineage: its .json; {} where it has none or a broken one.
        label: its .cls, or None.
        caption: its .txt, or None.
        mask: that lies beside it, or None.
        names: of the classes, in the order of their numbers.
    """

    key: str
    picture: Source
    lineage: JsonMapping = field(default_factory=dict)
    label: str | None = None
    caption: str | None = None
    mask: Source | None = None
    names: Sequence[str] = ()

    @property
    def check(self) -> JsonMapping:
        """What the quality gate found; {} where there was none."""
        value = self.lineage.get("check")
        return value if isinstance(value, dict) else {}

    @property
    def verdict(self) -> str:
        """What the gate said of it; kept where there was none."""
        return str(self.check.get("verdict", KEPT))[:40]

    @property
    def mode(self) -> str | None:
        """How it was made: a fusion mode, a way to inpaint, a sampler."""
        value = self.lineage.get("mode") or self.lineage.get("method") or self.lineage.get("sampler")
        return None if value is None else str(value)[:80]

    @property
    def similarity(self) -> float | None:
        """The similarity of its parents."""
        return number(self.lineage.get("similarity"))

    @property
    def parents(self) -> list[JsonMapping]:
        """As the lineage has them, those with a shard and a key."""
        value = self.lineage.get("parents")
        rows = value if isinstance(value, list) else []
        return [
            p
            for p in rows
            if isinstance(p, dict) and isinstance(p.get("shard"), str) and isinstance(p.get("key"), str)
        ]

    @property
    def classes(self) -> list[str]:
        """Its class, or those of its parents, by name where they have one."""
        if self.label is not None:
            return [shown(self.label, self.names)]
        soft = self.lineage.get("soft_label")
        named = [*soft] if isinstance(soft, dict) else [self.lineage.get("label")]
        return [shown(str(name)[:80], self.names) for name in named if name is not None]


def number(value: object) -> float | None:
    """A finite number, or None."""
    return float(value) if isinstance(value, int | float) and finite(value) else None


def bounded(lineage: JsonMapping) -> Json:
    """A lineage without what is too long for a page."""
    short = {}
    for name, value in list(lineage.items())[:FIELDS]:
        long = len(json.dumps(value)) > CHARACTERS
        short[str(name)[:80]] = f"{json.dumps(value)[:CHARACTERS]} ... (cut)" if long else value
    return short


# what lies there


def found_in(output: str, job: str, damage: Damage) -> Iterator[Found]:
    """Every sample of a job's output, in a fixed order; rejected ones after all others.

    Args:
        damage: shards and lineages that are damaged are counted in it; the former give what is left of them.
    """
    yield from _in_shards(storage.join(output, "shards"), KINDS_OF[job], damage)
    if job == "augment":
        yield from _in_class_folders(output, damage)
    if job == "sample":
        yield from _in_images(storage.join(output, "images"))
    if job == "inpaint":
        yield from _in_lineage(output, storage.join(output, "lineage"), damage)
    yield from _in_shards(storage.join(output, "rejected"), "rejected", damage)


def _in_shards(folder: str, kind: str, damage: Damage) -> Iterator[Found]:
    for name in storage.names_in(folder):
        if (shard := ShardName.of(name)) and shard.kind == kind:
            yield from _in_shard(storage.join(folder, name), damage)


def _in_shard(url: str, damage: Damage) -> Iterator[Found]:
    found, bad = shards.index(url)
    damage["shards"] += any(b.reason in ("unreadable_tar", "truncated_tar") for b in bad)
    damage["samples"] += sum(b.reason not in ("unreadable_tar", "truncated_tar") for b in bad)
    entries = [e for e in found if e.picture]
    if not entries:
        return
    with storage.open_read(url) as f:
        for entry in entries:
            where = entry.members[entry.picture or ""]
            mask = entry.members.get(entry.first(shards.MASKS) or "")
            yield Found(
                key=entry.key,
                picture=Source(url=url, offset=where.offset, size=where.size),
                lineage=_json(f, entry, damage),
                label=_text(f, entry, "cls"),
                caption=_text(f, entry, "txt"),
                mask=Source(url=url, offset=mask.offset, size=mask.size) if mask else None,
            )


def _json(f: BinaryIO, entry: shards.Entry, damage: Damage) -> JsonMapping:
    try:
        value = storage.json_of(entry.key, shards.small(f, entry, "json") or b"{}")
    except ValueError:
        value = None
    if isinstance(value, dict):
        return shallow(value)
    damage["lineages"] += 1
    return {}


def _text(f: BinaryIO, entry: shards.Entry, extension: str) -> str | None:
    try:
        data = shards.small(f, entry, extension)
        return None if data is None else text_of(data).strip()[:CHARACTERS]
    except ValueError:
        return None


def _in_images(folder: str) -> Iterator[Found]:
    """What sample writes with files=folder: images, or a folder for each class."""
    for label in (None, *storage.folders_in(folder)):
        here = folder if label is None else storage.join(folder, label)
        for name in storage.names_in(here):
            key = name.rpartition(".")[0]
            if is_picture(name) and not name.startswith("."):
                of = None if label is None else label.lstrip("0") or "0"
                yield Found(key=key, picture=Source(url=storage.join(here, name)), label=of)


def _in_class_folders(output: str, damage: Damage) -> Iterator[Found]:
    """What augment writes with files=folder: a line for each picture."""
    parts = storage.join(output, "_run", ROWS, PICTURES)
    for name in storage.names_in(parts):
        with storage.open_read(storage.join(parts, name)) as f:
            for line in f:
                try:
                    yield _of_row(storage.json_of(name, line), storage.join(output, PICTURES))
                except (ValueError, KeyError, TypeError):
                    damage["lineages"] += 1


def _of_row(row: JsonMapping, folder: str) -> Found:
    named, label, caption, lineage = (row[name] for name in ("file_name", "label", "text", "json"))
    lineage = storage.json_of("json", lineage)
    if not isinstance(lineage, dict) or shards.unsafe(named):
        raise ValueError("no line of metadata.jsonl")
    return Found(
        key=str(row["key"]),
        picture=Source(url=storage.join(folder, named)),
        lineage=shallow(lineage),
        label=None if label is None else str(label)[:80],
        caption=None if caption is None else str(caption)[:CHARACTERS],
    )


def _in_lineage(output: str, folder: str, damage: Damage) -> Iterator[Found]:
    """What inpaint writes of pictures in files: a lineage for each, which names its variants."""
    for name in storage.names_in(folder):
        try:
            lineage = shallow(storage.read_object(storage.join(folder, name)))
            files = [f for f in lineage["files"] if isinstance(f, str) and not shards.unsafe(f)]
        except (ValueError, OSError, KeyError, TypeError):
            damage["lineages"] += 1
            continue
        for n, file in enumerate(files):
            seeds = lineage.get("seeds")
            own = [seeds[n]] if isinstance(seeds, list) and n < len(seeds) else seeds
            key = file.removeprefix("restored/").rpartition(".")[0]
            caption = lineage.get("prompt")
            yield Found(
                key=key,
                picture=Source(url=storage.join(output, file)),
                lineage={**lineage, "seeds": own},
                caption=caption if isinstance(caption, str) and caption else None,
            )
    for below in storage.folders_in(folder):
        yield from _in_lineage(output, storage.join(folder, below), damage)


# what is counted of all


class Uses:
    """In how many pairs each image is, of at most IMAGES images: a random part of them by the hash of their names."""

    def __init__(self) -> None:
        self.below, self.counts = 1 << 64, dict[int, int]()

    def add(self, name: str) -> None:
        """Count a use of a picture, where its name's hash is among those that are counted."""
        h = int.from_bytes(hashlib.blake2b(name.encode(errors="replace"), digest_size=8).digest())
        if h >= self.below:
            return
        self.counts[h] = self.counts.get(h, 0) + 1
        while len(self.counts) > IMAGES:
            self.below //= 2
            self.counts = {k: v for k, v in self.counts.items() if k < self.below}

    @property
    def part(self) -> float:
        """Share of all images that was looked at."""
        return self.below / (1 << 64)


@dataclass(kw_only=True)
class Tally:
    """Sums over all samples: verdicts of every one, all else of those that were kept."""

    total: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    similarity: list[int] = field(default_factory=lambda: [0] * BINS)
    uses: Uses = field(default_factory=Uses)

    def add(self, one: Found) -> None:
        """Count a sample."""
        self.total += 1
        _count(self.verdicts, one.verdict)
        if one.verdict != KEPT:
            return
        for name in one.classes:
            _count(self.classes, name)
        if one.mode is not None:
            _count(self.modes, one.mode)
        if one.similarity is not None:
            cosine = max(-1.0, min(1.0, one.similarity))
            self.similarity[min(BINS - 1, math.floor((cosine + 1) * BINS / 2))] += 1
        for parent in one.parents:
            self.uses.add(f"{parent['shard']}#{parent['key']}")


def _count(counter: Counter[str], name: str) -> None:
    counter[name if name in counter or len(counter) < KINDS else "others"] += 1


# what is shown of them


class Picker:
    """Picks samples evenly: those with the smallest hashes of their keys, whatever the order and the number of all.

    Of each verdict but the commonest up to an eighth of the places are kept, so that a few rejected ones are seen.
    """

    def __init__(self, places: int) -> None:
        self.places, self.seen = places, 0
        self.heaps: dict[str, list[tuple[int, int, Found]]] = {}

    def add(self, one: Found) -> None:
        """Keep a sample where its key's hash is among the lowest of its verdict."""
        h = int.from_bytes(hashlib.blake2b(one.key.encode(errors="replace"), digest_size=8).digest())
        entry = (-h, -self.seen, one)
        self.seen += 1
        known = one.verdict in self.heaps or len(self.heaps) < 8
        heap = self.heaps.setdefault(one.verdict if known else KEPT, [])
        if len(heap) < self.places:
            heapq.heappush(heap, entry)
        elif self.places:
            heapq.heappushpop(heap, entry)

    def picked(self) -> list[Found]:
        """In the order in which they were added."""
        few = sorted(self.heaps.values(), key=len)[:-1]
        kept = [entry for heap in few for entry in heapq.nlargest(self.places // 8, heap)]
        chosen = {-e[1] for e in kept}
        rest = (e for heap in self.heaps.values() for e in heap if -e[1] not in chosen)
        kept += heapq.nlargest(self.places - len(kept), rest)
        return [e[2] for e in sorted(kept, key=lambda e: -e[1])]
