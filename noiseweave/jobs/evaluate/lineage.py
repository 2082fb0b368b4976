"""What evaluate knows of a generated sample before it looks at it: its picture, its lineage, its parents' pictures.

The parents are sought in the index of the reference that its embed phase wrote: by the shard's name and the key, as the
lineage has them, or else by the key where the reference has it once.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noiseweave.cluster import shards, storage
from noiseweave.cluster.arrays import table
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.records import Json, Location, Quarantined
from noiseweave.jobs.augment import index as augment_index
from noiseweave.jobs.augment.reference import Reference
from noiseweave.jobs.reading import shard_pictures

Name = tuple[str, str, str | None]
"""A picture as a lineage names it: shard, key and, where it says so, the SHA-256 of its file."""
TYPICAL = 64  # pictures of the reference whose sharpness is held against that of samples without parents


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What a sample's .json says of its making.

    Attributes:
        mode: of the fusion; None where it says none.
        parents: their names.
        labels: the classes that the sample may be of: its parents', or else its own.
    """

    mode: str | None
    parents: tuple[Name, ...]
    labels: set[int | None]


@dataclass(kw_only=True)
class Loaded:
    """A shard of samples that was read.

    Attributes:
        where: of the good ones.
        image_PHWC: uint8, at the size that they are looked at in.
        lineages: of each.
        names: of the parents that were found, as shard#key.
        parent_BHWC: uint8, these.
        parents: of each sample, the positions of those of its parents that were found.
        typical_THWC: uint8, pictures of the reference; none where every sample has a parent.
        differ: parents that were found under their name, with another file.
    """

    where: list[Location]
    image_PHWC: np.ndarray
    lineages: list[Lineage]
    bad: list[Quarantined]
    names: list[str] = field(default_factory=list)
    parent_BHWC: np.ndarray
    parents: list[tuple[int, ...]]
    typical_THWC: np.ndarray
    differ: int = 0


def read(reference: Reference, book: Ledger, url: str) -> Loaded:
    """A shard of samples, with the parents of each that can be found."""
    found, bad = shards.located(url)
    places = [place for _, place in found]
    good, worse = shard_pictures.read(places, reference.size, reference.channels, reference.max_pixels)
    kept = [found[i] for i in sorted(good)]
    lineages = _lineages(url, kept)
    wanted = dict.fromkeys(name for line in lineages for name in line.parents)
    pictures, differ = _parents(reference, locate(reference, book, wanted))
    order = {name: i for i, name in enumerate(pictures)}
    parents = [tuple(order[name] for name in line.parents if name in order) for line in lineages]
    typical = _typical(reference, book) if not all(parents) else {}
    return Loaded(
        where=[place for _, place in kept],
        image_PHWC=shard_pictures.stacked(good, reference.size, reference.channels),
        lineages=lineages,
        bad=bad + worse,
        names=[name for name, _ in pictures.values()],
        parents=parents,
        parent_BHWC=_stacked(reference, [picture for _, picture in pictures.values()]),
        typical_THWC=shard_pictures.stacked(typical, reference.size, reference.channels),
        differ=differ,
    )


def _stacked(reference: Reference, pictures: Sequence[np.ndarray]) -> np.ndarray:
    return shard_pictures.stacked(dict(enumerate(pictures)), reference.size, reference.channels)


def _lineages(url: str, found: Sequence[tuple[shards.Entry, Location]]) -> list[Lineage]:
    members = [entry.members.get("json") for entry, _ in found]
    data = iter(storage.read_ranges(url, [(m.offset, m.size) for m in members if m]))
    return [
        lineage(next(data) if m else b"{}", place.label) for m, (_, place) in zip(members, found, strict=True)
    ]


