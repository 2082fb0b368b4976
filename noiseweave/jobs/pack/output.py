"""The output folder of ``pack``: made ours or refused, filled with shards, closed with a report."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from noiseweave.cluster import shards, storage
from noiseweave.engine.checks import check
from noiseweave.engine.identity import identity_of
from noiseweave.engine.records import Json, JsonMapping, Quarantined
from noiseweave.jobs import outputs
from noiseweave.jobs.pack.samples import Packed, Side, Tally

if TYPE_CHECKING:
    from noiseweave.jobs.pack.config import Config

MANIFEST = "pack.json"
SHARD = re.compile(r"shard-(\d{6,})\.tar")
FOLDERS = ("shards", "validation")


def new_tally(config: Config) -> Tally:
    """Counts of nothing yet, for one or two folders of shards."""
    return Tally(sides=[Side(folder=name) for name in FOLDERS[: 2 if config.validation else 1]])


def claim(output: str, config: Config, kind: str, read_from: Iterable[str]) -> None:
    """Make the output folder ours, or refuse one that holds something else.

    The report goes first and comes back last: while it is missing, the packing is not finished.
    """
    ours, manifest = identity(config, kind), storage.join(output, MANIFEST)
    refuse_input(output, read_from)
    theirs = storage.read_object(manifest) if storage.exists(manifest) else None
    refuse_other(output, ours, theirs, config.overwrite)
    storage.sweep_temporaries(output)
    storage.remove(storage.join(output, "report.json"))
    for folder in written_by(theirs) if config.overwrite else ():
        drop_shards(output, folder, 0)
    storage.write_json(manifest, ours)


def identity(config: Config, kind: str) -> Json:
    """The part of a config that decides what the shards hold, as JSON gives it back."""
    read_from = None if config.input is None else storage.absolute(config.input)
    return identity_of(config, input=read_from, format=kind)


def refuse_input(output: str, read_from: Iterable[str]) -> None:
    """Shards are never written over those that are being read."""
    ours = {place(storage.join(output, folder)) for folder in FOLDERS}
    inside = [folder for folder in read_from if place(folder) in ours]
    check(not inside, "output", output, f"the input's shards lie in it ({inside[:1]})")


def place(path: str) -> str:
    """One name for a folder, however it is written."""
    fs, name = url_to_fs(path)
    return os.path.realpath(name) if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(name))


def refuse_other(output: str, ours: JsonMapping, theirs: JsonMapping | None, overwrite: bool) -> None:
    """Another packing gives way when told to; shards that no pack wrote never do."""
    for folder in {*written_by(ours), *written_by(theirs)}:
        names = storage.names_in(storage.join(output, folder))
        known = folder in written_by(theirs)
        strange = [n for n in names if n.endswith(".tar") and not (known and SHARD.fullmatch(n))]
        check(not strange, "output", output, f"its {folder}/ holds {strange[:1]}, which no pack wrote")
    if theirs is None or overwrite:
        return
    pairs = [(name, theirs.get(name), ours.get(name)) for name in sorted(theirs.keys() | ours.keys())]
    changed = [f"{name} was {old!r}, now {new!r}" for name, old, new in pairs if old != new]
    text = f"it holds another packing ({'; '.join(changed)}); take another folder, or --overwrite"
    check(not changed, "output", output, text)


def written_by(manifest: JsonMapping | None) -> tuple[str, ...]:
    """The folders of shards that a packing fills."""
    if manifest is None:
        return ()
    return FOLDERS if manifest.get("validation") else FOLDERS[:1]


def drop_shards(output: str, folder: str, first: int) -> None:
    """Remove the shards numbered ``first`` and above: what an earlier, longer packing left."""
    for name in storage.names_in(storage.join(output, folder)):
        match = SHARD.fullmatch(name)
        if match and int(match[1]) >= first:
            storage.remove(storage.join(output, folder, name))


def write_shards(output: str, config: Config, results: Iterable[Packed | Quarantined], tally: Tally) -> None:
    """Results -> shards of ``shard_samples`` samples or ``shard_mb`` megabytes, whichever comes first."""
    for result in results:
        if isinstance(result, Quarantined):
            tally.bad.append(result)
            continue
        tally.broken_profiles += result.broken_profile
        side = tally.sides[result.held_out]
        side.batch.append(result)
        side.held += _bytes_of(result)
        if _full(config, len(side.batch), side.held):
            write_shard(output, side)
    for side in tally.sides:
        if side.batch:
            write_shard(output, side)
        drop_shards(output, side.folder, side.shards)


def in_shards(config: Config, samples: Iterable[Packed]) -> Iterator[list[Packed]]:
    """The samples of each shard that ``write_shards`` would write of them, without a validation split."""
    batch: list[Packed] = []
    held = 0
    for sample in samples:
        batch.append(sample)
        held += _bytes_of(sample)
        if _full(config, len(batch), held):
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _bytes_of(sample: Packed) -> int:
    return sum(map(len, sample.files.values()))


def _full(config: Config, samples: int, held: int) -> bool:
    return samples >= config.shard_samples or held >= config.shard_mb * 10**6


def write_shard(output: str, side: Side) -> None:
    """Write a side's batch as its next shard."""
    data = shards.pack([(p.key, p.files) for p in side.batch])
    storage.write(storage.join(output, side.folder, f"shard-{side.shards:06d}.tar"), data)
    side.shards += 1
    side.samples += len(side.batch)
    side.size += len(data)
    side.labels.update(p.label for p in side.batch if p.label is not None)
    side.batch, side.held = [], 0


