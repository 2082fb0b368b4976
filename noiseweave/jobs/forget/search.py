"""The first flow of forget: a shard -> the keys of its samples with their parents; an index -> where the key is."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from noiseweave.cluster import pipeline, shards, stages, storage
from noiseweave.cluster.arrays import table
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Committed, Phase
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine.records import Json, JsonMapping, Quarantined
from noiseweave.jobs.forget import class_folders
from noiseweave.jobs.outputs import COPIED_FROM, GUESSED, ORIGINALS, PACKED, PACKED_POOL

Tally = tuple[str, str]
"""A tally of a done-marker, and the key that counts a sample in it."""

PLACES = ("shards", ORIGINALS, GUESSED, "rejected", PACKED, PACKED_POOL, "")  # below an input
ORIGINAL = re.compile(r"(?:original|guessed)-(\d+)\.(?:tar|jsonl)")
UNPACKED = "unpack.json"  # lies in what unpack made
UNSEARCHED = ("unreadable_tar", "truncated_tar", "duplicate_key", "bad_json")
"""What hides samples, or their lineage."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What a unit reads.

    Attributes:
        kind: a shard, or an index of pictures that augment keeps.
        output: the input folder that it belongs to.
    """

    kind: Literal["shard", "index"]
    output: str
    url: str


@dataclass(frozen=True, kw_only=True)
class Parent:
    """A picture as a lineage names it; sha256 of its file, where it is known."""

    shard: str
    key: str
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class Record:
    """A sample that has parents, or the key that is looked for.

    Attributes:
        url: of its shard.
        sources: names of the shard that it was copied from.
        counted: the tally of its unit's marker that it is in, (modes, linear) or (rejected, drifted); None
            for none.
    """

    url: str
    sources: tuple[str, ...]
    key: str
    parents: tuple[Parent, ...]
    counted: Tally | None


def pieces(folders: Sequence[str]) -> list[Piece]:
    """All that is to be read.

    Raises:
        ValueError: there is no shard, or one comes twice.
    """
    out: list[Piece] = []
    for folder in folders:
        found = [
            storage.join(folder, place, name) if place else storage.join(folder, name)
            for place in PLACES
            for name in storage.names_in(storage.join(folder, place) if place else folder)
            if name.endswith(".tar")
        ] + class_folders.found_in(folder)
        indices = index_files(folder)
        if not found and not indices and storage.exists(storage.join(folder, UNPACKED)):
            raise ValueError(
                f"input {folder!r}: unpack made it, and forget changes shards and augment's folders alone; "
                "forget in the shards that it was made of, then run unpack again with --overwrite"
            )
        if not found and not indices:
            raise ValueError(
                f"input {folder!r}: no .tar shards in it, in its shards, originals or rejected folder"
            )
        out += [Piece(kind="shard", output=folder, url=url) for url in found]
        out += [Piece(kind="index", output=folder, url=url) for url in indices]
    doubled = [url for url, n in Counter(piece.url for piece in out).items() if n > 1]
    if doubled:
        raise ValueError(f"input: names {doubled[0]} twice")
    return out


def index_files(folder: str) -> list[str]:
    """The indices of the pictures that an augment run has read, in its working folder; of its pool's, too."""
    run = storage.join(folder, "_run")
    indices = (storage.join(run, "index"), storage.join(run, "pool", "_run", "index"))
    return [
        storage.join(where, name)
        for where in indices
        for name in storage.names_in(where)
        if name.endswith(".parquet")
    ]


def run(key: str, work: Sequence[Piece], book: Ledger, s: Session) -> Outcome:
    """Read every piece; what was found lies in the ledger's folder."""
    phase = Phase(
        name="search",
        fetch=partial(_fetch, key),
        make_compute=stages.unchanged,
        commit=partial(_commit, book),
        noun="samples",
    )
    return pipeline.run(Plan.of(list(work)), phase, book, s)


def _fetch(key: str, unit: Unit) -> tuple[Json, list[Quarantined]]:
    piece: Piece = unit.payload
    if piece.kind == "index":
        return {"rows": rows_of(piece.url, key)}, []
    samples, bad = _samples(piece.url, key)
    return {"url": piece.url, "source": _source(piece), "samples": samples}, bad


