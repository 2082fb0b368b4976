"""Models that inpaint: which are known, against diffusers' own pipeline, and which are refused."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import small_pipeline
import small_transformers
import torch
from holes import KINDS, QUICK, pictures, prompts
from small_models import model_of, tiny_kl

from noiseweave.engine.inpainting import filling
from noiseweave.engine.inpainting.models import InpaintFacts, for_inpainting
from noiseweave.engine.inpainting.recipes import InpaintRecipe
from noiseweave.engine.networks import base_models, facts, text_pipeline
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.recipes import ModelConfig, TextRecipe
from noiseweave.engine.seeding import generator, seed_of


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm-solver++", "euler", "pipeline"])
@pytest.mark.parametrize(("guidance", "strength"), [(1.0, 1.0), (4.0, 0.5)])
def test_a_model_made_for_it_gives_what_diffusers_pipeline_gives(
    inpainters, models, sampler, guidance, strength
):
    recipe = InpaintRecipe(steps=6, guidance=guidance, strength=strength, sampler=sampler)
    image = pictures(2, 64, 3)[0]
    hole = np.zeros((2, 64, 64), bool)
    hole[0, 8:40, 16:48] = hole[1, 24:, :32] = True  # on the latent's grid, where nearest neighbour is exact
    model = models("inpaint")
    ours = filling.inpaint(model, image, hole, prompts(2, "a cat", "a dog"), recipe, 3)
    pipe = model.text.pipeline
    pipe.scheduler = text_pipeline.text_scheduler(model.text, TextRecipe(sampler=sampler, steps=6))
    theirs = pipe(
        prompt=["a cat"] * 2,
        negative_prompt=["a dog"] * 2,
        num_inference_steps=6,
        guidance_scale=guidance,
        image=torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255,
        strength=strength,
        height=64,
        width=64,
        mask_image=torch.from_numpy(hole)[:, None].float(),
        output_type="np",
        generator=[generator(3, "inpaint", f"k{i}") for i in range(2)],
    ).images
    assert np.abs(ours[hole].astype(int) - (theirs * 255).round()[hole]).max() <= 1


def test_flux_fill_gives_what_diffusers_pipeline_gives(tmp_path):
    model = filling.load(ModelConfig(name=str(small_transformers.flux(tmp_path / "fill", "fill"))))
    image, hole = pictures(2, 64, 3)[0], np.zeros((2, 64, 64), bool)
    hole[0, 5:41, 13:50] = hole[1, 21:, :35] = True  # off the latents' grid: the network sees each pixel
    ours = filling.inpaint(model, image, hole, prompts(2, "a cat"), InpaintRecipe(steps=4, guidance=30.0), 3)
    pipe, noise = (
        model.text.pipeline,
        [torch.randn(16, 8, 8, generator=generator(3, "inpaint", f"k{i}")) for i in "01"],
    )
    theirs = pipe(
        prompt=["a cat"] * 2,
        image=torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255,
        mask_image=torch.from_numpy(hole)[:, None].float(),
        latents=model.text.family.pack(torch.stack(noise)),
        num_inference_steps=4,
        guidance_scale=30.0,
        height=64,
        width=64,
        output_type="np",
    ).images
    assert np.abs(ours[hole].astype(int) - (theirs * 255).round()[hole]).max() <= 1
    assert np.array_equal(ours[~hole], image[~hole])
    alone = filling.inpaint(
        model, image[:1], hole[:1], prompts(1, "a cat"), InpaintRecipe(steps=4, guidance=30.0), 3
    )
    assert np.abs(alone[0].astype(int) - ours[0]).max() <= 1
    less = InpaintRecipe(steps=4, guidance=30.0, strength=0.5)
    near = filling.inpaint(model, image, hole, prompts(2, "a cat"), less, 3)
    assert np.abs(near[hole].astype(int) - ours[hole]).max() > 1


@pytest.mark.parametrize("name", ["sd3", "dev"])
def test_other_transformers_fill_by_replacement(name, tmp_path):
    make = small_transformers.sd3 if name == "sd3" else small_transformers.flux
    model = filling.load(ModelConfig(name=str(make(tmp_path / name))))
    assert (model.about.kind, model.about.multiple) == ("latent", 16)
    image, hole = pictures(2, 64, 3)
    recipe = InpaintRecipe(steps=4, jump_length=2, resample=2)
    out = filling.inpaint(model, image, hole, prompts(2, "a cat"), recipe, 3)
    assert np.array_equal(out[~hole], image[~hole])
    other = image.copy()
    other[hole] = 255 - other[hole]
    assert np.array_equal(filling.inpaint(model, other, hole, prompts(2, "a cat"), recipe, 3), out)


def test_what_a_safety_checker_flags_is_painted_once_more(tmp_path, inpainters):
    shutil.copytree(inpainters["latent"], tmp_path, dirs_exist_ok=True)
    small_pipeline.flag_everything(tmp_path)
    image, hole = pictures(2, 32, 3)
    model = filling.load(ModelConfig(name=str(tmp_path)))
    done = filling.checked(model, image, hole, prompts(2), QUICK, 0)
    assert done.flagged_B.all()
    assert done.seeds == [seed_of(0, "flagged", p.key) for p in prompts(2)]
    wanted = filling.inpaint(model, image[:1], hole[:1], prompts(2)[:1], QUICK, done.seeds[0])
    assert np.array_equal(done.drawn[:1], wanted)
    assert np.array_equal(done.drawn[~hole], image[~hole])
    model = filling.load(ModelConfig(name=str(tmp_path), safety_checker=False))
    done = filling.checked(model, image, hole, prompts(2), QUICK, 0)
    assert (done.flagged_B.any(), done.seeds) == (False, [0, 0])


def test_a_pipeline_that_knows_flat_walls_continues_one(taught_folder):
    """v-prediction in latents: what it learnt, what the words say and what lies around the hole agree."""
    model = filling.load(ModelConfig(name=str(taught_folder)))
    walls = np.array([[220, 30, 30], [30, 30, 220]], np.uint8)
    image = np.broadcast_to(walls[:, None, None], (2, 32, 32, 3)).copy()
    hole = np.zeros((2, 32, 32), bool)
    hole[:, 8:24, 8:24] = True
    image[hole] = 255
    told = [Prompt(text=f"a {c} wall", key=c) for c in ("red", "blue")]
    recipe = InpaintRecipe(steps=10, jump_length=3, resample=2, guidance=1.0)
    out = filling.inpaint(model, image, hole, told, recipe, 0)
    means = out[hole].reshape(2, -1, 3).mean(1)
    assert np.abs(means - walls).max() < 60


@pytest.mark.parametrize("xl", [False, True])
def test_pipelines_with_two_text_encoders_fill_holes_too(tmp_path, xl):
    folder = small_pipeline.build(tmp_path / "p", xl=True)
    if xl:
        small_pipeline.for_inpainting(folder)
    image, hole = pictures(2, 64, 3)
    model = filling.load(ModelConfig(name=str(folder)))
    assert model.about.repaint is not xl
    out = filling.inpaint(model, image[:, :, :40], hole[:, :, :40], prompts(2, "a cat"), QUICK, 0)
    assert out.shape == (2, 64, 40, 3)
    assert np.array_equal(out[~hole[:, :, :40]], image[:, :, :40][~hole[:, :, :40]])


def described(name):
    return for_inpainting(facts.read_facts(str(name)))


@KINDS
def test_a_model_is_known_before_it_is_loaded(inpainters, models, kind):
    about = described(inpainters[kind])
    assert about == models(kind).about
    assert about.kind == kind
    assert (about.channels, about.size, about.multiple) == ((1, 16, 0) if kind == "pixel" else (3, 64, 8))
    assert about.repaint is (kind != "inpaint")
    assert about.reads_prompts is (kind != "pixel")
    assert len(facts.fingerprint(facts.read_facts(inpainters[kind]))) == 16


@pytest.mark.parametrize("kind", ["flow", "linear_mixing"])
@pytest.mark.parametrize("latent", [False, True])
def test_models_of_a_straight_path_fill_holes(tmp_path, kind, latent):
    made = model_of(kind, classes=3, channels=3, size=16, encoder=tiny_kl() if latent else None)
    base_models.save(made, tmp_path, torch.float32)
    assert described(tmp_path) == InpaintFacts(kind="pixel", channels=3, size=16, multiple=0)
    model, (image, hole) = filling.load(ModelConfig(name=str(tmp_path))), pictures(3, 16, 3)
    out = filling.inpaint(model, image, hole, prompts(3), QUICK, 0)
    assert np.array_equal(out[~hole], image[~hole])
    assert (out[hole] != image[hole]).mean() > 0.5
    alone = filling.inpaint(model, image[1:2], hole[1:2], prompts(3)[1:2], QUICK, 0)
    assert np.abs(alone.astype(int) - out[1:2]).max() <= 1
    model.micro_batch = 1
    assert np.abs(filling.inpaint(model, image, hole, prompts(3), QUICK, 0).astype(int) - out).max() <= 1
    part = dataclasses.replace(QUICK, strength=0.5)
    assert filling.inpaint(model, image, hole, prompts(3), part, 0).shape == image.shape


def test_models_that_cannot_inpaint_are_refused(tmp_path, inpainters):
    folder = tmp_path / "odd"
    small_pipeline.build(folder)
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(config | {"in_channels": 5}))
    with pytest.raises(ValueError, match=r"takes 5 channels; inpainting takes 4, those of the latents"):
        described(str(folder))
    (folder / "unet/config.json").write_text(json.dumps(config))
    weights = folder / "vae/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"vae has its weights only as pickle"):
        filling.load(ModelConfig(name=str(folder)))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"unet": ["my_code", "MyUNet"]}))
    with pytest.raises(ValueError, match=r"unet comes with code of its own \(my_code\)"):
        filling.load(ModelConfig(name=str(folder)))
    base_models.save(model_of("vae"), tmp_path / "vae", torch.float32)
    with pytest.raises(ValueError, match=r"a vae; inpainting takes ddpm, linear_mixing, flow and Stable"):
        described(tmp_path / "vae")
    with pytest.raises(ValueError, match="no such folder"):
        described(str(tmp_path / "nothing"))
