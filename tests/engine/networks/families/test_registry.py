"""Every family against diffusers' own pipeline: the ODE along our path from the same latents, and what is drawn."""

import diffusers
import numpy as np
import pytest
import small_transformers
import torch

from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.networks import facts, loading, text_encoding, text_pipeline
from noiseweave.engine.networks.families import registry
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.recipes import ModelConfig, TextRecipe
from noiseweave.engine.seeding import generator

STEPS, SIDE = 4, 64
PROMPTS = [Prompt(text="a photo of a cat", key="0"), Prompt(text="a dog", key="1")]
GUIDANCE = {"sd3": 4.0, "dev": 3.5, "schnell": 1.0, "z_image": 4.0, "qwen_image": 4.0}
FREE = ("sd3", "z_image", "qwen_image")  # of classifier-free guidance


def of(name, folder):
    if name in ("dev", "schnell"):
        return small_transformers.flux(folder, name)
    return getattr(small_transformers, name)(folder)


@pytest.fixture(scope="module", params=list(GUIDANCE))
def small(request, tmp_path_factory):
    """(name, folder) of a small pipeline."""
    return request.param, of(request.param, tmp_path_factory.mktemp(request.param) / "small")


def theirs(folder, z, guidance, **more):
    """diffusers' own picture of each prompt."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    family = registry.family_of(pipe)
    if family.name == "qwen_image" and guidance > 1:  # guided where it is given a negative prompt
        more = {"negative_prompt": [" "] * len(PROMPTS), **more}
    return pipe(
        prompt=[p.text for p in PROMPTS],
        latents=family.pack(z),
        height=SIDE,
        width=SIDE,
        num_inference_steps=STEPS,
        **family.options(guidance, 0.0),
        output_type="np",
        **more,
    ).images


def noise():
    return torch.stack([torch.randn(16, 8, 8, generator=generator(5, "sample", p.key)) for p in PROMPTS])


def along(folder, guidance):
    """The ODE along our path: our pictures and diffusers' own."""
    model = loading.load(ModelConfig(name=str(folder)), size=SIDE)
    path = model.path(InversionRecipe(num_steps=STEPS, skip=0, eta=0.0))
    denoise = model.conditioned(model.words([p.text for p in PROMPTS]), guidance)
    x = z = noise()
    for i, t in enumerate(path.t_T):
        x = path.mean(x, denoise(x, t.expand(len(x))), i)
    ours = (model._finite(model.decoding, x).clamp(-1, 1) + 1) / 2
    return ours.permute(0, 2, 3, 1).numpy(), theirs(folder, z, guidance)


def test_the_ode_along_our_path_is_diffusers_own_pipeline(small):
    name, folder = small
    ours, expected = along(folder, GUIDANCE[name])
    assert np.abs(ours - expected).max() < 1e-3
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    if name in FREE:
        ours, plain = along(folder, 1.0)
        assert np.abs(ours - plain).max() < 1e-3
        assert np.abs(plain - expected).max() > 1e-2


def test_guidance_and_words_reach_the_network(small):
    name, folder = small
    model = loading.load(ModelConfig(name=str(folder)), size=SIDE)
    words, x, t = model.words(["a cat", "a dog"]), noise(), torch.full((2,), 600.0)
    plain, guided = (model.conditioned(words, scale)(x, t) for scale in (1.0, 5.0))
    assert torch.equal(plain, guided) == (name == "schnell")
    assert not torch.allclose(plain, model.conditioned(model.words(["a dog", "a cat"]))(x, t), atol=1e-5)


def test_what_is_drawn_is_the_pipelines_own(small):
    name, folder = small
    guidance = GUIDANCE[name]
    recipe = TextRecipe(sampler="euler", steps=STEPS, guidance=guidance, height=SIDE, width=SIDE)
    model = text_pipeline.load(ModelConfig(name=str(folder)), recipe)
    drawn, beliefs = text_pipeline.trajectory(model, PROMPTS, recipe, 5, STEPS)
    expected = theirs(folder, noise(), guidance)
    assert np.abs(drawn / 255 - expected).max() < 1e-2
    assert beliefs.shape == (STEPS, 2, SIDE, SIDE, 3)
    assert np.array_equal(beliefs[-1], drawn)  # the last step lands on the x_0 that it saw
    assert model.calls(recipe) == STEPS


def test_inversion_and_replay_give_latents_back(small):
    _, folder = small
    model = loading.load(ModelConfig(name=str(folder)), size=SIDE)
    from latent_models import psnr, there_and_back, told

    image = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    ours, x_0 = there_and_back(model, image, told(2), InversionRecipe(num_steps=5, skip=1))
    assert psnr(ours, x_0) > 90


def test_a_long_prompt_is_read_where_clip_ends_and_its_end_is_named(small):
    name, folder = small
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    most = {"sd3": 256, "z_image": 512 - len("<user\n") + 2, "qwen_image": 514}.get(name, 512)
    # a character is a token here; CLIP, which ends at 77, gives the pooled embedding alone
    fits, long = "x" * (most - 2), "x" * (most - 2) + "yz"
    assert text_encoding.truncated_ends(pipe, [Prompt(text=fits, key="a")]) == {}
    assert text_encoding.truncated_ends(pipe, [Prompt(text=long, key="a")]) == {long: "yz"}


def test_every_family_names_pipelines_of_diffusers():
    for name, family in registry.FAMILIES.items():
        assert family.name == name
        assert all(hasattr(diffusers, kind) for kind in (family.pipeline, family.filling) if kind)
        assert registry.BY_PIPELINE[family.pipeline] is family
        assert family.pipeline in registry.text_to_image()


