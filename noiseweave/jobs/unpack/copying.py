"""The second flow of unpack: a shard's pictures become files, byte for byte, and its lines of metadata.jsonl."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from noiseweave.cluster import pipeline, shards, stages, storage
from noiseweave.cluster.labels import text_of
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Committed, Phase
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine import formats
from noiseweave.engine.records import Json, Location, Quarantined
from noiseweave.jobs import class_folders
from noiseweave.jobs.reading.shard_pictures import InputChanged
from noiseweave.jobs.unpack import listing
from noiseweave.jobs.unpack.task import Task

NAME = "copy"
ROWS = "rows"
THREADS = 8
KINDS = 50  # kinds of members left out that are told apart in a shard


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What became of a sample.

    Attributes:
        row: its line of metadata.jsonl; None where it is quarantined.
        label: its class.
        changed: why its file is not called as its key; None where it is.
        left_out: kinds of its members that were not written.
        bad: what was quarantined of it.
    """

    row: Json | None = None
    label: int | None = None
    changed: str | None = None
    left_out: Sequence[str] = ()
    bad: list[Quarantined] = field(default_factory=list)


def run(task: Task, found: Sequence[str], book: Ledger, s: Session) -> Outcome:
    """Write every shard's pictures."""
    phase = Phase(
        name=NAME, fetch=stages.payload, make_compute=stages.unchanged, commit=partial(_commit, task, book)
    )
    return pipeline.run(Plan.of(found), phase, book, s)


def _commit(task: Task, book: Ledger, unit: Unit, url: str) -> Committed:
    """All of it here, so that a few pictures of the shard are held and not all."""
    if storage.content_of(url) != listing.content_of(book, unit.id):
        raise InputChanged(f"input changed during the run: {url}")
    samples, _ = shards.located(url)  # what is wrong with it was recorded when it was listed
    twice = listing.twice(book)
    with ThreadPoolExecutor(THREADS) as pool:
        done = list(pool.map(lambda sample: _copied(task, url, twice, *sample), samples))
    written = [one for one in done if one.row is not None]
    class_folders.write_rows(book.path(ROWS, f"{unit.id}.jsonl"), [one.row for one in written if one.row])
    left_out = Counter(kind[:40] for one in done for kind in one.left_out)
    tallies = {
        "classes": Counter("" if one.label is None else str(one.label) for one in written),
        "renamed": Counter(one.changed for one in written if one.changed),
        "left_out": dict(left_out.most_common(KINDS)),
    }
    report = UnitReport(
        id=unit.id,
        produced=len(written),
        tallies={name: dict(counts) for name, counts in tallies.items() if counts},
    )
    return report, [b for one in done for b in one.bad]


def _copied(task: Task, url: str, twice: frozenset[int], entry: shards.Entry, place: Location) -> Copied:
    """Write a sample's files; its picture last, so that it is there once all of them are."""
    main = entry.picture or ""
    folder, shard = class_folders.folder_of(place.label, task.classes), task.name_of(url)
    stem = class_folders.stem_of(folder, entry.key, shard, twice)
    try:
        sides = {kind: _read(url, entry, kind) for kind in shards.SIDES if kind in entry.members}
        data = _read(url, entry, main)
        if formats.format_of(data) is None:
            raise ValueError(f"not_an_image: .{main} does not begin as a picture does")
        row = class_folders.row(
            f"{folder}/{stem.name}.{main}",
            place.label,
            task.classes,
            entry.key,
            shard=shard,
            text=place.caption,
            json=text_of(sides["json"]) if "json" in sides else None,
        )
    except ValueError as e:
        return Copied(bad=[Quarantined.of(e, shard=url, key=entry.key)])
    others = [kind for kind in entry.members if kind not in (main, *(() if task.whole else shards.SIDES))]
    bad = _write_others(task, url, f"{folder}/{stem.name}", entry, others) if task.whole else []
    class_folders.write(task.output, f"{folder}/{stem.name}", main, data)
    left_out = () if task.whole else others
    return Copied(row=row, label=place.label, changed=stem.changed, left_out=left_out, bad=bad)


def _write_others(
    task: Task, url: str, name: str, entry: shards.Entry, kinds: Sequence[str]
) -> list[Quarantined]:
    """Write a sample's members beside its picture; what could not be written."""
    bad = []
    for kind in kinds:
        try:
            if not class_folders.KIND.fullmatch(kind) or len(kind) > 40:
                raise ValueError(f"unsafe_key: .{kind[:80]} is no extension of a file")
            class_folders.write(task.output, name, kind, _read(url, entry, kind))
        except ValueError as e:
            bad.append(Quarantined.of(e, shard=url, key=entry.key))
    return bad


def _read(url: str, entry: shards.Entry, kind: str) -> bytes:
    member = entry.members[kind]
    if member.size > storage.IMAGE_LIMIT:
        raise ValueError(f"too_large: .{kind} has {member.size} bytes, at most {storage.IMAGE_LIMIT}")
    return storage.read(url, member.offset, member.size)


def counts(outcome: Outcome, names: Mapping[int | None, str]) -> dict[str, int]:
    """Folder -> pictures."""
    found = {None if label == "" else int(label): n for label, n in outcome.tallies["classes"].items()}
    return {names[label]: n for label, n in sorted(found.items(), key=lambda x: (x[0] is None, x[0] or 0))}
