"""The adaptive ratio at its limits; recipes say what is wrong."""

import math

import pytest

from noiseweave.engine.fusion.recipes import EditRecipe, RegionRecipe, adaptive_ratio


@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.7, 0.95])
@pytest.mark.parametrize("low", [0.0, 0.1, 0.2, 0.5])
def test_adaptive_ratio_goes_from_low_to_one_half_and_never_falls(threshold, low):
    grid = [threshold + (1 - threshold) * i / 500 for i in range(501)]
    ratio = [adaptive_ratio(min(s, 1.0), threshold, low) for s in grid]
    assert ratio[0] == pytest.approx(low)
    assert ratio[-1] == 0.5
    assert ratio == sorted(ratio)
    assert all(low - 1e-12 <= r <= 0.5 for r in ratio)


def test_the_angle_to_the_nearer_parent_is_the_same_until_one_half():
    theta_max = math.acos(0.5)
    for theta in (1.0, 0.8, 0.5):
        assert adaptive_ratio(math.cos(theta), 0.5, 0.2) * theta == pytest.approx(0.2 * theta_max)
    assert adaptive_ratio(math.cos(0.4 * theta_max - 1e-6), 0.5, 0.2) == 0.5


def test_a_similarity_that_was_rounded_below_the_threshold_counts_as_the_threshold():
    assert adaptive_ratio(0.69, 0.7) == adaptive_ratio(0.7, 0.7) == pytest.approx(0.2)
    assert adaptive_ratio(1.0, 1.0) == 0.5


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: adaptive_ratio(1.1, 0.7), "similarity=1.1"),
        (lambda: adaptive_ratio(float("nan"), 0.7), "similarity=nan"),
        (lambda: adaptive_ratio(0.8, 2.0), "threshold=2.0"),
        (lambda: adaptive_ratio(0.8, 0.7, 0.6), "low=0.6"),
        (lambda: EditRecipe(name="blur"), "edit.name='blur'"),
        (lambda: EditRecipe(strength=1.5), "edit.strength=1.5"),
        (lambda: RegionRecipe(source="here"), "region.source='here'"),
        (lambda: RegionRecipe(smooth=0.0), "region.smooth=0.0"),
    ],
)
def test_wrong_values_are_one_clear_error(call, match):
    with pytest.raises(ValueError, match=match):
        call()
