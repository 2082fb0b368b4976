"""Partners over the whole range of similarity, drawn by seed: ``pairing.draw: range``.

The range from threshold to upper is cut into K equal parts, and of each part a picture gets one partner, the one whose
key is the highest. A pair's key is a hash of its rows and the seed, so what is drawn depends neither on blocks nor on
their order. Letters as in ``nearest``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from noiseweave.engine.pairing.blocks import GRID, SLACK, Block, may_pair, similarity_of
from noiseweave.engine.pairing.recipes import PairingRecipe
from noiseweave.engine.seeding import seed_of

ROWS = 256  # of a block whose candidates are held at once
LOW_32 = (1 << 32) - 1


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The partners so far; flat, row after row, a place for each part of the range.

    Attributes:
        key: int64 [R K], the partner's key and, in its low 32 bits, LOW_32 - its row; -1 for none.
        s: int64 [R K], similarity on the grid.
    """

    key: Tensor
    s: Tensor

    @staticmethod
    def none(rows: int, recipe: PairingRecipe, device: str) -> Drawn:
        """Nothing yet."""
        empty = torch.full((rows * recipe.top_k,), -1, dtype=torch.int64, device=device)
        return Drawn(key=empty, s=torch.zeros_like(empty))

    def pairs(self, recipe: PairingRecipe) -> tuple[Tensor, Tensor, Tensor]:
        """(position of the row in its block, partner's row, similarity on the grid), int64 [M] each."""
        place = (self.key >= 0).nonzero().squeeze(1)
        return place // recipe.top_k, LOW_32 - (self.key[place] & LOW_32), self.s[place]


def merge(rows: Block, columns: Block, drawn: Drawn, recipe: PairingRecipe, seed: int) -> Drawn:
    """Take a block's candidates in."""
    s_RC = rows.f_RD @ columns.f_RD.T
    for start in range(0, len(s_RC), ROWS):
        near = s_RC[start : start + ROWS]
        inside = (near >= recipe.threshold - SLACK) & (near <= recipe.upper + SLACK)
        r, c = inside.nonzero(as_tuple=True)
        s = near[r, c].double() * GRID
        r = r + start
        keep = may_pair(rows, columns, r, c, recipe)
        drawn = _take(rows, columns, (r[keep], c[keep], s[keep]), drawn, recipe, seed)
    return drawn


def _take(
    rows: Block,
    columns: Block,
    found: tuple[Tensor, Tensor, Tensor],
    drawn: Drawn,
    recipe: PairingRecipe,
    seed: int,
) -> Drawn:
    """Only what would win by its float32 similarity, and what may be in another part than that says, is looked at
    in float64.

    Args:
        found: positions in both blocks and float32 similarity on the grid, [M] each.
    """
    r, c, about = found
    low, high = round(recipe.threshold * GRID), round(recipe.upper * GRID)
    a, b = r + rows.first, c + columns.first
    key = (keys(a, b, seed) << 32) | (LOW_32 - b)
    width = (high - low + 1) / recipe.top_k
    position = (about - low) / width
    unsure = ((position - position.round()).abs() * width) < 2 * SLACK * GRID
    place = r * recipe.top_k + position.long().clamp(0, recipe.top_k - 1)
    wins = drawn.key.scatter_reduce(0, place[~unsure], key[~unsure], "amax")
    keep = unsure | (wins[place] == key)
    r, c, key = r[keep], c[keep], key[keep]
    s = similarity_of(rows, columns, r, c)
    keep = (s >= low) & (s <= high)
    r, s, key = r[keep], s[keep], key[keep]
    place = r * recipe.top_k + (s - low) * recipe.top_k // (high - low + 1)
    best = drawn.key.scatter_reduce(0, place, key, "amax")
    won = best[place] == key
    return Drawn(key=best, s=drawn.s.scatter(0, place[won], s[won]))


def keys(a: Tensor, b: Tensor, seed: int) -> Tensor:
    """A hash of unordered pairs of rows, int64 [M] in 0 .. 2**31 - 1: splitmix64's (Steele et al., OOPSLA 2014)."""
    x = torch.minimum(a, b) + seed_of(seed, "pairing")
    return _shifted(_mixed(_mixed(x) + torch.maximum(a, b)), 33)


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * (0xBF58476D1CE4E5B9 - (1 << 64))
    x = (x ^ _shifted(x, 27)) * (0x94D049BB133111EB - (1 << 64))
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right, with zeros coming in."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
