"""A partner from each part of the range: against the whole matrix in plain Python, and not only from the top."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from tables import blocks, features

from noiseweave.engine.pairing import drawing
from noiseweave.engine.pairing.blocks import GRID
from noiseweave.engine.pairing.nearest import nearest
from noiseweave.engine.pairing.recipes import PairingRecipe


def drawn(f, label, recipe, size, columns, seed):
    found = [
        nearest(first, rows, own, blocks(f, label, columns)[::-1], recipe, "cpu", seed)
        for first, rows, own in blocks(f, label, size)
    ]
    a, b, s = (np.concatenate(x) for x in zip(*found, strict=True))
    return set(zip(a.tolist(), b.tolist(), s.tolist(), strict=True))


def reference(f, label, recipe, seed):
    """The whole matrix: of each row's allowed partners in a part of the range, the one with the highest key."""
    grid = np.rint(np.clip(f.astype(float) @ f.astype(float).T, -1, 1) * GRID).astype(int)
    low, high = round(recipe.threshold * GRID), round(recipe.upper * GRID)
    parts = defaultdict(list)
    for i in range(len(f)):
        for j in range(len(f)):
            if i != j and low <= grid[i, j] <= high and (recipe.classes == "any" or label[i] == label[j]):
                key = int(drawing.keys(torch.tensor([i]), torch.tensor([j]), seed))
                parts[i, (grid[i, j] - low) * recipe.top_k // (high - low + 1)].append((key, -j))
    return {(i, -max(some)[1], grid[i, -max(some)[1]] / GRID) for (i, _), some in parts.items()}


RECIPES = [
    {"threshold": 0.3, "upper": 0.95},
    {"threshold": 0.3, "upper": 1.0, "classes": "any", "top_k": 3},
    {"threshold": -1, "upper": 1, "classes": "any", "top_k": 40},
    {"threshold": 0.5, "upper": 0.5, "top_k": 1},
]


@pytest.mark.parametrize("how", RECIPES, ids=range(len(RECIPES)))
def test_draw_equals_the_full_matrix_whatever_the_blocks(how):
    f, label = features(120)
    recipe = PairingRecipe(**how)
    expected = reference(f, label, recipe, 7)
    for size, columns in ((120, 120), (64, 64), (7, 50), (120, 3)):
        assert drawn(f, label, recipe, size, columns, 7) == expected
    assert how["threshold"] == 0.5 or drawn(f, label, recipe, 64, 64, 8) != expected


def test_partners_come_from_the_whole_range_and_not_its_top():
    g = np.random.default_rng(0)
    f = g.standard_normal((400, 8)).astype(np.float32)
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    label = np.zeros(400, np.int64)
    of = {draw: PairingRecipe(threshold=0.3, upper=0.8, draw=draw) for draw in ("range", "top")}
    spread = {draw: [s for *_, s in drawn(f, label, recipe, 400, 400, 0)] for draw, recipe in of.items()}
    shares, _ = np.histogram(spread["range"], bins=5, range=(0.3, 0.8))
    assert shares.min() > 300  # nearly every picture has one in every fifth of the range
    assert np.mean(spread["top"]) > 0.65 > np.mean(spread["range"])


def test_keys_are_of_unordered_pairs_and_spread_evenly():
    a, b = torch.meshgrid(torch.arange(200), torch.arange(200), indexing="ij")
    key = drawing.keys(a.flatten(), b.flatten(), 3).view(200, 200)
    assert torch.equal(key, key.T)
    upper = key[torch.triu(torch.ones(200, 200, dtype=torch.bool))]
    assert int(upper.min()) >= 0
    assert len(upper.unique()) >= len(upper) - 2
    shares = torch.histc(upper.double(), 16, 0, 2**31) / len(upper)
    assert float((shares - 1 / 16).abs().max()) < 0.01
