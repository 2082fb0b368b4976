"""What jobs leave in their output folders beside what they make: JSON lines, quarantine.jsonl, lines on the screen."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from noiseweave.cluster import storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.records import Json, JsonMapping

QUARANTINE = "quarantine.jsonl"
NAMED, LONGEST = 3, 100  # samples, or files, that a line on the screen names, and most characters of each


def json_lines(rows: Iterable[JsonMapping]) -> bytes:
    """A line of JSON for each row, UTF-8; what of a file's name is no text is written as its escape."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return text.encode("utf-8", "backslashreplace")


def read_json_lines(path: str) -> list[Json]:
    """The rows of a file that ``json_lines`` made."""
    return [json.loads(line) for line in storage.read(path).splitlines()]


def write_quarantine(output: str, rows: Iterable[JsonMapping]) -> Counter[str]:
    """quarantine.jsonl, a line for each quarantined sample, and with none an empty file; reason -> count.

    Args:
        rows: records.Quarantined as mappings, with whatever a job adds to say where a sample lies.
    """
    rows = list(rows)
    storage.write(storage.join(output, QUARANTINE), json_lines(rows))
    return Counter(str(row["reason"]) for row in rows)


def said_of_quarantine(output: str) -> str:
    """What quarantine.jsonl holds, for the screen: reasons, some samples by name, where all are; "" for nothing."""
    path = storage.join(output, QUARANTINE)
    said = said_of(read_json_lines(path))
    return f"{said}; see {path}" if said else ""


def said_of(rows: Sequence[JsonMapping]) -> str:
    """Reasons, and some samples by name, of records.Quarantined as mappings; "" for none."""
    if not rows:
        return ""
    counts = Counter(str(row["reason"]) for row in rows)
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(counts.items()))
    named = [f"{_plain(_name_of(row))} ({row['reason']})" for row in rows[:NAMED]]
    return f"{reasons}: {_and_more(named, len(rows))}"


def say_quarantined(output: str) -> None:
    """A line on the screen where something was quarantined."""
    if said := said_of_quarantine(output):
        print(f"quarantined: {said}")


def _name_of(row: JsonMapping) -> str:
    """A quarantined sample's name: its file's, or its key, after its shard where it has one."""
    shard = str(row.get("shard") or "").rpartition("/")[2]
    return "#".join(filter(None, (shard, str(row.get("source") or row.get("key") or ""))))


def some_of(names: Sequence[str], count: int) -> str:
    """The first NAMED names of so many files, for the screen."""
    return _and_more([_plain(name) for name in names[:NAMED]], count)


def _plain(name: str) -> str:
    """A name that a stranger gave, not longer than LONGEST and without what a terminal would obey."""
    short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in short)


def _and_more(names: Sequence[str], count: int) -> str:
    return ", ".join(names) + (f" and {count - len(names)} more" if count > len(names) else "")


def quarantined(book: Ledger, phase: str) -> Iterator[dict[str, str]]:
    """What the units of a phase quarantined, from their done-markers."""
    for record in book.records(phase):
        yield from record["bad"]


ORIGINALS = "originals"
"""The folder of an augment run's output with copies of its input's samples."""
PICTURES = "pictures"
"""The folder of an augment run's output with its samples as files, in class folders."""
ROWS = "rows"
"""In _run: the lines of metadata.jsonl that units made, in a folder for each that will have such a file."""
PACKED = "_run/packed/shards"
"""Shards of an augment run whose input was a folder of pictures."""
PACKED_POOL = "_run/packed-pool/shards"
"""The same of its pool."""
GUESSED = "guessed"
"""The folder of an augment run's output with copies of its pool's samples, with guessed labels."""
COPIED_FROM = "copied_from"
"""In the .json of such a copy: shard, key and sha256 of the sample that it was made from."""


def some(names: Iterable[str], most: int = 10) -> str:
    """The first names of several, for the screen."""
    known = list(names)
    return ", ".join(known[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")


def say_broken_profiles(count: int) -> None:
    """A line on the screen where colour profiles were of no use."""
    if count:
        print(f"{count} broken colour profiles ignored")


Kind = Literal["augmented", "rejected", "original", "guessed", "inpainted", "sample"]
SHARD = re.compile(r"([a-z]+)-(\d+)(?:-(\d+))?\.(?:tar|jsonl)")


@dataclass(frozen=True, kw_only=True)
class ShardName:
    """The name of a shard that a job wrote, or, with .jsonl at its end, of the lines of as many files.

    Attributes:
        kind: of its samples.
        unit: id of the unit that wrote it.
        group: of a window's several groups, its number; None elsewhere.
    """

    kind: Kind
    unit: str
    group: str | None = None

    def __str__(self) -> str:
        return f"{self.stem}.tar"

    @property
    def stem(self) -> str:
        """Without its extension."""
        return "-".join(filter(None, (self.kind, self.unit, self.group)))

    @classmethod
    def of(cls, path: str) -> ShardName | None:
        """The name at the end of a path; None where no job names a shard so."""
        found = SHARD.fullmatch(path.rpartition("/")[2])
        if found is None or found[1] not in get_args(Kind):
            return None
        return cls(kind=cast(Kind, found[1]), unit=found[2], group=found[3])

    @property
    def phase(self) -> str:
        """The phase whose unit wrote it."""
        fused = "generate" if self.group is None else "window"
        return {"original": "copy", "guessed": "keep", "inpainted": "inpaint", "sample": "sample"}.get(
            self.kind, fused
        )