def test_a_single_step_begins_at_noise_alone(small):
    _, folder = small
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    # Qwen-Image's scheduler, asked for one step, gives 0 / 0
    assert registry.family_of(pipe).sigmas(pipe.scheduler, 1, (8, 8)).tolist() == pytest.approx([1.0])


def test_facts_of_a_family(small):
    name, folder = small
    found = facts.read_facts(str(folder))
    assert found.family == (name if name in registry.FAMILIES else "flux")
    assert (found.path, found.prediction, found.conditioning) == ("straight", "flow", "text")
    assert (found.network_channels, found.latent_channels, found.multiple) == (16, 16, 16)
    assert found.side == (SIDE if name == "sd3" else 1024)
    assert not found.sees_holes


# models of Stable Diffusion's layouts that are distilled for few steps


def distilled(kind, source, folder):
    """A small pipeline as SD-Turbo, SDXL-Turbo or a latent consistency model is saved, with random weights."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(source, use_safetensors=True)
    schedule = {**pipe.scheduler.config, "prediction_type": "epsilon"}
    if kind == "turbo":
        euler = diffusers.EulerAncestralDiscreteScheduler.from_config(schedule, timestep_spacing="trailing")
        pipe.register_modules(scheduler=euler)
    else:
        torch.manual_seed(1)
        unet = diffusers.UNet2DConditionModel.from_config(pipe.unet.config, time_cond_proj_dim=16)
        parts = {**pipe.components, "unet": unet, "scheduler": diffusers.LCMScheduler.from_config(schedule)}
        pipe = diffusers.LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)
    pipe.save_pretrained(folder)
    return str(folder)


DISTILLED = [("turbo", "kl_folder"), ("turbo", "xl_folder"), ("lcm", "kl_folder")]


@pytest.mark.parametrize(("kind", "source"), DISTILLED)
def test_a_distilled_model_gives_pictures_back_in_few_shifted_steps(kind, source, request, tmp_path):
    from latent_models import psnr, there_and_back, told

    name = distilled(kind, request.getfixturevalue(source), tmp_path / "small")
    found = loading.describe(name)
    assert found.usual.steps == 4
    assert found.usual.guidance == (8.5 if kind == "lcm" else 1.0)
    model, image = (
        loading.load(ModelConfig(name=name)),
        np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8),
    )
    for steps, skip in ((4, 1), (5, 1), (8, 0)):
        recipe = loading.settled_chain(found, InversionRecipe(num_steps=steps, skip=skip))
        assert recipe.noise_shift == 1.0
        assert loading.long_chain(found, recipe) is None
        ours, x_0 = there_and_back(model, image, told(2, guidance_source=2.0), recipe)
        assert psnr(ours, x_0) > 95
        path = model.path(recipe)
        assert path.t_T[0] == round(1000 - 1000 * skip / steps) - 1  # its own, trailing, time steps
        assert (path.drawn_T[1][:-1] < path.sigma_T[:-1]).all()
        assert path.drawn_T[1][-1] == 0


@pytest.mark.parametrize(("kind", "source"), DISTILLED)
def test_a_long_chain_of_a_distilled_model_is_noted_and_a_chosen_shift_stays(kind, source, request, tmp_path):
    found = loading.describe(distilled(kind, request.getfixturevalue(source), tmp_path / "small"))
    note = loading.long_chain(found, InversionRecipe(num_steps=50, skip=10))
    assert note.startswith("inversion.num_steps=50, skip=10: 40 steps of ")
    assert note.endswith("which is distilled for few; 3 to 8 serve, such as num_steps 5, skip 1")
    settled = loading.settled_chain
    assert settled(found, InversionRecipe(num_steps=5, noise_shift=0.25, skip=1)).noise_shift == 0.25
    assert (
        settled(found, InversionRecipe(num_steps=5, skip=4)).noise_shift == 0
    )  # the one step needs its noise
    whole = loading.describe(str(request.getfixturevalue(source)))
    assert settled(whole, InversionRecipe(num_steps=5, skip=1)).noise_shift == 0
    assert loading.long_chain(whole, InversionRecipe()) is None


def test_schnell_is_distilled_and_others_are_not(small):
    name, folder = small
    recipe = loading.settled_chain(loading.describe(str(folder)), InversionRecipe(num_steps=5, skip=1))
    assert recipe.noise_shift == (name == "schnell")


def test_a_latent_consistency_model_has_its_guidance_as_its_own_pipeline_gives_it(kl_folder, tmp_path):
    name = distilled("lcm", kl_folder, tmp_path / "small")
    model, seen = loading.load(ModelConfig(name=name)), []
    assert registry.BY_PIPELINE["LatentConsistencyModelPipeline"].name == "sd"
    pipe = diffusers.LatentConsistencyModelPipeline(
        **model.text.pipeline.components, requires_safety_checker=False
    )
    pipe.scheduler = diffusers.LCMScheduler.from_pretrained(name, subfolder="scheduler")
    handle = model.unet.register_forward_pre_hook(lambda _m, _a, named: seen.append(named), with_kwargs=True)
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    pipe("a cat", latents=x, num_inference_steps=1, guidance_scale=5.5, output_type="latent")
    model.conditioned(model.words(["a cat"]), 5.5)(x, torch.tensor([999]))
    handle.remove()
    theirs, ours = seen
    torch.testing.assert_close(ours["timestep_cond"], theirs["timestep_cond"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours["encoder_hidden_states"], theirs["encoder_hidden_states"])
    assert len(ours["encoder_hidden_states"]) == 1
