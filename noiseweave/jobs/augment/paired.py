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
TALLIES = {
    "pictures_of": "pictures",
    "used_of": "used",
    "pairs_of": "pairs",
    "candidates_of": "candidates_of",
    "left_out": "left_out",
    "quota_set_by": "set_by",
}
"""A window's tallies -> fields of ``Paired``."""
SINGLE, NO_PICTURE = "1 picture, a pair needs 2", "no picture of it was read"


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Counts of the pairing of a data set, or of a window.

    Attributes:
        pictures, used: by label, those that there are and those that are in a pair. Of a window only pictures that the
            window before has not count as there; a picture that two windows use counts twice.
        pairs: by label, "0+3" for one across two classes.
        most_uses: pairs of the picture that is in most.
        candidates, left_out: how many there were, and why -> how many of them are no pair, as ``Selected`` has it.
        candidates_of: by label, of two pictures each, as ``Selected`` has it.
        set_by: label of the class whose pairs were the balanced quota of all -> windows in which it was, or 1.
    """

    pictures: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    pairs: dict[str, int] = field(default_factory=dict)
    most_uses: int = 0
    candidates: int = 0
    candidates_of: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    set_by: dict[str, int] = field(default_factory=dict)


def count(label_N: np.ndarray, selected: Selected, shared: int = 0) -> Paired:
    """The counts of the pairs that were selected of N pictures; the first ``shared`` belong to the window before."""
    used, uses = np.unique(np.concatenate([selected.a, selected.b]), return_counts=True)
    ends = zip(label_N[selected.a].tolist(), label_N[selected.b].tolist(), strict=True)
    names = (class_of(*pair) for pair in ends)
    return Paired(
        pictures=_tally(_name(y) for y in label_N[shared:].tolist()),
        used=_tally(_name(y) for y in label_N[used].tolist()),
        pairs=_tally(names),
        most_uses=int(uses.max(initial=0)),
        candidates=selected.candidates,
        candidates_of={_name(y): n for y, n in selected.candidates_of.items()},
        left_out=dict(selected.left_out),
        set_by={} if selected.set_by is None else {_name(selected.set_by): 1},
    )


def class_of(first: int | None, second: int | None) -> str:
    """The class of a pair, of its pictures' labels (None or -1 for none): "0+3" for one across two classes."""
    labels = {-1 if label is None else label for label in (first, second)}
    return "+".join(map(_name, sorted(labels)))


