"""What a plan is made of: units with ids of their own, and what is said of a unit that is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A piece of work with a deterministic name: its output depends on (inputs, config, seed) alone."""

    index: int
    id: str
    payload: Any


@dataclass(frozen=True, kw_only=True)
class UnitReport:
    """What is recorded of a unit when it is done.

    Attributes:
        id: the unit's id.
        produced: pictures, features or pairs made (features, pairs, images).
        quarantined: reason -> count.
        seconds: wall time of fetch + compute + commit.
        spent: seconds of each of the three, by its name.
        worker: who computed it, as host/process.
        extra: small sums that the job adds up (images inverted, candidates seen, ...).
        tallies: name -> key -> count, added up likewise (pictures by mode, rejections by verdict, ...).
    """

    id: str
    produced: int
    quarantined: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    spent: Mapping[str, float] = field(default_factory=dict)
    worker: str = ""
    extra: Mapping[str, float] = field(default_factory=dict)
    tallies: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A length and a function index -> unit: a million units cost no memory."""

    length: int
    unit: Callable[[int], Unit]

    @classmethod
    def of(cls, payloads: Sequence[object], ids: Sequence[str] | None = None) -> Plan:
        """A unit for each payload.

        Args:
            payloads: they travel to the workers, and can be computed when asked for: a range, say.
            ids: their units' ids; None numbers them with six digits.
        """
        return cls(length=len(payloads), unit=partial(_of, payloads, ids))


def _of(payloads: Sequence[object], ids: Sequence[str] | None, i: int) -> Unit:
    return Unit(index=i, id=f"{i:06d}" if ids is None else ids[i], payload=payloads[i])