def rows_of(url: str, key: str) -> list[str]:
    """The shards of an index's pictures that have a key."""
    rows = table(url, ["shard", "key"]).to_pylist()
    return [row["shard"] for row in rows if row["key"] == key and isinstance(row["shard"], str)]


def _source(piece: Piece) -> str | None:
    """The shard whose samples an original-*.tar holds, by augment's index of it."""
    found = ORIGINAL.fullmatch(piece.url.rpartition("/")[2])
    path = storage.join(piece.output, "_run", "index", f"{found[1]}.parquet") if found else ""
    if not found or not storage.exists(path):
        return None
    column = table(path, ["shard"])["shard"]
    return column[0].as_py() if len(column) else None


def _samples(url: str, key: str) -> tuple[list[Any], list[Quarantined]]:
    bad: list[Quarantined] = []
    out: list[Any] = []
    for own, read in class_folders.samples(url) if class_folders.are_in(url) else _in_shard(url, bad):
        try:
            known = _lineage(read())
        except ValueError as e:
            bad.append(Quarantined.of(e, shard=url, key=own))
            known = {}
        parents = [[p.shard, p.key, p.sha256] for p in parents_of(known)]
        if parents or own == key:
            out.append([own, parents, _counted(known), _copied_from(known)])
    return out, bad


def _in_shard(url: str, bad: list[Quarantined]) -> Iterator[class_folders.Sample]:
    entries, worse = shards.index(url)
    bad += worse
    if not entries:
        return
    with storage.open_read(url) as f:
        for entry in entries:
            yield entry.key, partial(shards.small, f, entry, "json")


def _counted(known: JsonMapping) -> Tally | None:
    check, mode = known.get("check"), known.get("mode")
    verdict = check.get("verdict") if isinstance(check, Mapping) else None
    if isinstance(verdict, str) and verdict != "kept":
        return "rejected", verdict
    return ("modes", mode) if isinstance(mode, str) else None


def _copied_from(known: JsonMapping) -> str | None:
    """The shard that augment copied the sample from, as that run named it; None where it is no copy."""
    mark = known.get(COPIED_FROM)
    shard = mark.get("shard") if isinstance(mark, Mapping) else None
    return shard if isinstance(shard, str) else None


def _lineage(data: bytes | None) -> Json:
    try:
        value = json.loads(data or b"{}")
    except (ValueError, RecursionError) as e:
        raise ValueError(f"bad_json: {e}") from None
    return value if isinstance(value, dict) else {}


def parents_of(known: Json) -> list[Parent]:
    """The pictures that a lineage names; inpaint's had one as ``shard#key`` alone before it had ``parents``."""
    listed = known.get("parents")
    if not isinstance(listed, list) and "picture_sha256" in known:
        shard, _, key = str(known.get("picture")).partition("#")
        listed = [{"shard": shard, "key": key, "sha256": known["picture_sha256"]}]
    return [
        Parent(shard=str(p.get("shard") or ""), key=p["key"], sha256=p.get("sha256"))
        for p in (listed if isinstance(listed, list) else [])
        if isinstance(p, dict) and isinstance(p.get("key"), str)
    ]


def _commit(book: Ledger, unit: Unit, result: tuple[Json, list[Quarantined]]) -> Committed:
    found, bad = result
    storage.write_json(_path(book, unit.index), found)
    return UnitReport(id=unit.id, produced=len(found.get("samples", ()))), bad


def _path(book: Ledger, i: int) -> str:
    return storage.join(book.path("found"), f"{i:06d}.json")


def records(work: Sequence[Piece], book: Ledger) -> Iterator[Record]:
    """What was found in the shards, read again at each call: no more than a shard of it is in memory."""
    for i, piece in enumerate(work):
        if piece.kind != "shard":
            continue
        found = storage.read_json(_path(book, i))
        for key, parents, counted, copied in found["samples"]:
            known = tuple(Parent(shard=s, key=k, sha256=h) for s, k, h in parents)
            yield Record(
                url=found["url"],
                sources=tuple(filter(None, (found["source"], copied))),
                key=key,
                parents=known,
                counted=tuple(counted) if counted else None,
            )


def indexed(work: Sequence[Piece], book: Ledger) -> set[str]:
    """The shards in which augment's indices have the key."""
    numbers = (i for i, piece in enumerate(work) if piece.kind == "index")
    return {shard for i in numbers for shard in storage.read_json(_path(book, i))["rows"]}
