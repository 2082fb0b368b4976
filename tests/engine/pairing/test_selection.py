"""Which candidates become pairs: by hand where the answer is known, and what the defaults do to a skewed data set."""

from collections import Counter

import numpy as np
import pytest

from noiseweave.engine.pairing.recipes import PairingRecipe
from noiseweave.engine.pairing.selection import Known, balanced, hamming, select


def skewed(sizes=(300, 60, 80, 9), seed=0):
    """Candidates among the pictures of each class: ten a picture, two of the pictures are in very many."""
    g = np.random.default_rng(seed)
    label = np.repeat(np.arange(len(sizes)), sizes)
    a = np.repeat(np.arange(len(label)), 10)
    start = np.cumsum((0, *sizes))[label[a]]
    b = start + g.integers(np.array(sizes)[label[a]])
    b[::5] = start[::5]  # the first of each class
    a, b = a[a != b], b[a != b]
    known = Known(label_N=label, hash_N=g.integers(0, 2**64, len(label), dtype=np.uint64))
    return (a, b, g.uniform(0.7, 0.95, len(a))), known


def classes_of(selected, known):
    return Counter(known.label_N[selected.a].tolist())


def test_by_default_classes_are_balanced_and_no_picture_is_in_more_than_four_pairs():
    found, known = skewed()
    selected = select(found, known, PairingRecipe())
    counts = classes_of(selected, known)
    assert counts[0] == counts[1] == counts[2] > 60
    assert 0 < counts[3] < counts[1] / 4  # too few to hold the others back
    uses = Counter(np.concatenate([selected.a, selected.b]).tolist())
    assert max(uses.values()) <= 4
    assert len({(a, b) for a, b in zip(selected.a, selected.b, strict=True)}) == len(selected.a)
    assert (selected.a < selected.b).all()


def test_pictures_without_a_use_come_first():
    found, known = skewed(sizes=(200,))
    for seed in range(3):
        selected = select(found, known, PairingRecipe(max_pairs=90), seed)
        assert len(np.unique(np.concatenate([selected.a, selected.b]))) >= 179


def test_the_seed_says_which_pairs():
    found, known = skewed()
    one, again, other = (select(found, known, PairingRecipe(max_pairs=50), seed) for seed in (1, 1, 2))
    assert np.array_equal(one.a, again.a)
    assert not np.array_equal(one.a, other.a)
    order = np.random.default_rng(0).permutation(len(found[0]))
    moved = select(tuple(x[order] for x in found), known, PairingRecipe(max_pairs=50), 1)
    assert set(zip(moved.a, moved.b, strict=True)) == set(zip(one.a, one.b, strict=True))


def test_equal_shares_of_max_pairs_and_a_number_for_each_class():
    found, known = skewed()
    recipe = PairingRecipe(max_pairs=100)
    assert classes_of(select(found, known, recipe), known) == {0: 28, 1: 27, 2: 27, 3: 18}
    assert classes_of(select(found, known, PairingRecipe(per_class=12)), known) == dict.fromkeys(range(4), 12)
    free = classes_of(select(found, known, PairingRecipe(per_class=None)), known)
    assert free[0] > 3 * free[1]
    across = select(found, known, PairingRecipe(classes="any"))
    assert len(across.a) == sum(free.values())


@pytest.mark.parametrize(
    ("counts", "most", "expected"),
    [
        ([], None, []),
        ([5], None, [5]),
        ([40, 30, 2], None, [30, 30, 2]),
        ([40, 30, 20], None, [20, 20, 20]),
        ([40, 30, 2], 20, [9, 9, 2]),
        ([40, 30, 2], 1000, [40, 30, 2]),
        ([4, 4, 4], 2, [0, 1, 1]),
    ],
)
def test_quotas_by_hand(counts, most, expected):
    assert balanced(np.array(counts, np.int64), most).tolist() == expected


def test_near_duplicates_by_hash_are_left_out_and_counted_once():
    hashes = np.array([0, 0b111111, 0b1111111, 2**63], np.uint64)
    assert hamming(hashes[:1], hashes).tolist() == [0, 6, 7, 1]
    a, b = np.array([0, 1, 0, 0]), np.array([1, 0, 2, 3])
    known = Known(label_N=np.zeros(4, np.int64), hash_N=hashes)
    selected = select((a, b, np.full(4, 0.8)), known, PairingRecipe())
    assert (selected.a.tolist(), selected.b.tolist()) == ([0], [2])
    assert selected.left_out["near_duplicates"] == 2
    assert len(select((a, b, np.full(4, 0.8)), known, PairingRecipe(hash=None)).a) == 3


def test_what_left_a_candidate_out_and_whose_quota_it_was_are_counted():
    """Classes 0 and 1 of 12 and 5 disjoint pairs, one of them found from both ends, and class 2 of a single pair."""
    a = np.array([*range(0, 36, 2), 1])
    b = np.array([*range(1, 37, 2), 0])
    label_N = np.repeat([0, 1, 2], [24, 10, 2])
    known = Known(label_N=label_N, hash_N=2 ** np.arange(36, dtype=np.uint64))
    found = a, b, np.full(19, 0.8)

    def left_out(**how):
        selected = select(found, known, PairingRecipe(hash=None, **how))
        lost = {name: n for name, n in selected.left_out.items() if n}
        assert selected.candidates == 19 == len(selected.a) + sum(lost.values())
        return lost, selected.set_by

    assert left_out() == ({"both_ends": 1, "per_class": 7}, 1), "class 2 is too small to hold the others back"
    assert left_out(per_class=3) == ({"both_ends": 1, "per_class": 11}, None)
    assert left_out(per_class=3, max_pairs=5) == ({"both_ends": 1, "per_class": 11, "max_pairs": 2}, None)
    assert left_out(max_pairs=5) == ({"both_ends": 1, "max_pairs": 13}, None)
    assert left_out(per_class=None) == ({"both_ends": 1}, None)
