"""The verdicts on made pictures, against pictures and features whose answers are known."""

import numpy as np
import pytest

from noiseweave.engine import spans
from noiseweave.engine.fusion.groups import Fused
from noiseweave.engine.fusion.redraw import Redrawn, redraw_rejected
from noiseweave.engine.judging import quality
from noiseweave.engine.judging.recipes import ClassifierRecipe, QualityRecipe
from noiseweave.engine.records import Pair


def picture(value, spread=40, seed=0):
    """Grains about a grey: uint8 [8, 8, 1]."""
    grain = np.random.default_rng(seed).normal(0, spread, (8, 8, 1))
    return (value + grain).clip(0, 255).astype(np.uint8)


def unit(image_PHWC):
    f_PD = image_PHWC.reshape(len(image_PHWC), -1).astype(np.float32)
    return f_PD / np.linalg.norm(f_PD, axis=1, keepdims=True).clip(1e-6)


PARENTS = np.stack([picture(100, seed=1), picture(160, seed=2)])


def judged(made, chances=None, finite=True, **recipe):
    judge = quality.Judge(
        extract=unit,
        real_ND=unit(np.stack([picture(90, seed=n) for n in range(3, 8)])),
        chances=None if chances is None else lambda image_PHWC, f_PD: np.array([chances], np.float32),
    )
    asked = QualityRecipe(**recipe)
    [check] = quality.checks(judge, made[None], np.array([finite]), [(0, 1)], PARENTS, [0, 1], asked)
    return check


def test_a_copy_is_told_whether_of_a_parent_or_of_another_picture():
    assert judged(PARENTS[0]).verdict == "copy"
    assert judged(PARENTS[0]).parent == pytest.approx(1, abs=1e-5)
    stranger = judged(picture(90, seed=5))
    assert (stranger.verdict, round(stranger.nearest, 4)) == ("copy", 1.0)
    assert stranger.parent < 0.99
    assert judged(picture(130, seed=9)).verdict == "kept"


def test_drift_is_the_chance_of_other_classes_than_the_parents():
    made = picture(130, seed=9)
    assert judged(made, [0.2, 0.3, 0.5]).drift == pytest.approx(0.5)
    assert judged(made, [0.2, 0.2, 0.6]).verdict == "drifted"
    assert judged(made, [0.2, 0.2, 0.6], drift=0.7).verdict == "kept"
    assert judged(made).drift is None


def test_a_flat_and_a_speckled_picture_are_broken_and_so_is_none():
    flat, speckled = np.full((8, 8, 1), 130, np.uint8), picture(128, 400, seed=9)
    assert judged(flat).verdict == judged(speckled).verdict == "broken"
    assert judged(speckled, sharpness=0).verdict == "kept"
    assert judged(picture(130, seed=9), finite=False).verdict == "broken"
    assert judged(flat).sharpness == 0


def test_what_is_like_no_input_picture_is_rejected_of_photos_in_features_that_are_known():
    made = picture(130, seed=9)
    near = judged(made).nearest
    assert judged(made, unlike=near + 0.001).verdict == "unlike"
    assert judged(made, unlike=near - 0.001).verdict == "kept"
    assert judged(made, unlike=0).verdict == judged(made).verdict == "kept"
    assert QualityRecipe().settled(True, "efficientnet-lite0").unlike == 0.6
    assert QualityRecipe().settled(True, "pixels").unlike == 0
    assert QualityRecipe().settled(False, "efficientnet-lite0").unlike == 0
    assert QualityRecipe(unlike=0.5).settled(False, "pixels").unlike == 0.5


def test_nearest_looks_through_blocks_of_any_size():
    rng = np.random.default_rng(0)
    f, real = (unit(rng.integers(0, 255, (n, 8, 8, 1), np.uint8)) for n in (5, 23))
    expected = (f @ real.T).max(1)
    for block in (1, 7, 100):
        best, row = quality.nearest_real(f, real, block)
        np.testing.assert_allclose(best, expected, rtol=1e-6)
        assert row.tolist() == (f @ real.T).argmax(1).tolist()
    assert (np.stack(quality.nearest_real(f, real[:0])) == -1).all()


def test_a_picture_of_no_known_parents_is_held_against_what_is_typical():
    judge = quality.Judge(extract=unit, real_ND=unit(PARENTS), chances=None)
    made = np.stack([PARENTS[1], picture(130, seed=9)])
    alone, child = quality.measure(judge, made, [(), (0,)], PARENTS, [set(), {0}], typical=50.0)
    assert (alone.row, alone.parent, round(alone.nearest, 4)) == (1, None, 1.0)
    assert alone.sharpness == pytest.approx(quality.sharpness(PARENTS[1]) / 50)
    assert child.parent == pytest.approx(float(unit(made)[1] @ unit(PARENTS)[0]))
    assert child.sharpness == pytest.approx(quality.sharpness(made[1]) / quality.sharpness(PARENTS[0]))


