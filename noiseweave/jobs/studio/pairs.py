"""The controls of the tab Pairs -> augment's pairing, and the pairs that it makes of the input's features."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np

from noiseweave.engine.pairing.recipes import PairingRecipe
from noiseweave.engine.records import JsonMapping
from noiseweave.jobs.augment import paired
from noiseweave.jobs.augment.paired import Paired
from noiseweave.jobs.reading.class_names import shown
from noiseweave.jobs.studio.values import number, one_of, whole

if TYPE_CHECKING:
    from noiseweave.engine.pairing.selection import Candidates, Selected
    from noiseweave.jobs.studio.features import Table

CONTROLS = (
    *("threshold", "upper", "top_k", "max_uses", "quota", "per_class"),
    *("draw", "pair_classes", "max_pairs"),
)
"""Names of the controls, in the order that the page sends them."""
Draw = Literal["range", "top"]
Classes = Literal["same_class", "any"]
QUOTAS = ("balanced", "none", "number")
KEPT = 4
"""Settings of which the candidates are kept."""
BINS = 50
"""Of a histogram of similarities, over the range from -1 to 1."""
ROWS = 512
"""Rows of the similarity matrix that are held at once."""


def recipe_of(controls: JsonMapping) -> PairingRecipe:
    """What the controls say; 0 of the uses and of the pairs sets no bound.

    Args:
        controls: value of each of CONTROLS, as a browser sent it.

    Raises:
        ValueError: one line: a value that is not allowed.
    """
    quota = one_of(controls, "quota", QUOTAS)
    balanced: Literal["balanced"] = "balanced"
    per_class = {"balanced": balanced, "none": None}.get(quota, whole(controls, "per_class"))
    return PairingRecipe(
        threshold=number(controls, "threshold"),
        upper=number(controls, "upper"),
        top_k=whole(controls, "top_k"),
        max_uses=whole(controls, "max_uses") or None,
        per_class=per_class,
        draw=cast(Draw, one_of(controls, "draw", get_args(Draw))),
        classes=cast(Classes, one_of(controls, "pair_classes", get_args(Classes))),
        max_pairs=whole(controls, "max_pairs") or None,
    )


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The pairs of some settings.

    Attributes:
        selected: rows and similarities, as augment selects them.
        about: augment's own counts.
        uses_N: pairs of each picture.
    """

    selected: Selected
    about: Paired
    uses_N: np.ndarray

    @property
    def count(self) -> int:
        """How many pairs."""
        return len(self.selected.a)

    @property
    def unused(self) -> int:
        """Pictures in no pair."""
        return int((self.uses_N == 0).sum())

    def ends(self, each: int) -> tuple[list[int], list[int]]:
        """Numbers of the least and of the most similar pairs, no pair twice; the least and the most similar first."""
        order = np.argsort(self.selected.similarity, kind="stable").tolist()
        low = order[:each]
        return low, order[len(low) :][::-1][:each]


class Pairing:
    """The pairs of a table, by the functions that augment calls; candidates of the last settings are kept."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self._candidates: OrderedDict[tuple[object, ...], Candidates] = OrderedDict()
        self._near: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def choose(self, recipe: PairingRecipe, seed: int) -> Chosen:
        """What augment pairs of these pictures."""
        from noiseweave.engine.pairing import selection

        table = self.table
        known = selection.Known(label_N=table.label_N, hash_N=table.hash_N)
        selected = selection.select(self._found(recipe, seed), known, recipe, seed)
        uses_N = np.bincount(np.concatenate([selected.a, selected.b]).astype(np.int64), minlength=len(table))
        return Chosen(selected=selected, about=paired.count(table.label_N, selected), uses_N=uses_N)

    def _found(self, recipe: PairingRecipe, seed: int) -> Candidates:
        """The candidates, made anew where what they depend on has changed."""
        from noiseweave.engine.networks.tuning import pick_device
        from noiseweave.engine.pairing import nearest

        drawn = seed if recipe.draw == "range" else 0
        key = (recipe.threshold, recipe.upper, recipe.top_k, recipe.draw, recipe.classes, drawn)
        with self._lock:
            if key in self._candidates:
                self._candidates.move_to_end(key)
                return self._candidates[key]
        table, step = self.table, recipe.block
        blocks = [
            (i, table.f_ND[i : i + step], table.label_N[i : i + step]) for i in range(0, len(table), step)
        ]
        parts = [nearest.nearest(*rows, blocks, recipe, pick_device(), seed) for rows in blocks]
        a, b, similarity = (np.concatenate(column) for column in zip(*parts, strict=True))
        with self._lock:
            self._candidates[key] = a, b, similarity
            while len(self._candidates) > KEPT:
                self._candidates.popitem(last=False)
        return a, b, similarity

    def histogram(self, classes: str) -> np.ndarray:
        """int64 [BINS], of the similarities of all pairs that the classes allow, near-duplicates among them."""
        with self._lock:
            if classes not in self._near:
                self._near[classes] = self._histogram(classes == "same_class")
            return self._near[classes]

    def _histogram(self, same: bool) -> np.ndarray:
        f_ND, label_N = self.table.f_ND, self.table.label_N
        counts = np.zeros(BINS, np.int64)
        for start in range(0, len(f_ND) - 1, ROWS):
            s_RN = f_ND[start : start + ROWS] @ f_ND[start:].T
            row, column = np.triu_indices(len(s_RN), 1, s_RN.shape[1])
            keep = label_N[start + row] == label_N[start + column] if same else slice(None)
            counts += binned(s_RN[row, column][keep])
        return counts


def binned(similarity: np.ndarray) -> np.ndarray:
    """int64 [BINS]."""
    return np.histogram(np.clip(similarity, -1, 1), bins=BINS, range=(-1, 1))[0]


def uses(uses_N: np.ndarray, most: int = 20) -> list[tuple[int, int]]:
    """(pairs, pictures that are in so many), from 0 on; from ``most`` pairs on all together."""
    counts = np.bincount(np.minimum(uses_N, most))
    return list(enumerate(counts.tolist()))


def by_class(chosen: Chosen, classes: tuple[str, ...], most: int = 12) -> list[tuple[str, int, int, int]]:
    """(class, pairs, pictures used, pictures) of each class, or of two together; the rest in a last row, named ""."""
    about = chosen.about
    names = [*about.pictures, *(name for name in about.pairs if name not in about.pictures)]
    names.sort(key=lambda name: -about.pairs.get(name, 0))
    counted = [
        (
            _shown(name, classes),
            about.pairs.get(name, 0),
            about.used.get(name, 0),
            about.pictures.get(name, 0),
        )
        for name in names
    ]
    kept, rest = counted[:most], counted[most:]
    if not rest:
        return kept
    _, in_pairs, used, pictures = zip(*rest, strict=True)
    return [*kept, ("", sum(in_pairs), sum(used), sum(pictures))]


def _shown(name: str, classes: tuple[str, ...]) -> str:
    return "+".join(shown(label, classes) for label in name.split("+"))
