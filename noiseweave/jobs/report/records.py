"""JSON that a page reads, which anybody may have written: what is not of its kind is left out and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from noiseweave.cluster import storage
from noiseweave.cluster.ledger import finite
from noiseweave.engine.records import Json, JsonMapping

DEPTH = 12  # of nested values that a page shows
DEEPER = "... (nested deeper)"

Damage = Counter[str]
"""What is damaged and left out -> how many: done-markers, lines of quarantine.jsonl, ..."""


def objects(path: str, damage: Damage) -> Json:
    """A file's object; {} where there is none, or a damaged one."""
    if not storage.exists(path):
        return {}
    try:
        return shallow(storage.read_object(path))
    except (storage.Damaged, OSError):
        damage[path.rpartition("/")[2]] += 1
        return {}


def shallow(value: Json) -> Json:
    """The object without what is nested deeper than anything that a job writes."""
    return {name: _cut(inner, DEPTH) for name, inner in value.items()}


def _cut(value: object, depth: int) -> object:
    if not isinstance(value, dict | list):
        return value
    if depth == 0:
        return DEEPER
    if isinstance(value, list):
        return [_cut(inner, depth - 1) for inner in value]
    return {name: _cut(inner, depth - 1) for name, inner in value.items()}


def report_of(output: str, damage: Damage) -> Json:
    """A run's report.json, each field that a page reads of the kind that the job writes."""
    found = objects(storage.join(output, "report.json"), damage)
    wrong = [name for name, ok in FIELDS.items() if found.get(name) is not None and not ok(found[name])]
    damage["fields of report.json"] += len(wrong)
    return {name: value for name, value in found.items() if name not in wrong}


def said(damage: Damage) -> str:
    """In words, how much is left out; "" for nothing."""
    named = {name: n for name, n in damage.items() if n}
    if not named:
        return ""
    return f"{sum(named.values())} damaged and left out ({', '.join(f'{n} {name}' for name, n in named.items())})"


def count(value: object) -> bool:
    """Whether a value is a number of things."""
    return type(value) is int and finite(value) and value >= 0


def _counts(value: object) -> bool:
    return isinstance(value, dict) and all(map(count, value.values()))


def _texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _config(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("input", ""), str | None)


def _phases(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(one, dict) and finite(one.get("seconds", 0)) for one in value.values()
    )


def text_of(value: object) -> str:
    """A value that should be a text, as one of bounded length."""
    return str(value)[:300]


def objects_in(value: object) -> list[JsonMapping]:
    """The objects of a list; [] of anything else."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _subject(value: object) -> bool:
    return isinstance(value, dict) and finite(value.get("cosine")) and finite(value.get("of_held_out"))


FIELDS: dict[str, Callable[[object], bool]] = {
    "config": _config,
    "read_from": _texts,
    "quarantined": _counts,
    "rejected": _counts,
    "failed": lambda value: isinstance(value, dict),
    "phases": _phases,
    "subject": _subject,
    "seconds": finite,
    "sampler": lambda value: isinstance(value, str),
    "network_evaluations_per_picture": finite,
    **dict.fromkeys(
        ("images", "pairs", "asked", "not_made", "forgotten", "pair_ends", "images_inverted"), count
    ),
    **dict.fromkeys(("pictures", "copied"), count),
}
