"""Blocks of rows of the feature table, and the exact similarity of their candidates; letters as in ``nearest``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine.pairing.recipes import PairingRecipe

GRID = 1 << 20
SLACK = 4 / GRID  # more than the rounding of a float32 product of two unit vectors
CHUNK = 2048  # candidates whose float64 products are held at once: few enough to stay in the cache


@dataclass(frozen=True, kw_only=True)
class Block:
    """Consecutive rows of the feature table: ``first`` row number, unit features [R, D] and labels [R]."""

    first: int
    f_RD: Tensor
    label_R: Tensor

    @staticmethod
    def of(first: int, f_RD: np.ndarray, label_R: np.ndarray, device: str) -> Block:
        """Of numpy rows and labels, on a device."""
        f, label = torch.from_numpy(np.array(f_RD)).to(device), torch.from_numpy(np.array(label_R)).to(device)
        return Block(first=first, f_RD=f, label_R=label)


def may_pair(rows: Block, columns: Block, r: Tensor, c: Tensor, recipe: PairingRecipe) -> Tensor:
    """bool [M]: not itself, and of the same class where that is asked for."""
    other = r + rows.first != c + columns.first
    return other & (rows.label_R[r] == columns.label_R[c]) if recipe.classes == "same_class" else other


def similarity_of(rows: Block, columns: Block, r: Tensor, c: Tensor) -> Tensor:
    """int64 [M]: the cosine on the grid, the same whatever the block was."""
    s = [
        torch.linalg.vecdot(rows.f_RD[i].double(), columns.f_RD[j].double())
        for i, j in zip(r.split(CHUNK), c.split(CHUNK), strict=True)
    ]
    return (torch.cat(s).clamp(-1, 1) * GRID).round().long()