def finish(output: str, classes: Sequence[str], tally: Tally) -> None:
    """Class names, quarantine and, last, the report. No times in it: the same input gives the same files."""
    storage.write_json(storage.join(output, "classes.json"), list(classes))
    outputs.write_quarantine(output, map(line, tally.bad))
    whole = Side(
        folder="",
        shards=sum(s.shards for s in tally.sides),
        samples=tally.samples,
        size=sum(s.size for s in tally.sides),
        labels=sum((s.labels for s in tally.sides), Counter()),
    )
    halves = {"train": tally.sides[0], "validation": tally.sides[-1]} if len(tally.sides) == 2 else {}
    report = {
        "job": "pack",
        **sums(whole, classes),
        **{name: sums(side, classes) for name, side in halves.items()},
        "quarantined": dict(Counter(b.reason for b in tally.bad)),
        "ignored": dict(tally.ignored),
        "left_out": tally.left_out,
        "broken_profiles": tally.broken_profiles,
    }
    storage.write_json(storage.join(output, "report.json"), report)
    outputs.say_broken_profiles(tally.broken_profiles)
    print(summary(output, classes, tally))
    outputs.say_quarantined(output)
    if tally.others:
        print(f"ignored: {outputs.some_of(tally.others, sum(tally.ignored.values()))}")
    missing = Counter(b.detail for b in tally.bad if b.reason == "no_decoder")
    for detail, number in sorted(missing.items()):
        print(f"{number} picture{'s' * (number > 1)}: {detail}")


def line(b: Quarantined) -> dict[str, str]:
    """A quarantined picture as quarantine.jsonl has it."""
    where = {"shard": b.shard} if b.shard else {}
    return {**where, "source": b.key, "reason": b.reason, "detail": b.detail[:300]}


def sums(side: Side, classes: Sequence[str]) -> Json:
    """Counts; a label without a class name is named by its number."""
    names = dict(enumerate(classes)) | {n: str(n) for n in side.labels if n >= len(classes)}
    counts = {name: side.labels[n] for n, name in names.items()}
    return {"samples": side.samples, "shards": side.shards, "bytes": side.size, "classes": counts}


def summary(output: str, classes: Sequence[str], tally: Tally) -> str:
    """What was packed, in a line."""
    count = max([len(classes), *(max(s.labels, default=-1) + 1 for s in tally.sides)])
    rest = f"{len(tally.bad)} quarantined, {sum(tally.ignored.values())} other files ignored"
    halves = "".join(f", {s.samples} in {s.folder}/" for s in tally.sides if len(tally.sides) == 2)
    left = f", {tally.left_out} of other labels left out" if tally.left_out else ""
    shards_written = sum(s.shards for s in tally.sides)
    return (
        f"packed {tally.samples} pictures in {shards_written} shards, {count} classes{halves} -> {output}"
        f" ({rest}{left})"
    )


def watched(results: Iterable[Packed | Quarantined], total: int | None) -> Iterator[Packed | Quarantined]:
    """The same results, with a progress bar on standard error where a person looks at it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("packing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        for result in results:
            yield result
            bar.advance(task)