def _tally(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _name(label: int) -> str:
    return UNLABELLED if label < 0 else str(label)


def added(report: UnitReport, about: Paired) -> UnitReport:
    """A window's report with the counts of its pairs."""
    tallies = {name: dict(getattr(about, field)) for name, field in TALLIES.items()}
    return replace(
        report,
        extra={**report.extra, "candidates": float(about.candidates)},
        tallies={
            **report.tallies,
            "uses": {str(about.most_uses): 1},
            **{k: v for k, v in tallies.items() if v},
        },
    )


def of_windows(outcome: Outcome) -> Paired:
    """The counts of all windows together."""
    return Paired(
        **{field: dict(outcome.tallies[name]) for name, field in TALLIES.items()},
        most_uses=max(map(int, outcome.tallies["uses"]), default=0),
        candidates=int(outcome.extra["candidates"]),
    )


def fields(about: Paired, recipe: PairingRecipe, classes: Sequence[str] = ()) -> Json:
    """What report.json says of it.

    Args:
        classes: their names, where the input has them: those of which no picture was read are said, too.
    """
    known = about.pictures | {str(k): 0 for k in range(len(classes)) if str(k) not in about.pictures}
    without = {
        name: _why_without(about, recipe, name, n) for name, n in known.items() if not about.used.get(name)
    }
    return {
        "pictures_used": sum(about.used.values()),
        "most_uses": about.most_uses,
        "candidates": about.candidates,
        "left_out": {name: n for name, n in about.left_out.items() if n},
        "pairs_per_class": about.pairs,
        "classes_without_pairs": without,
        **({"quota_set_by": about.set_by} if about.set_by else {}),
    }


def _why_without(about: Paired, recipe: PairingRecipe, name: str, n: int) -> str:
    """Why a class of n pictures has no pair."""
    if n < 2:
        return SINGLE if n else NO_PICTURE
    if found := about.candidates_of.get(name):
        return f"{n} pictures, none of its {found} candidates selected (left_out says why candidates are not)"
    between = f"from {recipe.threshold} to {recipe.upper}"
    return f"{n} pictures, no similarity {between} (pairing.threshold, pairing.upper)"


def rows(report: JsonMapping, recipe: PairingRecipe, classes: Sequence[str]) -> list[tuple[str, str]]:
    """What the screen says of it."""
    every = report["images"] + sum(report.get("pool", {}).get("guessed", {}).values())
    most = report["most_uses"]
    used = f"{report['pictures_used']} of {every}, each in at most {most} {'pair' if most == 1 else 'pairs'}"
    out = [("pictures used", used)]
    out.append(("pairs", by_class(report["pairs"], report["pairs_per_class"], classes)))
    if report["left_out"]:
        out.insert(1, ("candidates", _candidates(report, recipe)))
    if report["left_out"].get("per_class"):
        out.append(("quota", _quota(report, recipe, classes)))
    every_without = report["classes_without_pairs"]
    without = [(name, why) for name, why in every_without.items() if why != NO_PICTURE]
    out += [("without a pair", f"class {named(name, classes)}: {why}") for name, why in without[:NAMED]]
    if len(without) > NAMED:
        out.append(("", f"and {len(without) - NAMED} more classes, see report.json"))
    empty = [named(name, classes) for name, why in every_without.items() if why == NO_PICTURE]
    if empty:
        more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
        out.append(("without a picture", f"class {', '.join(empty[:NAMED])}{more}: none was read"))
    return out


def by_class(count: int, of_class: JsonMapping, classes: Sequence[str]) -> str:
    """How many, and how many of each class where there are classes."""
    each = ", ".join(f"{named(name, classes)} {n}" for name, n in of_class.items())
    return f"{count}: {each}" if set(of_class) - {UNLABELLED} else str(count)


def _candidates(report: JsonMapping, recipe: PairingRecipe) -> str:
    """How many candidates there were, and why some are no pair."""
    words = {
        "both_ends": "found from both ends",
        "near_duplicates": f"near-duplicates (pairing.hash {recipe.hash})",
        "max_uses": f"beyond pairing.max_uses {recipe.max_uses}",
        "per_class": "beyond the quota",
        "max_pairs": f"beyond pairing.max_pairs {recipe.max_pairs}",
    }
    left_out = report["left_out"]
    why = ", ".join(f"{left_out[name]} {text}" for name, text in words.items() if left_out.get(name))
    return f"{report['candidates']}, left out: {why}"


def _quota(report: JsonMapping, recipe: PairingRecipe, classes: Sequence[str]) -> str:
    """That the quota was the limit, which class set it, and what to change."""
    lost = f"{report['left_out']['per_class']} candidates left out by pairing.per_class {recipe.per_class}"
    if recipe.per_class != "balanced":
        return f"{lost}, the most of a class; a higher number keeps more, null all"
    by = max(report["quota_set_by"], key=lambda name: report["quota_set_by"][name])
    name = f"class {named(by, classes)}"
    held = f"no class has more than the {report['pairs_per_class'][by]} of {name}"
    if recipe.scope == "window":
        held = f"in a window no class has more than the one with the fewest, most often {name}"
    more = f"a lower --pairing.threshold or more pictures make more of {name}"
    return f"{lost}: {held}; --pairing.per_class null keeps them, {more}"


def why_none(report: JsonMapping) -> str:
    """Why a run that did all its work has no pair."""
    without = report.get("classes_without_pairs", {}).values()
    if without and all(why in (SINGLE, NO_PICTURE) for why in without):
        return "no class has the 2 pictures that a pair needs"
    return "no pair was similar enough (pairing.threshold)"


def named(name: str, classes: Sequence[str]) -> str:
    """A ``class_of`` by the classes' names, where they have some."""
    return "+".join(shown(label, classes) for label in name.split("+"))
