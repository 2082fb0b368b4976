"""Folders of latent models: what is missing, broken or of another kind is one line."""

import json
import shutil
from dataclasses import replace

import pytest
from small_pipeline import change, flag_everything

from noiseweave.engine.networks import facts, loading
from noiseweave.engine.networks.recipes import ModelConfig, PromptRecipe


def test_a_safety_checker_that_is_there_flags(sd_copy, images):
    flag_everything(sd_copy)
    model = loading.load(ModelConfig(name=str(sd_copy)))
    assert model.flagged(images).all()
    assert model.decode(model.encode(images)).max() > 0
    model = loading.load(ModelConfig(name=str(sd_copy), safety_checker=False))
    assert not model.flagged(images).any()


BREAKS = {
    "no vae": (lambda m: shutil.rmtree(m / "vae"), "vae/ is missing"),
    "no text encoder": (lambda m: shutil.rmtree(m / "text_encoder"), "text_encoder/ is missing"),
    "no weights": (
        lambda m: next((m / "unet").glob("*.safetensors")).unlink(),
        "unet/.*safetensors is missing",
    ),
    "inpainting": (
        lambda m: change(m / "unet/config.json", in_channels=9),
        "takes 9 channels and its vae gives 4",
    ),
    "flow": (
        lambda m: change(
            m / "scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"
        ),
        "of this family those with a noise schedule are supported",
    ),
    "target": (
        lambda m: change(m / "scheduler/scheduler_config.json", prediction_type="flow"),
        "it predicts flow",
    ),
    "other vae": (lambda m: change(m / "vae/config.json", _class_name="VQModel"), "its VAE is a VQModel"),
    "no square": (lambda m: change(m / "unet/config.json", sample_size=[4, 8]), "square pictures"),
    "cut weights": (lambda m: next((m / "vae").glob("*.saf*")).write_bytes(b"12345678{"), "model"),
    "other family": (
        lambda m: change(m / "model_index.json", _class_name="QwenImageEditPipeline"),
        "its unet is UNet2DConditionModel; supported are pixel models",
    ),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_model_is_one_clear_line(sd_copy, how):
    damage, words = BREAKS[how]
    damage(sd_copy)
    with pytest.raises(ValueError, match=words) as error:
        loading.load(ModelConfig(name=str(sd_copy)))
    assert "\n" not in str(error.value)


def test_prompts_are_for_models_that_read(sd_folder):
    text, digits = loading.describe(str(sd_folder)), loading.describe("digits-ddpm")
    assert (text.conditioning, digits.conditioning) == ("text", "none")
    loading.check_prompt(text, PromptRecipe(target="a"))
    loading.check_prompt(digits, PromptRecipe())
    with pytest.raises(ValueError, match=r"prompt\.guidance_target=3\.0: model 'digits-ddpm' reads no words"):
        loading.check_prompt(digits, replace(PromptRecipe(), guidance_target=3.0))


@pytest.mark.parametrize("kind", [[1], {"a": 1}, None, 3])
def test_an_index_whose_pipeline_is_no_name_is_one_line(kind, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    with pytest.raises(ValueError, match="supported are") as error:
        facts.read_facts(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("unet", [[], "x", ["diffusers"], [[1]], {"a": 1}])
def test_an_index_whose_network_is_of_another_kind_is_one_line(unet, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "DDPMPipeline", "unet": unet}))
    with pytest.raises(ValueError, match="supported are"):
        facts.read_facts(str(tmp_path))
