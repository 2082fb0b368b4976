"""Edits of latent models: words that recolour a real picture, edits of noise maps, regions, the other sampler."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from latent_models import QUICK, TEXTS, psnr, there_and_back, told

from noiseweave.engine.diffusion.inversion import replay
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion import groups
from noiseweave.engine.fusion.edits import edit, fresh_noise
from noiseweave.engine.fusion.recipes import EDITS
from noiseweave.engine.fusion.regions import fuse_region
from noiseweave.engine.networks import loading
from noiseweave.engine.networks.recipes import ModelConfig, PromptRecipe


@pytest.fixture(scope="module")
def painter(taught_folder):
    return loading.load(ModelConfig(name=str(taught_folder)))


def redness(image_BHWC):
    return (image_BHWC[..., 0].astype(float) - image_BHWC[..., 2]).mean((1, 2))


def walls(*colours):
    return np.stack([np.full((32, 32, 3), colour, np.uint8) for colour in colours])


def test_a_target_prompt_recolours_a_real_picture(painter):
    wall = walls((220, 30, 30))
    recipe = InversionRecipe(num_steps=20, skip=2)
    edits = {}
    for target in ("a red wall", "a blue wall"):
        prompts = PromptRecipe(source="a red wall", target=target, guidance_source=1, guidance_target=1)
        s, maps = groups.invert_pictures(painter, wall, "k", recipe, 0, prompts.of([None], [None]))
        told = prompts.of([None], [None])
        x = groups.fuse_pictures(
            painter, groups.Inverted(path=s, maps=maps, prompts=told), [("linear", [1.0])]
        )
        edits[target] = redness(painter.decode(x))[0]
    assert edits["a red wall"] > 150  # told the same again, it comes back
    assert edits["a blue wall"] < edits["a red wall"] - 100


def test_a_larger_guidance_moves_the_picture_further(painter):
    wall, recipe, red = walls((220, 30, 30)), InversionRecipe(num_steps=20, skip=6), []
    for guidance in (1.0, 3.0):
        prompts = PromptRecipe(
            source="a red wall", target="a blue wall", guidance_source=1, guidance_target=guidance
        ).of([None], [None])
        s, maps = groups.invert_pictures(painter, wall, "k", recipe, 0, prompts)
        x = groups.fuse_pictures(
            painter, groups.Inverted(path=s, maps=maps, prompts=prompts), [("linear", [1.0])]
        )
        red.append(redness(painter.decode(x))[0])
    assert red[1] < red[0] - 10


def test_fused_walls_lie_between_their_parents(painter):
    images = walls((220, 30, 30), (30, 30, 220))
    prompts = PromptRecipe(source=("a red wall", "a blue wall")).of([None] * 2, [None] * 2)
    s, maps = groups.invert_pictures(painter, images, "ab", InversionRecipe(num_steps=20, skip=2), 0, prompts)
    recipes = [("linear", [1 - r, r]) for r in (0, 0.5, 1)]
    x = groups.fuse_pictures(painter, groups.Inverted(path=s, maps=maps, prompts=prompts), recipes)
    first, middle, second = redness(painter.decode(x))
    assert first > 150
    assert second < -150
    assert second + 30 < middle < first - 30


# the other sampler

SECOND = InversionRecipe(num_steps=8, skip=2, sampler="sde-dpm-solver++")


@pytest.mark.parametrize("guidance", [1.0, 3.5])
@pytest.mark.parametrize("which", ["sd", "xl"])
def test_the_second_sampler_gives_the_latents_back(which, guidance, images, request):
    model = request.getfixturevalue(which)
    x, z = there_and_back(model, images, told(guidance_source=guidance), SECOND)
    assert psnr(x, z) > 100
    assert model.vae_scale_factor * z.shape[-1] == images.shape[1]


def test_words_recolour_a_picture_with_the_second_sampler_too(painter):
    wall, recipe = walls((220, 30, 30)), replace(SECOND, num_steps=20)
    red = {}
    for target in ("a red wall", "a blue wall"):
        words = PromptRecipe(source="a red wall", target=target, guidance_source=1, guidance_target=1)
        prompts = words.of([None], [None])
        s, maps = groups.invert_pictures(painter, wall, "k", recipe, 0, prompts)
        group = groups.Inverted(path=s, maps=maps, prompts=prompts)
        x = groups.fuse_pictures(painter, group, [("linear", [1.0])], solver=recipe.sampler)
        red[target] = redness(painter.decode(x))[0]
    assert red["a red wall"] == pytest.approx(redness(painter.decode(painter.encode(wall)))[0], abs=2)
    assert red["a blue wall"] < red["a red wall"] - 100


# edits and regions of latents


@pytest.fixture(scope="module")
def made(sd, images):
    """(prompts, schedule, maps) of three pictures, each told its own words."""
    prompts = told(guidance_source=2.0)
    return prompts, *groups.invert_pictures(sd, images, "abc", QUICK, 0, prompts)


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_no_strength_is_the_picture_and_more_is_not(sd, images, made, name):
    prompts, s, maps = made
    fresh = [fresh_noise(m, 0, key) for m, key in zip(maps, "abc", strict=True)]
    epsilon, z = groups.source_denoiser(sd, prompts), sd.encode(images)
    still, moved = (
        replay(epsilon, s, [edit(m, s, name, k, f) for m, f in zip(maps, fresh, strict=True)])
        for k in (0.0, 0.8)
    )
    assert psnr(still, z) > 100
    assert psnr(moved, z) < 45


def test_a_region_moves_its_own_part_of_the_latent(sd, images, made):
    _, s, maps = made
    right = torch.zeros(4, 4)
    right[:, 2:] = 1
    fused = fuse_region(maps[:2], [0, 1], "linear", right)
    for name in ("x_T_CHW", "residual_TCHW"):
        assert torch.equal(getattr(fused, name)[..., :2], getattr(maps[0], name)[..., :2])
        assert torch.equal(getattr(fused, name)[..., 2:], getattr(maps[1], name)[..., 2:])
    prompts = PromptRecipe(source=TEXTS[:2]).of([None] * 2, [None] * 2)
    group = groups.Inverted(path=s, maps=maps[:2], prompts=prompts)
    x = groups.fuse_pictures(sd, group, [("linear", [0, 1])], mask_HW=right)
    first, second = sd.encode(images[:2])
    left, after = slice(None, 2), slice(2, None)
    for side, own, other in ((left, first, second), (after, second, first)):
        near, far = ((x[0] - z)[..., side].square().mean() for z in (own, other))
        assert near < far / 4


@pytest.mark.parametrize(("value", "parent"), [(0.0, 0), (1.0, 1)])
def test_a_region_of_nothing_is_the_first_latent_and_of_all_the_second(sd, images, made, value, parent):
    prompts, s, maps = made
    two = replace(prompts, source=prompts.source[:2], target=prompts.target[:2])
    group = groups.Inverted(path=s, maps=maps[:2], prompts=replace(two, guidance_target=2.0))
    x = groups.fuse_pictures(sd, group, [("cross_fade", [0, 1])], mask_HW=torch.full((32, 32), value))
    assert psnr(x[0], sd.encode(images[:2])[parent]) > 100
