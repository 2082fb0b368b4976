"""What a plan is made of: units with ids of their own, and what is said of a unit that is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A piece of work with a deterministic name: its output depends on (inputs, config, seed) alone."""

    index: int
    id: str
    payload: Any


@dataclass(frozen=True, kw_only=True)
class UnitReport:
    """What a unit tells the driver when it is done.

    Attributes:
        id: the unit's id.
        produced: things made (features, pairs, images).
        quarantined: reason -> count.
        seconds: wall time of fetch + compute + commit.
        spent: seconds of each of the three, by its name.
        worker: who computed it, as host/process.
        extra: small sums that the job adds up (images inverted, candidates seen, ...).
    """

    id: str
    produced: int
    quarantined: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    spent: Mapping[str, float] = field(default_factory=dict)
    worker: str = ""
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A length and a function index -> unit: a million units cost no memory."""

    length: int
    unit: Callable[[int], Unit]
