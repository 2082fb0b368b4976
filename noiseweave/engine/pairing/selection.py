"""Candidates of all blocks -> the pairs that are fused: each once, no near-duplicates, within uses and quotas.

M candidates, N pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from noiseweave.engine.pairing import drawing
from noiseweave.engine.pairing.recipes import PairingRecipe
from noiseweave.engine.seeding import seed_of

SMALL = 4  # a class with less than the median class's pairs over this holds no other back
Candidates = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rows of the first and of the second picture, int64 [M], and their similarity, float64 [M]."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of the N pictures.

    Attributes:
        label_N: int64, -1 for none.
        hash_N: uint64, see ``pictures.hashing``.
    """

    label_N: np.ndarray
    hash_N: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Selected:
    """Pairs of rows a < b with their similarity, in the order of selection.

    Attributes:
        candidates: that there were; those in ``left_out`` and the pairs are their sum.
        candidates_of: label -> two pictures, of which one or both have it, that were candidates, where there are any.
        left_out: why -> candidates that are no pair: both_ends (the same two pictures, found from the other end too),
            near_duplicates (by their hashes), max_uses, per_class, max_pairs.
        set_by: label of the class whose pairs are the balanced quota of all; None where no class's are.
    """

    a: np.ndarray
    b: np.ndarray
    similarity: np.ndarray
    candidates: int = 0
    candidates_of: Mapping[int, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    set_by: int | None = None


def select(found: Candidates, known: Known, recipe: PairingRecipe, seed: int = 0) -> Selected:
    """Candidates, where a pair may come from both ends, -> pairs, each once.

    The most similar come first, or with ``draw: range`` those that the seed says, of pictures with fewer uses before
    others.
    """
    candidates = len(found[0])
    a, b, similarity = _once(*found)
    once, candidates_of = len(a), _of_labels(known.label_N[a], known.label_N[b])
    close = hamming(known.hash_N[a], known.hash_N[b]) <= (-1 if recipe.hash is None else recipe.hash)
    a, b, similarity = a[~close], b[~close], similarity[~close]
    drawn = recipe.draw == "range"
    if drawn:
        key = drawing.keys(torch.from_numpy(a), torch.from_numpy(b), seed_of(seed, "order")).numpy()
        order = np.lexsort((b, a, key))
    else:
        order = np.lexsort((b, a, -similarity))
    used = order[_within_uses(a[order], b[order], recipe.max_uses, drawn)]
    label_P = known.label_N[a[used]]
    kept = used[_within_quota(label_P, recipe)]
    beyond, shared = len(used) - len(kept), recipe.per_class == "balanced" and recipe.max_pairs is not None
    of_class = 0 if shared else len(used) - len(_within_quota(label_P, replace(recipe, max_pairs=None)))
    return Selected(
        a=a[kept],
        b=b[kept],
        similarity=similarity[kept],
        candidates=candidates,
        candidates_of=candidates_of,
        left_out={
            "both_ends": candidates - once,
            "near_duplicates": int(close.sum()),
            "max_uses": len(order) - len(used),
            "per_class": of_class,
            "max_pairs": beyond - of_class,
        },
        set_by=_set_by(label_P) if of_class and recipe.per_class == "balanced" else None,
    )


def _set_by(label_P: np.ndarray) -> int:
    """The label whose pairs are everybody's quota, see ``balanced``."""
    labels, count_C = np.unique(label_P, return_counts=True)
    return int(labels[count_C == balanced(count_C, None).max()][0])


def _of_labels(first_P: np.ndarray, second_P: np.ndarray) -> dict[int, int]:
    """Label -> pairs of which one end or both have it."""
    labels, counts = np.unique(np.concatenate([first_P, second_P[first_P != second_P]]), return_counts=True)
    return dict(zip(labels.tolist(), counts.tolist(), strict=True))


def _once(a: np.ndarray, b: np.ndarray, similarity: np.ndarray) -> Candidates:
    low, high = np.minimum(a, b), np.maximum(a, b)
    order = np.lexsort((-similarity, high, low))
    low, high, similarity = low[order], high[order], similarity[order]
    once = np.ones(len(low), bool)
    once[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    return low[once], high[once], similarity[once]


def hamming(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Bits in which uint64 hashes differ, int64 [M] in 0 .. 64."""
    return np.bitwise_count(one ^ other).astype(np.int64)


def _within_uses(a: np.ndarray, b: np.ndarray, most: int | None, rounds: bool) -> np.ndarray:
    """Positions of the pairs that are kept, in order: greedily, while both pictures have a use left.

    In ``rounds`` no picture has a second use before no pair of unused ones is left, and so on.
    """
    if most is None:
        return np.arange(len(a))
    uses: Counter[int] = Counter()
    left = list(enumerate(zip(a.tolist(), b.tolist(), strict=True)))
    kept: list[int] = []
    for bound in range(1, most + 1) if rounds else (most,):
        rest = []
        for i, (x, y) in left:
            if uses[x] < bound and uses[y] < bound:
                kept.append(i)
                uses[x] += 1
                uses[y] += 1
            elif uses[x] < most and uses[y] < most:
                rest.append((i, (x, y)))
        left = rest
    return np.array(kept, np.int64)


def _within_quota(label_P: np.ndarray, recipe: PairingRecipe) -> np.ndarray:
    """Positions of the pairs that are kept, in order."""
    if recipe.per_class is None or recipe.classes == "any":
        return np.arange(len(label_P))[: recipe.max_pairs]
    labels, class_P, count_C = np.unique(label_P, return_inverse=True, return_counts=True)
    if recipe.per_class == "balanced":
        quota_C = balanced(count_C, recipe.max_pairs)
    else:
        quota_C = np.minimum(count_C, recipe.per_class)
    rank_P = np.zeros(len(label_P), np.int64)
    for c in range(len(labels)):
        rank_P[class_P == c] = np.arange(count_C[c])
    return np.flatnonzero(rank_P < quota_C[class_P])[: recipe.max_pairs]


def balanced(count_C: np.ndarray, most: int | None) -> np.ndarray:
    """Pairs that each class may keep of those it has, int64 [C].

    Without ``most``, as many as the smallest class has, where classes with less than a quarter of the median are not
    counted. With it, equal shares of it, and what a class lacks goes to the others.
    """
    if most is None:
        large = count_C[count_C * SMALL >= np.median(count_C)] if len(count_C) else count_C
        return np.minimum(count_C, large.min(initial=np.iinfo(np.int64).max))
    quota_C, left = np.zeros_like(count_C), most
    for n, c in enumerate(np.argsort(count_C, kind="stable").tolist()):
        quota_C[c] = min(int(count_C[c]), left // (len(count_C) - n))
        left -= int(quota_C[c])
    return quota_C
