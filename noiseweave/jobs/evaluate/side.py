"""One of two sets: what has been read of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from noiseweave.cluster.arrays import load_npy
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.judging.set_metrics import InceptionScore, Moments
from noiseweave.engine.seeding import seed_of


@dataclass(frozen=True, kw_only=True)
class Side:
    """The features of a set: its units' files, in the order of the units.

    Attributes:
        rows: (unit id, rows) of the units that have rows.
        n: rows in all.
        colour: pictures with any colour in them.
    """

    name: str
    book: Ledger
    rows: tuple[tuple[str, int], ...]
    n: int
    colour: int

    @classmethod
    def of(cls, name: str, book: Ledger) -> Side:
        """What the features phase left of a set."""
        records = [r for r in book.records("features") if r["id"].startswith(f"{name}-")]
        rows = tuple((r["id"], r["produced"]) for r in records if r["produced"])
        colour = sum(int(r["extra"]["colour"]) for r in records)
        return cls(name=name, book=book, rows=rows, n=sum(n for _, n in rows), colour=colour)

    def parts(self, kind: str = "features") -> Iterator[np.ndarray]:
        """The arrays of its units, one after another: features, or class probabilities."""
        return (load_npy(self.book.path(kind, f"{unit}.npy")) for unit, _ in self.rows)

    def moments(self) -> Moments:
        """Sums over all units, added in their order."""
        return _summed(Moments.of, self.parts())

    def score(self) -> InceptionScore:
        """The sums of the inception score."""
        return _summed(InceptionScore.of, self.parts("probabilities"))

    def sample(self, most: int, seed: int, kind: str = "features") -> np.ndarray:
        """At most so many rows: the same ones of every kind."""
        keep = np.ones(self.n, bool)
        if self.n > most:
            draw = np.random.default_rng(seed_of(seed, "sample", self.name))
            keep = np.zeros(self.n, bool)
            keep[draw.choice(self.n, most, replace=False)] = True
        ends = np.cumsum([n for _, n in self.rows])[:-1]
        parts = zip(self.parts(kind), np.split(keep, ends), strict=True)
        return np.concatenate([np.asarray(f_ND[k]) for f_ND, k in parts])


def _summed(of: Callable[[np.ndarray], Any], parts: Iterator[np.ndarray]) -> Any:
    total = None
    for part in parts:
        total = of(part) if total is None else total + of(part)
    return total
