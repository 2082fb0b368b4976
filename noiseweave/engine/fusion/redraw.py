"""Pictures drawn until they pass: those that a gate rejects are drawn again, so many times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
        """Verdict -> pictures that stayed rejected."""
        return Counter(c.verdict for c in self.checks or () if c.verdict != "kept")


def redraw_rejected(
    pairs: Sequence[Pair],
    draw: Callable[[Sequence[Pair]], Fused],
    again: Callable[[Pair, int], Pair],
    check: Callable[[Sequence[Pair], Fused], list[QualityCheck]] | None,
    redraw: int,
) -> Redrawn:
    """Draw every pair, and those that the gate rejects again, up to ``redraw`` times."""
    pairs, fused = list(pairs), draw(pairs)
    if check is None:
        return Redrawn(pairs=pairs, fused=fused, checks=None, attempts=0)
    checks, attempts = check(pairs, fused), 0
    for attempt in range(1, redraw + 1):
        places = [i for i, c in enumerate(checks) if c.verdict != "kept"]
        if not places:
            break
        new = [again(pairs[i], attempt) for i in places]
        other, attempts = draw(new), attempts + len(new)
        image_PHWC, finite_P, areas = fused.image_PHWC.copy(), fused.finite_P.copy(), list(fused.areas)
        for n, (i, found) in enumerate(zip(places, check(new, other), strict=True)):
            pairs[i], checks[i], areas[i] = new[n], found, other.areas[n]
            image_PHWC[i], finite_P[i] = other.image_PHWC[n], other.finite_P[n]
        fused = Fused(image_PHWC=image_PHWC, finite_P=finite_P, areas=areas)
    return Redrawn(pairs=pairs, fused=fused, checks=checks, attempts=attempts)
