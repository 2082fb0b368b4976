"""What jobs leave in their output folders beside what they make: JSON lines, quarantine.jsonl, lines on the screen."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from noiseweave.cluster import storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.records import JsonMapping

QUARANTINE = "quarantine.jsonl"


def json_lines(rows: Iterable[JsonMapping]) -> bytes:
    """A line of JSON for each row, UTF-8; what of a file's name is no text is written as its escape."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return text.encode("utf-8", "backslashreplace")


def write_quarantine(output: str, rows: Iterable[JsonMapping]) -> Counter[str]:
    """quarantine.jsonl, a line for each quarantined sample, and with none an empty file; reason -> count.

    Args:
        rows: records.Quarantined as mappings, with whatever a job adds to say where a sample lies.
    """
    rows = list(rows)
    storage.write(storage.join(output, QUARANTINE), json_lines(rows))
    return Counter(str(row["reason"]) for row in rows)


def quarantined(book: Ledger, phase: str) -> Iterator[dict[str, str]]:
    """What the units of a phase quarantined, from their done-markers."""
    for record in book.records(phase):
        yield from record["bad"]


def failures(failed: Mapping[str, str]) -> Iterator[str]:
    """A line for each failed unit, unit id -> error, and what to do about them."""
    yield from (f"failed: unit {unit}: {error}" for unit, error in failed.items())
    if failed:
        yield "run the same command again to try the failed units once more"
