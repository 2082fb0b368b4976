"""Own models of a straight path, pixel and latent, with and without classes: pictures come back, mixtures are made."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import taught_model, tiny_kl, tiny_taesd

from noiseweave.engine.diffusion import dpm_solver
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion import groups
from noiseweave.engine.fusion.recipes import MODES, FusionRecipe
from noiseweave.engine.fusion.reconstruction import fidelity, reconstruct
from noiseweave.engine.networks import base_models, latents, loading
from noiseweave.engine.networks.recipes import ModelConfig, PromptRecipe
from noiseweave.engine.records import Pair

MADE = [("flow", None, 0), ("flow", tiny_kl, 4), ("linear_mixing", None, 4), ("linear_mixing", tiny_taesd, 0)]
RECIPES = [
    InversionRecipe(num_steps=10, skip=0),
    InversionRecipe(num_steps=20, skip=5, eta=0.5),
    InversionRecipe(num_steps=12, skip=1, eta=0.0),
    InversionRecipe(num_steps=12, skip=0, sampler="sde-dpm-solver++"),
    InversionRecipe(num_steps=12, skip=1, sampler="sde-dpm-solver++", eta=0.5),
    InversionRecipe(num_steps=5, skip=1, noise_shift=1.0),
]


@pytest.fixture(
    scope="module", params=MADE, ids=lambda p: f"{p[0]}-{p[1].__name__ if p[1] else 'pixels'}-{p[2]}"
)
def saved(request, tmp_path_factory):
    """(folder of a small model, classes)."""
    kind, make, classes = request.param
    torch.manual_seed(0)
    encoder, x = make and make(), latents.to_pixels(smooth_pictures(24))
    x = latents.encode(encoder, x) if encoder else x
    model = taught_model(kind, x, torch.arange(24) % 4, classes=classes, channels=3, encoder=encoder)
    folder = tmp_path_factory.mktemp("straight")
    base_models.save(model, folder, torch.float32)
    return str(folder), classes


def smooth_pictures(count):
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(16, 16), mode="bilinear")
    return (smooth * 255).byte().permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def pictures():
    return smooth_pictures(3)


def told(classes, **more):
    return PromptRecipe(**more).classes([1, None, 3]) if classes else None


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: f"{r.sampler}-{r.eta}")
def test_a_straight_path_gives_pictures_back(saved, pictures, recipe):
    """In float32 and bf16, each picture conditioned on its class; as many as there are, or one a call."""
    name, classes = saved
    for precision, decibel in (("fp32", 100), ("bf16", 55)):
        model = loading.load(ModelConfig(name=name, precision=precision))
        prompts = told(classes, guidance_source=2.0, guidance_interval=(0.3, 0.7))
        for rows in (1, 8):
            model.parts.size = rows
            path, maps = groups.invert_pictures(model, pictures, "abc", recipe, 0, prompts)
            assert len(path) == recipe.num_steps - recipe.skip
            assert min(fidelity(model, path, maps, pictures, prompts, recipe.sampler)) >= decibel
    trios, spaces = reconstruct(loading.load(ModelConfig(name=name)), pictures, "abc", recipe, 0, False)
    assert min(spaces.values()) >= 100
    assert [t.key for t in trios] == ["a", "b", "c"]


def test_any_batch_gives_the_same_mixtures_and_the_ends_are_the_pictures(saved, pictures):
    name, classes = saved
    pairs = [Pair(a=0, b=1, similarity=0.9, mode=m, ratio=0.4, seed=i) for i, m in enumerate(MODES)]
    pairs += [Pair(a=2, b=0, similarity=0.9, mode=m, ratio=r, seed=9) for m in MODES for r in (0.0, 1.0)]
    recipe, fusion = InversionRecipe(num_steps=8, skip=1), FusionRecipe(variation=0.0)

    def made(rows, fusion=fusion):
        model = loading.load(ModelConfig(name=name))
        model.parts.size = rows
        parents = groups.Parents(image_BHWC=pictures, keys="abc", prompts=told(classes))
        return groups.augment(model, parents, pairs, recipe, fusion, 0).image_PHWC.astype(int)

    whole = made(64)
    assert np.abs(whole - made(3)).max() <= 1
    model = loading.load(ModelConfig(name=name))
    own = model.decode(model.encode(pictures)).astype(int)
    for i, picture in enumerate(whole[4:]):
        assert np.abs(picture - own[(2, 0)[i % 2]]).max() <= 1
    fresh = made(64, FusionRecipe(variation=1.0))
    assert not np.array_equal(fresh, whole)


def test_conditioned_on_its_class_a_map_is_another(saved, pictures):
    name, classes = saved
    if not classes:
        assert loading.describe(name).conditioning == "none"
        return
    model, recipe = loading.load(ModelConfig(name=name)), InversionRecipe(num_steps=6, skip=1)
    alike = np.repeat(pictures[:1], 3, 0)
    _, maps = groups.invert_pictures(model, alike, "aaa", recipe, 0, told(classes))
    r_B = [m.residual_TCHW for m in maps]
    assert (r_B[0] - r_B[2]).abs().max() > 1e-4
    _, silent = groups.invert_pictures(model, alike[:1], "a", recipe, 0)
    torch.testing.assert_close(silent[0].residual_TCHW, r_B[1], rtol=1e-4, atol=1e-4)
    twice = groups.source_denoiser(model, replace(told(classes), guidance_source=3.0))
    solver = dpm_solver.SOLVERS["ddim"]
    assert solver.invert(
        twice, model.path(recipe), model.encode(alike), torch.zeros(5, 3, *maps[0].x_T_CHW.shape)
    )


def test_what_is_known_before_the_weights_are_loaded(saved):
    found = loading.describe(saved[0])
    assert (found.path, found.trained_steps) == ("straight", 1000)
    assert found.prediction == ("sample" if found.family == "linear_mixing" else "flow")
    for recipe in RECIPES:
        loading.settled_chain(found, recipe)
    assert len(loading.fingerprint(found)) == 16
    with pytest.raises(ValueError, match=r"prompt\.target='a': model .* reads no words"):
        loading.check_prompt(found, PromptRecipe(target="a"))
