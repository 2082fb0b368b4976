"""What a run says of its pairs: pictures used, pairs of each class, classes without one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.units import UnitReport
from noiseweave.engine.pairing.recipes import PairingRecipe
from noiseweave.engine.records import Json, JsonMapping
from noiseweave.jobs.reading.class_names import shown

if TYPE_CHECKING:
    from noiseweave.engine.pairing.selection import Selected

NAMED = 10  # classes without a pair that the screen names
UNLABELLED = "none"
SINGLE, NO_PICTURE = "1 picture, a pair needs 2", "no picture of it was read"


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Counts of the pairing of a data set, or of a window.

    Attributes:
        pictures, used: by label, those that there are and those that are in a pair. Of a window only pictures that the
            window before has not count as there; a picture that two windows use counts twice.
        pairs: by label, "0+3" for one across two classes.
        most_uses: pairs of the picture that is in most.
        near_duplicates: candidates that were dropped by their perceptual hashes.
    """

    pictures: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    pairs: dict[str, int] = field(default_factory=dict)
    most_uses: int = 0
    near_duplicates: int = 0


def count(label_N: np.ndarray, selected: Selected, shared: int = 0) -> Paired:
    """The counts of the pairs that were selected of N pictures; the first ``shared`` belong to the window before."""
    used, uses = np.unique(np.concatenate([selected.a, selected.b]), return_counts=True)
    ends = zip(label_N[selected.a].tolist(), label_N[selected.b].tolist(), strict=True)
    names = ("+".join(_name(y) for y in sorted({first, second})) for first, second in ends)
    return Paired(
        pictures=_tally(_name(y) for y in label_N[shared:].tolist()),
        used=_tally(_name(y) for y in label_N[used].tolist()),
        pairs=_tally(names),
        most_uses=int(uses.max(initial=0)),
        near_duplicates=selected.near_duplicates,
    )


def _tally(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _name(label: int) -> str:
    return UNLABELLED if label < 0 else str(label)


def added(report: UnitReport, about: Paired) -> UnitReport:
    """A window's report with the counts of its pairs."""
    tallies = {"pictures_of": about.pictures, "used_of": about.used, "pairs_of": about.pairs}
    return replace(
        report,
        extra={**report.extra, "near_duplicates": float(about.near_duplicates)},
        tallies={
            **report.tallies,
            "uses": {str(about.most_uses): 1},
            **{k: v for k, v in tallies.items() if v},
        },
    )


def of_windows(outcome: Outcome) -> Paired:
    """The counts of all windows together."""
    pictures, used, pairs, uses = (
        dict(outcome.tallies[name]) for name in ("pictures_of", "used_of", "pairs_of", "uses")
    )
    return Paired(
        pictures=pictures,
        used=used,
        pairs=pairs,
        most_uses=max(map(int, uses), default=0),
        near_duplicates=int(outcome.extra["near_duplicates"]),
    )


def fields(about: Paired, recipe: PairingRecipe, classes: Sequence[str] = ()) -> Json:
    """What report.json says of it.

    Args:
        classes: their names, where the input has them: those of which no picture was read are said, too.
    """
    threshold, upper = recipe.threshold, recipe.upper
    why = f"none selected: no similarity from {threshold} to {upper} (pairing.threshold, pairing.upper)"
    known = about.pictures | {str(k): 0 for k in range(len(classes)) if str(k) not in about.pictures}
    without = {
        name: NO_PICTURE if not n else SINGLE if n == 1 else f"{n} pictures, {why}"
        for name, n in known.items()
        if not about.used.get(name)
    }
    return {
        "pictures_used": sum(about.used.values()),
        "most_uses": about.most_uses,
        "near_duplicates": about.near_duplicates,
        "pairs_per_class": about.pairs,
        "classes_without_pairs": without,
    }


def rows(report: JsonMapping, classes: Sequence[str]) -> list[tuple[str, str]]:
    """What the screen says of it."""
    every = report["images"] + sum(report.get("pool", {}).get("guessed", {}).values())
    used = f"{report['pictures_used']} of {every}, each in at most {report['most_uses']} pairs"
    out = [("pictures used", used)]
    of_class = ", ".join(f"{_shown(name, classes)} {n}" for name, n in report["pairs_per_class"].items())
    labelled = set(report["pairs_per_class"]) - {UNLABELLED}
    out.append(("pairs", f"{report['pairs']}: {of_class}" if labelled else str(report["pairs"])))
    if report["near_duplicates"]:
        out.append(("near-duplicates", f"{report['near_duplicates']} pairs left out (pairing.hash)"))
    every_without = report["classes_without_pairs"]
    without = [(name, why) for name, why in every_without.items() if why != NO_PICTURE]
    out += [("without a pair", f"class {_shown(name, classes)}: {why}") for name, why in without[:NAMED]]
    if len(without) > NAMED:
        out.append(("", f"and {len(without) - NAMED} more classes, see report.json"))
    empty = [_shown(name, classes) for name, why in every_without.items() if why == NO_PICTURE]
    if empty:
        more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
        out.append(("without a picture", f"class {', '.join(empty[:NAMED])}{more}: none was read"))
    return out


def why_none(report: JsonMapping) -> str:
    """Why a run that did all its work has no pair."""
    without = report.get("classes_without_pairs", {}).values()
    if without and all(why in (SINGLE, NO_PICTURE) for why in without):
        return "no class has the 2 pictures that a pair needs"
    return "no pair was similar enough (pairing.threshold)"


def _shown(name: str, classes: Sequence[str]) -> str:
    return "+".join(shown(label, classes) for label in name.split("+"))
