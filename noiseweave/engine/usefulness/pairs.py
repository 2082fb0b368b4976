"""Which pictures are made of which: parents, how many of each class, the pairs. N parents, M made ones, K classes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, cycle, islice

import numpy as np

from noiseweave.engine.fusion import groups
from noiseweave.engine.records import Pair
from noiseweave.engine.seeding import rng
from noiseweave.engine.usefulness.data import Pictures
from noiseweave.engine.usefulness.recipes import Method


def sure_of(pool: Pictures) -> Pictures:
    """What of the pool has a guess."""
    sure = pool.label_N >= 0
    return Pictures(image_NHWC=pool.image_NHWC[sure], label_N=pool.label_N[sure])


def parents_of(method: Method, few: Pictures, pool: Pictures | None) -> Pictures:
    """The few; with ``parents: guessed`` also what has a guess of the pool."""
    if method.parents == "few":
        return few
    assert pool is not None
    more = sure_of(pool)
    return Pictures(
        image_NHWC=np.concatenate([few.image_NHWC, more.image_NHWC]),
        label_N=np.concatenate([few.label_N, more.label_N]),
    )


def quotas(weight_K: np.ndarray, count: int) -> list[int]:
    """``count`` shared out by weights: whole numbers, those with the largest remainders rounded up."""
    exact_K = count * weight_K / weight_K.sum()
    whole_K = np.floor(exact_K).astype(int)
    for k in np.argsort(-(exact_K - whole_K), kind="stable")[: count - whole_K.sum()]:
        whole_K[k] += 1
    return whole_K.tolist()


def labels_of(weight_K: np.ndarray, count: int) -> np.ndarray:
    """int64 [count]: so many of each class as ``quotas`` has it, the classes in turn."""
    counts = quotas(weight_K, count)
    place_M = np.concatenate([(np.arange(n) + 1) / n for n in counts if n])
    label_M = np.repeat(np.arange(len(counts)), counts)
    return label_M[np.argsort(place_M, kind="stable")].astype(np.int64)


def pairs_of(method: Method, parents: Pictures, seed: int, weight_K: np.ndarray) -> list[Pair]:
    """``count`` draws of pairs; in a class every pair as often as its others or once more, in an order of chance.

    Args:
        weight_K: how much of what is made is of each class; says nothing of pairs of any two.

    Raises:
        ValueError: there is no pair.
    """
    piles = _piles(method, parents.label_N, len(weight_K))
    there = np.array([bool(pile) for pile in piles])
    if not there.any():
        raise ValueError(f"methods.pairs={method.pairs!r}: no two of the parents are a pair")
    weights = np.ones(1) if len(piles) == 1 else weight_K * there
    drawn = []
    for pile, count in zip(piles, quotas(weights, method.count), strict=True):
        rng(seed, "pairs").shuffle(pile)
        drawn += [(ends, n // len(pile)) for n, ends in enumerate(islice(cycle(pile), count))]
    rng(seed, "pairs").shuffle(drawn)
    return [draw(method, ends, seed, (number, 0)) for ends, number in drawn]


def _piles(method: Method, label_N: np.ndarray, classes: int) -> list[list[tuple[int, int]]]:
    """Pairs to draw from: of each class, or all of any two. A variation is of one picture, twice."""
    rows = [np.flatnonzero(label_N == k).tolist() for k in range(classes)]
    if method.made == "variations":
        return [[(i, i) for i in some] for some in rows]
    if method.pairs == "any":
        return [list(combinations(range(len(label_N)), 2))]
    return [list(combinations(some, 2)) for some in rows]


def draw(method: Method, ends: tuple[int, int], seed: int, turn: tuple[int, int]) -> Pair:
    """A draw of two parents, by their numbers; ``turn`` as of ``groups.draw_pair``."""
    a, b = sorted(ends)
    return groups.draw_pair((a, b), (str(a), str(b)), 0.0, method.fusion, seed, turn=turn)


def skip_of(method: Method, pair: Pair, seed: int) -> int:
    """The steps that are left out for a pair: one of the method's, the same in each attempt."""
    a, b = sorted((pair.a, pair.b))
    return rng(seed, "skip", a, b, pair.number).choice(method.skips or (method.inversion.skip,))


def label_shares(some: Sequence[Pair], parents: Pictures, classes: int, hard: bool) -> np.ndarray:
    """float32 [M, K]: the parents' labels by their weights, or the larger alone."""
    one_NK = np.eye(classes, dtype=np.float32)[parents.label_N]
    ratio = np.array([p.ratio for p in some], np.float32)[:, None]
    p_MK = (1 - ratio) * one_NK[[p.a for p in some]] + ratio * one_NK[[p.b for p in some]]
    return np.eye(classes, dtype=np.float32)[p_MK.argmax(1)] if hard else p_MK