def lineage(data: bytes, own: int | None) -> Lineage:
    """A sample's .json, which anybody may have written: what is not understood is not known.

    Args:
        own: the sample's own label.
    """
    known: object = json.loads(data)  # shards.located has read it: what is no JSON is quarantined
    known = known if isinstance(known, dict) else {}
    listed = known.get("parents")
    listed = [p for p in listed if isinstance(p, dict)] if isinstance(listed, list) else []
    parents = [
        (_text(p.get("shard")) or "", p["key"], _text(p.get("sha256")))
        for p in listed
        if isinstance(p.get("key"), str)
    ]
    labels: set[int | None] = {p["label"] for p in listed if type(p.get("label")) is int and p["label"] >= 0}
    return Lineage(mode=_text(known.get("mode")), parents=tuple(parents), labels=labels or {own})


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def locate(reference: Reference, book: Ledger, wanted: Iterable[Name]) -> dict[Name, Location]:
    """Where the pictures of these names lie; those that the reference does not have are left out."""
    units, by_unit = units_of(reference, book), defaultdict(list)
    for name in wanted:
        by_unit[units.get(name[0]) or units.get(name[0].rpartition("/")[2])].append(name)
    found: dict[Name, Location] = {}
    for unit, names in by_unit.items():
        rows = _rows(book, [unit], names) if unit is not None else []
        by_key = {row["key"]: Location(**row) for row in rows}
        found |= {name: by_key[name[1]] for name in names if name[1] in by_key}
    left = [name for names in by_unit.values() for name in names if name not in found]
    once: dict[str, list[Json]] = defaultdict(list)
    for row in _rows(book, dict.fromkeys(units.values()), left) if left else []:
        once[row["key"]].append(row)
    return found | {name: Location(**once[name[1]][0]) for name in left if len(once[name[1]]) == 1}


def units_of(reference: Reference, book: Ledger) -> dict[str, str | None]:
    """Name of a shard of the reference, whole or without its folder -> its unit; None for two of one name."""
    out: dict[str, str | None] = {}
    path = book.path("reference.json")
    listing = storage.read_json(path)
    if not isinstance(listing, list) or not all(isinstance(url, str) for url in listing):
        raise storage.Damaged(f"{path}: no list of shards")
    names = [(reference.name_of(url), f"{i:06d}") for i, url in enumerate(listing)]
    for name, unit in names:
        base = name.rpartition("/")[2]
        out[base] = None if base in out else unit
    return out | dict(names)


def _rows(book: Ledger, units: Iterable[str | None], names: Iterable[Name]) -> list[Json]:
    """Rows of the index of some units with these keys."""
    keys = pa.array([key for _, key, _ in names], pa.string())
    out: list[Json] = []
    for unit in units:
        path = book.path("index", f"{unit}.parquet")
        if unit is not None and storage.exists(path):
            index = table(path, augment_index.INDEX)
            out += index.filter(pc.is_in(index["key"], keys)).to_pylist()
    return out


def _parents(
    reference: Reference, located: Mapping[Name, Location]
) -> tuple[dict[Name, tuple[str, np.ndarray]], int]:
    """name -> (shard#key, picture) of the parents that can be read; how many are another file than the lineage's."""
    by_shard: dict[str, list[Name]] = defaultdict(list)
    for name, place in located.items():
        by_shard[place.shard].append(name)
    found: dict[Name, tuple[str, np.ndarray]] = {}
    differ = 0
    for names in by_shard.values():
        places = [located[n] for n in names]
        data = shard_pictures.encoded(places)
        good, _ = shard_pictures.decoded(
            places, data, reference.size, reference.channels, reference.max_pixels
        )
        for i, picture in good.items():
            digest = names[i][2]
            if digest is not None and digest != hashlib.sha256(data[i]).hexdigest():
                differ += 1
            else:
                found[names[i]] = reference.key_of(places[i].shard, places[i].key), picture
    return found, differ


def _typical(reference: Reference, book: Ledger) -> dict[int, np.ndarray]:
    """A few pictures, spread evenly over the reference."""
    by_shard: dict[str, list[Location]] = defaultdict(list)
    for place in augment_index.spread_places(book, TYPICAL):
        by_shard[place.shard].append(place)
    pictures = [
        picture
        for places in by_shard.values()
        for picture in shard_pictures.read(places, reference.size, reference.channels, reference.max_pixels)[
            0
        ].values()
    ]
    return dict(enumerate(pictures))
