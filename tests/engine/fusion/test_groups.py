"""A group's pictures: the same for any micro-batch, through running out of memory, and with no pairs left."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion.groups import (
    Inverted,
    Parents,
    augment,
    draw_pair,
    draw_pairs,
    fuse_pictures,
    invert_pictures,
)
from noiseweave.engine.fusion.recipes import MODES, FusionRecipe, RegionRecipe, adaptive_ratio
from noiseweave.engine.fusion.regions import saliency
from noiseweave.engine.records import Pair

INVERSION = InversionRecipe(num_steps=6, skip=2)


def parents(image_BHWC, keys, **more):
    return Parents(image_BHWC=image_BHWC, keys=keys, **more)


def made(backbone, digits, pairs):
    return augment(backbone, parents(digits[0][:3], "abc"), pairs, INVERSION, FusionRecipe(), 0).image_PHWC


def pair(a, b, mode="linear", ratio=0.5):
    return Pair(a=a, b=b, similarity=0.9, mode=mode, ratio=ratio, seed=0)


PAIRS = [pair(0, 1, mode, ratio) for mode in MODES for ratio in (0.3, 0.6)] + [pair(2, 0)]


@pytest.fixture(scope="module")
def expected(digits_model, digits):
    return made(digits_model(), digits, PAIRS)


@pytest.mark.parametrize("micro_batch", [1, 16])
def test_pictures_are_the_same_for_any_micro_batch(digits_model, digits, expected, micro_batch):
    backbone = digits_model()
    backbone.parts.size = micro_batch
    pictures = made(backbone, digits, PAIRS)
    assert pictures.shape == (9, 16, 16, 1)
    assert np.abs(pictures.astype(int) - expected).max() <= 1


def test_running_out_of_memory_between_pairs_loses_none(digits_model, digits, expected, out_of_memory_over):
    backbone = digits_model()
    backbone.parts.size = 4
    # memory gets short after the inversion only, in the middle of the pairs
    backbone.unet = out_of_memory_over(backbone.unet, 2, after=9)
    pictures = made(backbone, digits, PAIRS)
    assert backbone.parts.size == 2
    assert np.abs(pictures.astype(int) - expected).max() <= 1


def test_the_ends_of_the_ratio_give_the_pictures_back(digits_model, digits):
    pictures = made(digits_model(), digits, [pair(0, 1, m, r) for m in MODES for r in (0.0, 1.0)])
    for i, picture in enumerate(pictures):
        assert np.abs(picture.astype(int) - digits[0][i % 2]).max() <= 1


def test_a_group_whose_pairs_are_all_gone_gives_no_pictures(digits_model, digits):
    assert made(digits_model(), digits, []).shape == (0, 16, 16, 1)


def test_fusing_three_pictures_from_one_inversion(digits_model, digits):
    backbone = digits_model()
    s, maps = invert_pictures(backbone, digits[0][:3], ["a", "b", "c"], INVERSION, 0)
    recipes = [("linear", [1, 1, 1]), ("cross_fade", [0, 1, 0])]
    mixed, second = backbone.decode(fuse_pictures(backbone, Inverted(path=s, maps=maps), recipes))
    assert np.abs(second.astype(int) - digits[0][1]).max() <= 1
    assert all(np.abs(mixed.astype(int) - x).mean() > 3 for x in digits[0][:3])


def test_a_pair_draws_its_order_mode_and_ratio_from_seed_and_keys():
    recipe = FusionRecipe(modes=("linear", "cross_fade"), ratio=(0.2, 0.4))
    drawn = [draw_pair((0, 1), (f"k{i}", "x"), 0.9, recipe, 5) for i in range(200)]
    assert drawn == [draw_pair((0, 1), (f"k{i}", "x"), 0.9, recipe, 5) for i in range(200)]
    assert drawn[0] != draw_pair((0, 1), ("k0", "x"), 0.9, recipe, 6)
    assert {p.mode for p in drawn} == {"linear", "cross_fade"}
    assert {(p.a, p.b) for p in drawn} == {(0, 1), (1, 0)}
    assert all(0.2 <= p.ratio <= 0.4 for p in drawn)
    assert 0.28 < np.mean([p.ratio for p in drawn]) < 0.32
    assert len({p.seed for p in drawn}) == 200


@pytest.mark.parametrize("n", [2, 5, 8])
def test_pictures_of_one_pair_differ_in_mode_and_in_weight(n):
    modes = ("linear", "cross_fade")
    recipe = FusionRecipe(modes=modes, ratio=(0.3, 0.7), per_pair=n)
    orders = set()
    for key in "abcdefghijklmnopqrstuvwxyz":
        drawn = draw_pairs([(0, 1)], [key, "x"], np.array([0.9]), recipe, 5, 0.7)
        again = [draw_pair((0, 1), (key, "x"), 0.9, recipe, 5, turn=(0, a)) for a in (1, 2, 3)]
        assert [p.mode for p in drawn] == [modes[(modes.index(drawn[0].mode) + i) % 2] for i in range(n)]
        assert all(0.3 <= p.ratio <= 0.7 for p in drawn)
        weights = sorted(p.ratio if p.a == 0 else 1 - p.ratio for p in [*drawn, *again])
        assert np.diff(weights).min() > 0.1 * 0.4 / len(weights), "of the second picture"
        orders |= {(p.a, p.b) for p in drawn[1:]}
    assert orders == {(0, 1), (1, 0)}


def test_the_other_sampler_gives_the_pictures_back_and_is_another(digits_model, digits):
    backbone = digits_model()
    ends = [pair(0, 1, ratio=0.0), pair(0, 1, ratio=1.0), pair(0, 1)]
    recipe = InversionRecipe(num_steps=6, skip=2, sampler="sde-dpm-solver++")
    images = digits[0][:2]
    made = augment(backbone, parents(images, "ab"), ends, recipe, FusionRecipe(), 0)
    first, second, between = made.image_PHWC.astype(int)
    assert np.abs(first - images[0]).max() <= 1
    assert np.abs(second - images[1]).max() <= 1
    ddim = augment(backbone, parents(images, "ab"), ends, INVERSION, FusionRecipe(), 0).image_PHWC[2]
    assert np.abs(between - ddim).max() > 3
    s, maps = invert_pictures(backbone, images, "ab", recipe, 0)
    x_BCHW = fuse_pictures(
        backbone, Inverted(path=s, maps=maps), [("linear", [0.5, 0.5])], solver="sde-dpm-solver++"
    )
    assert np.abs(backbone.decode(x_BCHW)[0] - between).max() <= 1


def test_an_adaptive_ratio_follows_similarity_and_leaves_order_and_mode():
    drawn, adaptive = FusionRecipe(), FusionRecipe(adaptive=True)
    for sim, ratio in [(0.7, 0.2), (0.9, round(adaptive_ratio(0.9, 0.7), 6)), (1.0000001, 0.5)]:
        one = draw_pair((0, 1), ("k", "x"), sim, adaptive, 5, 0.7)
        assert one.ratio == ratio
        assert replace(one, ratio=0.0) == replace(
            draw_pair((0, 1), ("k", "x"), sim, drawn, 5, 0.7), ratio=0.0
        )


def regional(digits_model, digits, source, pairs, masks=None, micro_batch=16):
    backbone, fusion = digits_model(), FusionRecipe(region=RegionRecipe(source=source))
    backbone.parts.size = micro_batch
    made = augment(backbone, parents(digits[0][:3], "abc", masks=masks), pairs, INVERSION, fusion, 0)
    pictures, areas = made.image_PHWC, made.areas
    return pictures.astype(int), areas


def test_a_full_mask_at_ratio_1_is_the_second_and_an_empty_one_the_first(digits_model, digits):
    masks = {1: np.full((16, 16), 255, np.uint8), 2: np.zeros((16, 16), np.uint8)}
    pairs = [pair(0, b, mode, 1.0) for mode in MODES for b in (1, 2)]
    pictures, areas = regional(digits_model, digits, "file", pairs, masks)
    assert areas == [1, 0] * len(MODES)
    for i, picture in enumerate(pictures):
        assert np.abs(picture - digits[0][0 if i % 2 else 1]).max() <= 1


def test_regions_are_those_of_fuse_and_their_area_is_the_masks_mean(digits_model, digits):
    backbone = digits_model()
    s, maps = invert_pictures(backbone, digits[0][:3], ["a", "b", "c"], INVERSION, 0)
    ramp = np.linspace(0, 255, 256).astype(np.uint8).reshape(16, 16)
    masks = {"file": torch.from_numpy(ramp / np.float32(255)), "saliency": saliency(maps[1])}
    for source, mask_HW in masks.items():
        (picture,), (area,) = regional(
            digits_model, digits, source, [pair(0, 1, "cross_fade", 0.6)], {1: ramp}
        )
        x = fuse_pictures(
            backbone, Inverted(path=s, maps=maps[:2]), [("cross_fade", [0.4, 0.6])], mask_HW=mask_HW
        )
        assert np.abs(picture - backbone.decode(x)[0]).max() <= 1
        assert area == pytest.approx(float(mask_HW.mean()), abs=1e-5)
        assert 0.1 < area < 0.9


def test_regions_are_the_same_for_any_micro_batch(digits_model, digits):
    one, few = (regional(digits_model, digits, "saliency", PAIRS, micro_batch=n) for n in (16, 2))
    assert np.abs(one[0] - few[0]).max() <= 1
    assert one[1] == pytest.approx(few[1], abs=1e-4)
