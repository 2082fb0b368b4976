"""The promises of every fusion mode: ends, monotone and continuous ratio, spread, N pictures."""

import itertools

import pytest
import torch

from noiseweave.engine.fusion.modes import cross_fade, fuse, shares
from noiseweave.engine.fusion.recipes import MODES
from noiseweave.engine.records import NoiseMaps

T = 9
PLACES = [i / (T - 1) for i in range(T)]


def maps(n=3, seed=0):
    """Maps of unlike spread, one of them empty at a step, as no real one is."""
    g = torch.Generator().manual_seed(seed)
    made = [
        NoiseMaps(
            x_T_CHW=torch.randn(2, 8, 8, generator=g),
            residual_TCHW=(1 + k) * torch.randn(T, 2, 8, 8, generator=g) + 0.1 * k,
            timesteps_T=torch.arange(T, 0, -1) * 10,
        )
        for k in range(n)
    ]
    made[1].residual_TCHW[3] = 0
    return made


def steps(m):
    return torch.cat([m.x_T_CHW[None], m.residual_TCHW])


def test_the_modes_differ_at_one_half():
    fused = {mode: fuse(maps(2), [0.5, 0.5], mode) for mode in MODES}
    for one, other in itertools.combinations(fused.values(), 2):
        assert (steps(one) - steps(other)).abs().mean() > 0.05


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("keep_spread", [True, False])
def test_the_ends_of_the_ratio_give_the_parents(mode, keep_spread):
    parents = maps(2)
    for ratio, parent in ((0.0, parents[0]), (1.0, parents[1])):
        fused = fuse(parents, [1 - ratio, ratio], mode, keep_spread)
        torch.testing.assert_close(steps(fused), steps(parent), rtol=1e-5, atol=1e-5)
        assert torch.equal(fused.timesteps_T, parent.timesteps_T)


@pytest.mark.parametrize("mode", MODES)
def test_shares_sum_to_one_never_fall_and_never_jump(mode):
    z_TNCHW = torch.stack([m.residual_TCHW for m in maps(2)], 1)
    for u, z_NCHW in zip(PLACES[::4], z_TNCHW[1::3], strict=True):
        grid = [shares(z_NCHW, [1 - i / 1000, i / 1000], mode, u) for i in range(1001)]
        assert all(((g >= 0) & ((g.sum(0) - 1).abs() < 1e-5)).all() for g in grid)
        second = torch.stack([g[1].expand(2, 8, 8) for g in grid])
        step = second.diff(dim=0)
        assert step.min() >= -1e-6
        assert step.max() < 0.13  # BOUND^2 at most, twice that for layer_selective, times 1 / 1000
        assert second[0].abs().max() == 0
        assert (second[-1] == 1).all()


@pytest.mark.parametrize("mode", MODES)
def test_a_fused_map_never_jumps(mode):
    parents = maps(2)
    far = (steps(parents[0]) - steps(parents[1])).abs().max()
    for fine in (range(30), range(485, 515), range(971, 1001)):  # shares move fastest near the ends
        grid = torch.stack([steps(fuse(parents, [1 - i / 1000, i / 1000], mode)) for i in fine])
        assert grid.diff(dim=0).abs().max() < 0.15 * far


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
def test_spread_lies_between_the_parents_unless_told_not_to(mode, ratio):
    parents = maps(2, seed=1)
    parents[1].residual_TCHW[3] = torch.randn(2, 8, 8)
    spread = [steps(p).std((1, 2, 3), correction=0) for p in parents]
    fused, bare = (
        steps(fuse(parents, [1 - ratio, ratio], mode, keep)).std((1, 2, 3), correction=0)
        for keep in (True, False)
    )
    low, high = torch.minimum(*spread), torch.maximum(*spread)
    assert ((fused >= low - 1e-5) & (fused <= high + 1e-5)).all()
    assert not ((bare >= low) & (bare <= high)).all()


