"""Pictures drawn until they pass: what is flagged is drawn once more, what a gate rejects so many times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from noiseweave.engine.fusion.groups import Fused
from noiseweave.engine.judging.quality import QualityCheck
from noiseweave.engine.records import Pair


@dataclass(frozen=True, kw_only=True)
class Redrawn:
    """What was drawn of P pairs, after the last attempt.

    Attributes:
        pairs: as they were drawn in the end.
        fused: their pictures.
        checks: of each; None without a gate.
        attempts: pictures drawn beyond the first of each pair.
    """

    pairs: Sequence[Pair]
    fused: Fused
    checks: Sequence[QualityCheck] | None
    attempts: int

    @property
    def rejected(self) -> Counter[str]:
        """Verdict -> pictures that stayed rejected; what is flagged, or not finite, is no picture and has none."""
        shown_P = self.fused.finite_P & ~self.fused.flagged_P
        verdicts = zip(self.checks or (), shown_P, strict=False)
        return Counter(c.verdict for c, shown in verdicts if c.verdict != "kept" and shown)


Check = Callable[[Sequence[Pair], Fused], list[QualityCheck]]


def redraw_rejected(
    pairs: Sequence[Pair],
    draw: Callable[[Sequence[Pair]], Fused],
    again: Callable[[Pair, int], Pair],
    check: Check | None,
    redraw: int,
) -> Redrawn:
    """Draw every pair: those that are flagged once more, and those that the gate rejects up to ``redraw`` times.

    A picture that is flagged again, or after the gate had it drawn again, stays flagged.
    """
    pairs, fused = list(pairs), draw(pairs)
    places = np.flatnonzero(fused.flagged_P).tolist()
    pairs, fused = _again(pairs, fused, places, draw, again)
    attempts = len(places)
    if check is None:
        return Redrawn(pairs=pairs, fused=fused, checks=None, attempts=attempts)
    checks = check(pairs, fused)
    for _ in range(redraw):
        places = [i for i, c in enumerate(checks) if c.verdict != "kept" and not fused.flagged_P[i]]
        if not places:
            break
        pairs, fused = _again(pairs, fused, places, draw, again)
        attempts += len(places)
        for i, found in zip(places, check([pairs[i] for i in places], _part(fused, places)), strict=True):
            checks[i] = found
    return Redrawn(pairs=pairs, fused=fused, checks=checks, attempts=attempts)


def _again(
    pairs: Sequence[Pair],
    fused: Fused,
    places: Sequence[int],
    draw: Callable[[Sequence[Pair]], Fused],
    again: Callable[[Pair, int], Pair],
) -> tuple[list[Pair], Fused]:
    """All pairs and their pictures, with those at some places drawn anew."""
    pairs = list(pairs)
    if not places:
        return pairs, fused
    for i in places:
        pairs[i] = again(pairs[i], pairs[i].attempt + 1)
    new = draw([pairs[i] for i in places])
    image_PHWC, areas = fused.image_PHWC.copy(), list(fused.areas)
    finite_P, flagged_P = fused.finite_P.copy(), fused.flagged_P.copy()
    image_PHWC[places], finite_P[places], flagged_P[places] = new.image_PHWC, new.finite_P, new.flagged_P
    for i, area in zip(places, new.areas, strict=True):
        areas[i] = area
    return pairs, Fused(image_PHWC=image_PHWC, finite_P=finite_P, flagged_P=flagged_P, areas=areas)


def _part(fused: Fused, places: Sequence[int]) -> Fused:
    """The pictures at some places."""
    return Fused(
        image_PHWC=fused.image_PHWC[places],
        finite_P=fused.finite_P[places],
        flagged_P=fused.flagged_P[places],
        areas=[fused.areas[i] for i in places],
    )
