"""Which pictures a step has: a function of (seed, step) alone, known without reading anything."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from noiseweave.engine.pictures.crops import Size
from noiseweave.engine.seeding import seed_of


class Order:
    """Batches of pictures of one size, without end.

    Each size has an endless row of its pictures, shuffled anew in each pass, so that none is left out and none comes
    twice before all have come once. Which size a step has is drawn with the share of the pictures that it has.

    Args:
        sizes: of each picture.
        batch: pictures in a step.
        steps: how many there are.
        seed: of the order; other words in it make another order.
    """

    def __init__(self, sizes: Sequence[Size], batch: int, steps: int, seed: int) -> None:
        members: dict[Size, list[int]] = defaultdict(list)
        for i, size in enumerate(sizes):
            members[size].append(i)
        self.members = [np.array(members[size]) for size in sorted(members)]
        self.batch, self.seed = batch, seed
        share = np.array([len(m) for m in self.members]) / len(sizes)
        draw = np.random.default_rng(seed_of(seed, "sizes"))
        self.which = draw.choice(len(share), steps, p=share)
        self.nth = np.zeros(steps, np.int64)  # steps before this one that have its size
        for number in range(len(share)):
            here = np.flatnonzero(self.which == number)
            self.nth[here] = np.arange(len(here))
        self._pass = functools.lru_cache(maxsize=64)(self._shuffled)

    def _shuffled(self, number: int, turn: int) -> np.ndarray:
        return np.random.default_rng(seed_of(self.seed, "order", number, turn)).permutation(
            self.members[number]
        )

    def of(self, step: int) -> list[int]:
        """The pictures of a step, in the order of their places."""
        number = int(self.which[step])
        first, length = int(self.nth[step]) * self.batch, len(self.members[number])
        return [int(self._pass(number, at // length)[at % length]) for at in range(first, first + self.batch)]