def test_linear_keeps_the_interpolated_spread_and_the_mean_exactly():
    parents = maps(2)
    fused, one, two = steps(fuse(parents, [0.7, 0.3], "linear")), *map(steps, parents)
    std = {k: v.std((1, 2, 3), correction=0) for k, v in (("f", fused), ("1", one), ("2", two))}
    torch.testing.assert_close(std["f"], 0.7 * std["1"] + 0.3 * std["2"])
    mixed = (0.7 * one + 0.3 * two).mean((1, 2, 3))
    torch.testing.assert_close(fused.mean((1, 2, 3)), mixed, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_three_pictures(mode):
    three = maps(3)
    for n in range(3):
        alone = fuse(three, [float(k == n) for k in range(3)], mode)
        torch.testing.assert_close(steps(alone), steps(three[n]), rtol=1e-5, atol=1e-5)
    two = fuse(three[:2], [0.4, 0.6], mode)
    for with_third in (fuse(three, [0.4, 0.6, 0.0], mode), fuse(three, [2, 3, 0], mode)):
        torch.testing.assert_close(steps(with_third), steps(two), rtol=1e-5, atol=1e-5)
    middle = fuse([three[0], three[2], three[1]], [0.4, 0.0, 0.6], mode)
    torch.testing.assert_close(steps(middle), steps(two), rtol=1e-5, atol=1e-5)
    z_NCHW = torch.stack([m.residual_TCHW[0] for m in three])
    for u in PLACES:
        share = shares(z_NCHW, [0.2, 0.5, 0.3], mode, u).expand(3, 2, 8, 8)
        torch.testing.assert_close(share.sum(0), torch.ones(2, 8, 8))
        assert share.min() >= 0
    equal = steps(fuse(three, [1, 1, 1], mode))
    assert all((equal - steps(m)).abs().mean() > 0.05 for m in three)


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.8])
def test_cross_fade_goes_from_the_first_to_the_second_and_means_its_ratio(ratio):
    share = [cross_fade(ratio, u) for u in PLACES]
    assert share == sorted(share)
    assert share[0] < ratio < share[-1]
    assert sum(share) / T == pytest.approx(ratio)
    if ratio == 0.5:
        assert (share[0], share[-1]) == (0, 1)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_layer_selective_takes_structure_from_the_first_and_texture_from_the_second(ratio):
    z_NCHW = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(2))
    share = [float(shares(z_NCHW, [1 - ratio, ratio], "layer_selective", u)[1].mean()) for u in PLACES]
    assert max(share[:3]) < ratio - 0.05
    assert share[3:6] == pytest.approx([ratio] * 3)
    assert min(share[6:]) > ratio + 0.05


def test_feature_selective_follows_the_picture_that_has_a_feature_there():
    z_NCHW = torch.full((2, 1, 8, 8), 0.1)
    z_NCHW[0, :, :, :4], z_NCHW[1, :, :, 4:] = 1.0, 1.0
    second = shares(z_NCHW, [0.5, 0.5], "feature_selective", 0.5)[1, 0]
    assert second[:, :3].max() < 0.05
    assert second[:, 5:].min() > 0.95


@pytest.mark.parametrize(
    ("weights", "mode", "match"),
    [
        ([0.5, 0.5], "cubic", "mode='cubic'"),
        ([1.0], "linear", "weights"),
        ([-0.1, 1.1], "linear", "weights"),
        ([0.0, 0.0], "linear", "weights"),
        ([float("nan"), 1.0], "linear", "weights"),
    ],
)
def test_wrong_input_is_one_clear_error(weights, mode, match):
    with pytest.raises(ValueError, match=match):
        fuse(maps(2), weights, mode)


def test_maps_of_other_time_steps_do_not_fuse():
    one, two = maps(2)
    late = NoiseMaps(x_T_CHW=two.x_T_CHW, residual_TCHW=two.residual_TCHW, timesteps_T=two.timesteps_T - 1)
    with pytest.raises(ValueError, match="different time steps"):
        fuse([one, late], [0.5, 0.5], "linear")
