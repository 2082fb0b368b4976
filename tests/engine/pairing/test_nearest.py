"""Pairs against a full matrix in numpy, ties and duplicates included; groups keep their promises."""

import sys
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from tables import blocks, features

from noiseweave.engine.pairing import nearest as pairing
from noiseweave.engine.pairing.blocks import GRID
from noiseweave.engine.pairing.nearest import nearest, split_into_groups
from noiseweave.engine.pairing.recipes import PairingRecipe
from noiseweave.engine.pairing.selection import Known, select

top = partial(PairingRecipe, draw="top", max_uses=None, per_class=None, hash=None, upper=0.999)


def pairs(f, label, recipe, size, columns=None):
    found = [
        nearest(first, rows, own, blocks(f, label, columns or size)[::-1], recipe)
        for first, rows, own in blocks(f, label, size)
    ]
    a, b, similarity = (np.concatenate(x) for x in zip(*found, strict=True))
    selected = select((a, b, similarity), Known(label_N=label, hash_N=np.zeros(len(f), np.uint64)), recipe)
    return selected.a, selected.b, selected.similarity


def reference(f, label, recipe):
    """The whole matrix, row by row, in plain Python."""
    grid = np.rint(np.clip(f.astype(float) @ f.astype(float).T, -1, 1) * GRID).astype(int)
    low, high = round(recipe.threshold * GRID), round(recipe.upper * GRID)
    found = {}
    for i in range(len(f)):
        allowed = [
            j
            for j in range(len(f))
            if i != j and low <= grid[i, j] <= high and (recipe.classes == "any" or label[i] == label[j])
        ]
        for j in sorted(allowed, key=lambda j: (-grid[i, j], j))[: recipe.top_k]:
            found[min(i, j), max(i, j)] = grid[i, j] / GRID
    uses, kept = [0] * len(f), []
    for (i, j), s in sorted(found.items(), key=lambda item: (-item[1], item[0])):
        if recipe.max_uses is None or max(uses[i], uses[j]) < recipe.max_uses:
            uses[i], uses[j] = uses[i] + 1, uses[j] + 1
            kept.append((i, j, s))
    return kept[: recipe.max_pairs]


RECIPES = [
    top(threshold=0.7),
    top(threshold=0.7, classes="any"),
    top(threshold=-1, upper=1, classes="any", top_k=3),
    top(threshold=-1, upper=0.8, classes="any", top_k=7),
    top(threshold=0.99, upper=1, top_k=40),
    top(threshold=0.2, max_uses=2, classes="any"),
    top(threshold=0.2, max_uses=1, max_pairs=11),
    top(threshold=0.999999, upper=1, top_k=1, classes="any"),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
def test_blockwise_pairs_equal_the_full_matrix(recipe):
    f, label = features(160)
    expected = reference(f, label, recipe)
    assert len(expected) > 5
    for size, columns in ((160, 160), (64, 64), (7, 50), (160, 3)):
        low, high, similarity = pairs(f, label, recipe, size, columns)
        assert list(zip(low.tolist(), high.tolist(), similarity.tolist(), strict=True)) == expected


def test_pairs_do_not_depend_on_blocks_or_threads_even_where_all_is_alike():
    g = np.random.default_rng(3)
    f = 1 + 1e-3 * g.standard_normal((300, 96))  # similarities of a few grid steps: every rounding matters
    f = (f / np.linalg.norm(f, axis=1, keepdims=True)).astype(np.float32)
    label = np.zeros(300, int)
    recipe = top(upper=1, top_k=4)
    torch.set_num_threads(2)
    whole = pairs(f, label, recipe, 300)
    torch.set_num_threads(1)
    for size in (300, 128, 33):
        for one, other in zip(pairs(f, label, recipe, size), whole, strict=True):
            assert np.array_equal(one, other)


def test_near_duplicates_are_dropped_and_exact_ties_take_the_lower_row():
    f = np.eye(4, dtype=np.float32)[[0, 0, 0, 1]]
    f[3] = [0.9, np.sqrt(1 - 0.81), 0, 0]
    label = np.zeros(4, int)
    low, high, s = pairs(f, label, top(threshold=0.5, upper=0.99, top_k=1), 4)
    assert list(zip(low, high, strict=True)) == [(0, 3), (1, 3), (2, 3)]
    assert s == pytest.approx(0.9, abs=1e-6)
    low, high, _ = pairs(f, label, top(threshold=0.5, upper=1, top_k=1), 4)
    assert list(zip(low, high, strict=True)) == [(0, 1), (0, 2), (0, 3)]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_very_small_tables(n):
    f, label = np.ones((n, 1), np.float32), np.zeros(n, int)
    a, b, s = nearest(0, f, label, [(0, f, label)], top(upper=1))
    known = Known(label_N=np.zeros(n, np.int64), hash_N=np.arange(n, dtype=np.uint64))
    selected = select((a, b, s), known, top())
    low, high = selected.a, selected.b
    assert (low.tolist(), high.tolist()) == (([0], [1]) if n == 2 else ([], []))
    assert split_into_groups(low, high, PairingRecipe()) == ([[0]] if n == 2 else [])


def graph(kind, n=3000):
    g = np.random.default_rng(4)
    if kind == "hub":
        return np.zeros(n, int), np.arange(1, n + 1)
    if kind == "triangles":
        base = np.repeat(np.arange(n // 3) * 3, 3)
        return base + np.tile([0, 0, 1], n // 3), base + np.tile([1, 2, 2], n // 3)
    spread = 20 if kind == "clusters" else n // 5
    home = g.integers(n // 100, size=n) * 20 if kind == "clusters" else 0
    a, b = home + g.integers(spread, size=n), home + g.integers(spread, size=n)
    edges = np.unique(np.stack([np.minimum(a, b), np.maximum(a, b)], 1)[a != b], axis=0)
    return edges[:, 0], edges[:, 1]


@pytest.mark.parametrize("kind", ["hub", "triangles", "clusters", "random"])
@pytest.mark.parametrize(("images", "most"), [(64, 128), (2, 1), (10, 7), (5, 1000)])
def test_groups_hold_each_pair_once_within_their_bounds(kind, images, most):
    a, b = graph(kind)
    groups = split_into_groups(a, b, PairingRecipe(group_images=images, group_pairs=most))
    assert sorted(pair for pairs in groups for pair in pairs) == list(range(len(a)))
    for taken in groups:
        assert 0 < len(taken) <= most
        assert len(set(a[taken]) | set(b[taken])) <= images


def test_groups_share_images_where_pairs_cluster():
    a, b = graph("clusters")
    groups = split_into_groups(a, b, PairingRecipe())
    inverted = sum(len(set(a[taken]) | set(b[taken])) for taken in groups)
    assert inverted < 0.4 * 2 * len(a)


def test_grouping_takes_linear_work_around_a_hub():
    def lines(n):
        """Lines that group's file runs: no clock, so no neighbour on the machine matters."""
        seen = Counter()

        def count(frame, event, _):
            seen[event] += 1
            return count if frame.f_code.co_filename == pairing.__file__ else None

        before = sys.gettrace()
        sys.settrace(count)
        try:
            split_into_groups(*graph("hub", n), PairingRecipe())
        finally:
            sys.settrace(before)
        return seen["line"]

    assert lines(8_000) < 12 * lines(1_000)  # 8 times the pairs; quadratic would be 64