def test_centroids_know_their_classes_and_a_place_half_way():
    f = unit(np.stack([picture(60 * (n % 3) + 40, 5, n) for n in range(30)])).astype(np.float32)
    f = np.eye(3, dtype=np.float32)[np.arange(30) % 3] + 0.05 * f[:, :3]
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    labels = np.arange(30) % 3
    labels[:3] = -1
    mean_KD = quality.centroids(f, labels, 4)
    assert (mean_KD[3] == 0).all()
    assert (quality.centroid_chances(f, mean_KD[:3]).argmax(1) == np.arange(30) % 3).all()
    half = (mean_KD[:1] + mean_KD[1:2]) / np.linalg.norm(mean_KD[0] + mean_KD[1])
    np.testing.assert_allclose(quality.centroid_chances(half, mean_KD[:3])[0, :2], 0.5, atol=0.01)


def pair(n, attempt=0):
    return Pair(a=0, b=1, similarity=0.9, mode="linear", ratio=0.5, seed=n, number=n, attempt=attempt)


def gated(passes, redraw, flags=(), gate=True, drawn=lambda pairs: None):
    """Draws where picture n passes at its attempt passes[n]; the picture's value is 10 n + attempt.

    ``flags`` has the values of those that a safety checker flags.
    """

    def draw(pairs):
        drawn(pairs)
        image = np.array([[[[10 * p.number + p.attempt]]] for p in pairs], np.uint8)
        return Fused(
            image_PHWC=image,
            finite_P=np.ones(len(pairs), bool),
            flagged_P=np.isin(image.flatten(), flags),
            areas=[1.0] * len(pairs),
        )

    def check(pairs, fused):
        drawn(pairs)
        kept = [p.attempt >= passes[p.number] for p in pairs]
        return [
            quality.QualityCheck(
                verdict="kept" if ok else "drifted", nearest=0, parent=0, drift=0.9, sharpness=1
            )
            for ok in kept
        ]

    pairs = [pair(n) for n in range(len(passes))]
    again = lambda p, attempt: pair(p.number, attempt)  # noqa: E731
    return redraw_rejected(pairs, draw, again, check if gate else None, redraw)


def test_what_is_rejected_is_drawn_again_until_it_passes_or_the_tries_end():
    done = gated([0, 2, 1, 9], redraw=2)
    assert done.fused.image_PHWC.flatten().tolist() == [0, 12, 21, 32]
    assert [c.verdict for c in done.checks] == ["kept", "kept", "kept", "drifted"]
    assert (done.rejected, done.attempts) == ({"drifted": 1}, 3 + 2)
    assert gated([0, 1], redraw=0).attempts == 0
    assert gated([0, 0], redraw=5).attempts == 0


def test_the_share_that_is_done_leaves_room_for_what_is_drawn_again():
    shares, seen = [], []

    def drawn(pairs):
        """Both drawing and checking say how far they are."""
        for _ in spans.steps(pairs):
            pass
        seen.append((len(pairs), round(shares[-1], 4)))

    with spans.listening(shares.append), spans.span(0.5, 1):
        gated([0, 2, 1, 9], redraw=3, drawn=drawn)
    assert seen == [
        *((4, 0.7), (4, 0.75)),
        *((3, 0.85), (3, 0.875)),
        *((2, 0.925), (2, 0.9375)),
        *((1, 0.9875), (1, 1.0)),
    ]
    assert shares == sorted(shares)


def test_what_is_not_finite_is_not_rejected_as_well():
    fused = Fused(
        image_PHWC=np.zeros((2, 1, 1, 1), np.uint8),
        finite_P=np.array([False, True]),
        flagged_P=np.zeros(2, bool),
        areas=[1.0, 1.0],
    )
    broken = quality.QualityCheck(verdict="broken", nearest=0, parent=0, drift=0, sharpness=9)
    done = Redrawn(pairs=[pair(0), pair(1)], fused=fused, checks=[broken, broken], attempts=0)
    assert done.rejected == {"broken": 1}


def test_what_is_flagged_is_drawn_once_more_and_no_gate_lets_it_pass():
    for gate in (False, True):
        done = gated([0, 0, 0], redraw=3, flags=[0, 10, 11], gate=gate)
        assert done.fused.image_PHWC.flatten().tolist() == [1, 11, 20]
        assert done.fused.flagged_P.tolist() == [False, True, False]
        assert (done.rejected, done.attempts) == ({}, 2)
    done = gated([1, 2], redraw=3, flags=[11])  # the gate's second draw is flagged, and stays so
    assert done.fused.image_PHWC.flatten().tolist() == [1, 11]
    assert done.fused.flagged_P.tolist() == [False, True]


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (QualityRecipe, "copy", 1.1),
        (QualityRecipe, "drift", -0.1),
        (QualityRecipe, "sharpness", 1.0),
        (QualityRecipe, "redraw", -1),
        (QualityRecipe, "pool", 0),
        (ClassifierRecipe, "steps", 0),
        (ClassifierRecipe, "share", 1.0),
        (ClassifierRecipe, "classical", ("mixup", "cutmix")),
    ],
)
def test_impossible_values_are_named(kind, field, value):
    with pytest.raises(ValueError, match=rf"{field}="):
        kind(**{field: value})
