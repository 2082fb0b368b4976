"""What went wrong, as the page shows it."""

from __future__ import annotations

import json
from collections import Counter

from noiseweave.cluster import storage
from noiseweave.engine.records import Json, JsonMapping

LINES = 500  # of quarantine.jsonl in the page, failed units, workers


def quarantine_table(output: str, report: JsonMapping) -> Json:
    """Counts of all reasons, and the first lines."""
    path = storage.join(output, "quarantine.jsonl")
    reasons: Counter[str] = Counter()
    rows: list[Json] = []
    if storage.exists(path):
        with storage.open_read(path) as f:
            for line in f:
                bad = json.loads(line)
                reasons[str(bad["reason"])] += 1
                if len(rows) < LINES:
                    rows.append({name: str(bad.get(name, ""))[:300] for name in COLUMNS})
    return {"total": sum(reasons.values()), "reasons": reasons.most_common(), "rows": rows}


def failed_units(report: JsonMapping) -> list[Json]:
    """Failed units with their errors; augment's are named phase by phase."""
    rows = []
    for name, value in (report.get("failed") or {}).items():
        nested = value.items() if isinstance(value, dict) else [("", value)]
        rows += [{"unit": f"{name} {unit}".strip(), "error": str(error)} for unit, error in nested]
    return rows[:LINES]


COLUMNS = ("phase", "shard", "key", "reason", "detail")
