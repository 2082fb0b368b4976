"""Pictures drawn until they pass: what is flagged is drawn once more, what a gate rejects so many times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from noiseweave.engine import spans
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


FIRST = 0.5  # with a gate, share of the time that drawing and checking everything once takes, about
DRAWN = 0.8  # and of that the share of drawing
Check = Callable[[Sequence[Pair], Fused], list[QualityCheck]]


def redraw_rejected(
    pairs: Sequence[Pair],
    draw: Callable[[Sequence[Pair]], Fused],
    again: Callable[[Pair, int], Pair],
    check: Check | None,
    redraw: int,
) -> Redrawn:
    """Draw every pair: those that are flagged once more, and those that the gate rejects up to ``redraw`` times.

    A picture that is flagged again, or after the gate had it drawn again, stays flagged. Of what is at hand (``spans``)
    the first draw is a part only, and each further one half of what is left, the last one all: how much will be drawn
    again is not known before.
    """
    done, drawn = FIRST if check and redraw else 1.0, DRAWN if check else 1.0
    with spans.span(0, done):
        with spans.span(0, drawn):
            pairs, fused = list(pairs), draw(pairs)
        places = np.flatnonzero(fused.flagged_P).tolist()
        attempts = len(places)
        with spans.span(drawn, 1):
            pairs, fused = _again(pairs, fused, places, draw, again)
            checks = None if check is None else check(pairs, fused)
    if check is None or checks is None:
        return Redrawn(pairs=pairs, fused=fused, checks=None, attempts=attempts)
    for n in range(redraw):
        places = [i for i, c in enumerate(checks) if c.verdict != "kept" and not fused.flagged_P[i]]
        if not places:
            break
        start, done = done, 1.0 if n == redraw - 1 else (1 + done) / 2
        attempts += len(places)
        with spans.span(start, done):
            with spans.span(0, DRAWN):
                pairs, fused = _again(pairs, fused, places, draw, again)
            with spans.span(DRAWN, 1):
                found = check([pairs[i] for i in places], _part(fused, places))
        for i, one in zip(places, found, strict=True):
            checks[i] = one
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
