"""What went wrong, as the page shows it."""

from __future__ import annotations

from collections import Counter

from noiseweave.cluster import storage
from noiseweave.engine.records import Json, JsonMapping
from noiseweave.jobs.report.records import Damage

CHARACTERS = 1000  # of a failed unit's error
LINES = 500  # of quarantine.jsonl in the page, failed units, workers


def quarantine_table(output: str, damage: Damage) -> Json:
    """Counts of all reasons, and the first lines; damaged ones are passed over."""
    path = storage.join(output, "quarantine.jsonl")
    reasons: Counter[str] = Counter()
    rows: list[Json] = []
    if storage.exists(path):
        with storage.open_read(path) as f:
            for line in f:
                bad = _line(path, line)
                if bad is None:
                    damage["lines of quarantine.jsonl"] += 1
                    continue
                reasons[bad["reason"]] += 1
                if len(rows) < LINES:
                    rows.append(bad)
    return {"total": sum(reasons.values()), "reasons": reasons.most_common(), "rows": rows}


def _line(path: str, line: bytes) -> dict[str, str] | None:
    """What a line says, as text; None where it names no reason."""
    try:
        bad = storage.json_of(path, line)
    except storage.Damaged:
        return None
    if not isinstance(bad, dict) or not isinstance(bad.get("reason"), str):
        return None
    return {name: str(bad.get(name, ""))[:300] for name in COLUMNS}


def failed_units(report: JsonMapping) -> list[Json]:
    """Failed units with their errors; augment's are named phase by phase."""
    rows = []
    for name, value in (report.get("failed") or {}).items():
        nested = value.items() if isinstance(value, dict) else [("", value)]
        rows += [
            {"unit": f"{name} {unit}".strip(), "error": str(error)[:CHARACTERS]} for unit, error in nested
        ]
    return rows[:LINES]


COLUMNS = ("phase", "shard", "key", "reason", "detail")
