"""A base model's folder: what is saved is what is loaded, diffusers opens it, what is broken is one line."""

import json
import pickle

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, LDMPipeline, UNet2DModel
from small_models import model_of, tiny_kl, tiny_taesd

from noiseweave.engine import seeding
from noiseweave.engine.networks import base_models, facts, latents, loading
from noiseweave.engine.networks.recipes import KINDS, UNETS, ModelConfig
from noiseweave.engine.sampling import samplers
from noiseweave.engine.sampling.recipes import SamplerRecipe

RECIPE = SamplerRecipe(steps=3)


def saved(model, folder, dtype=torch.float32):
    base_models.save(model, folder, dtype)
    return str(folder)


def loaded(name, **more):
    return base_models.load(ModelConfig(name=name, **more))


def drawn(model):
    label = torch.tensor([1, model.classes]) if model.classes else None
    return samplers.draw(model, range(2), label, RECIPE, 5).image_BHWC


@pytest.mark.parametrize("classes", [0, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_draws_what_was_saved(kind, classes, tmp_path):
    if classes and kind not in UNETS:
        pytest.skip("has no classes")
    model = model_of(kind, classes=classes, channels=3)
    before = drawn(model)
    again = loaded(saved(model, tmp_path))
    for field in ("kind", "classes", "size", "channels", "noise_shape"):
        assert getattr(again, field) == getattr(model, field), field
    assert np.array_equal(drawn(again), before)
    assert before.std() > 0
    assert not list(tmp_path.rglob("*.bin"))
    assert not any(w.requires_grad for w in again.network.parameters())


@pytest.mark.parametrize("make", [tiny_kl, tiny_taesd])
@pytest.mark.parametrize("kind", ["ddpm", "flow"])
def test_a_latent_model_keeps_its_vae(kind, make, tmp_path):
    torch.manual_seed(0)
    model = model_of(kind, channels=3, encoder=make())
    before = drawn(model)
    again = loaded(saved(model, tmp_path))
    assert again.noise_shape == model.noise_shape
    assert again.noise_shape[1:] == (8, 8)
    assert type(again.encoder) is type(model.encoder)
    assert np.array_equal(drawn(again), before)
    assert before.shape == (2, 16, 16, 3)
    assert mark_of(tmp_path) == mark_of(tmp_path)


def test_half_precision_halves_the_weights_and_changes_little(tmp_path):
    model = model_of()
    full = drawn(model).astype(float)
    assert np.abs(drawn(loaded(saved(model, tmp_path, torch.float16))) - full).max() <= 2
    assert loaded(str(tmp_path), precision="bf16").dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["ddpm", "latent", "vae", "dcgan"])
def test_weights_named_fp16_alone_are_read(kind, tmp_path):
    torch.manual_seed(0)
    model = model_of("ddpm", channels=3, encoder=tiny_kl()) if kind == "latent" else model_of(kind)
    full = drawn(model).astype(float)
    saved(model, tmp_path, torch.float16)
    renamed = [f.rename(f.with_suffix(".fp16.safetensors")) for f in tmp_path.rglob("*.safetensors")]
    assert renamed
    again = loaded(str(tmp_path))
    assert {w.dtype for w in again.network.parameters()} == {torch.float32}
    assert np.abs(drawn(again) - full).max() <= 8
    if kind == "ddpm":
        assert loading.load(ModelConfig(name=str(tmp_path))).unet.dtype == torch.float32


def test_diffusers_draws_a_flow_as_our_euler_does(tmp_path):
    """At 1000 steps its grid of sigmas, linspace(1, 0.001) and 0, is ours."""
    model = model_of("flow", size=4, unet=(8,))
    folder = saved(model, tmp_path)
    pipe = quiet(DDPMPipeline.from_pretrained(folder))
    theirs = pipe(generator=seeding.generator(7, "sample", 0), num_inference_steps=1000, output_type="np")
    ours = samplers.draw(loaded(folder), [0], None, SamplerRecipe(name="euler", steps=1000), 7).image_BHWC
    assert np.abs(theirs.images * 255 - ours).max() <= 0.6
    assert ours.std() > 5


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_diffusers_draws_a_ddpm_as_ours_does(tmp_path):
    model = model_of(size=8)
    pipe = quiet(DDPMPipeline.from_pretrained(saved(model, tmp_path)))
    theirs = pipe(generator=seeding.generator(7, "sample", 0), num_inference_steps=10, output_type="np")
    recipe = SamplerRecipe(name="ddpm", steps=10, spacing="leading")
    ours = samplers.draw(model, [0], None, recipe, 7).image_BHWC
    assert np.abs(theirs.images * 255 - ours).max() <= 0.6


def test_diffusers_draws_from_latents_and_decodes_them(tmp_path):
    torch.manual_seed(0)
    model = model_of(channels=3, encoder=tiny_kl())
    pipe = quiet(LDMPipeline.from_pretrained(saved(model, tmp_path)))
    images = pipe(batch_size=2, num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 16, 16, 3)
    assert np.isfinite(images).all()


@pytest.mark.parametrize("make", [tiny_kl, tiny_taesd])
def test_latents_are_the_vaes_scaled_as_diffusers_scales_them(make):
    torch.manual_seed(0)
    vae = make().eval()
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        out = vae.encode(x)
        raw = out.latent_dist.mean if hasattr(out, "latent_dist") else out.latents
        picture = vae.decode(raw).sample
    z = latents.encode(vae, x)
    torch.testing.assert_close(z, raw * vae.config.scaling_factor)
    assert base_models.latent_shape(vae, 16) == tuple(z.shape[1:])
    torch.testing.assert_close(latents.decode(vae, z), picture, atol=1e-5, rtol=1e-4)


def test_a_vae_is_found_in_a_pipelines_folder_too_and_is_frozen(tmp_path):
    tiny_kl().save_pretrained(tmp_path / "vae")
    vae = base_models.load_encoder(str(tmp_path))
    assert isinstance(vae, AutoencoderKL)
    assert not any(w.requires_grad for w in vae.parameters())


def test_the_vae_that_ships_gives_a_photo_back():
    from sklearn.datasets import load_sample_image

    photo = load_sample_image("flower.jpg")[None, :256, :256]
    vae = base_models.load_encoder("taesd")
    z = latents.encode(vae, latents.to_pixels(photo))
    assert z.shape == (1, 4, 32, 32)
    back = latents.to_uint8(latents.decode(vae, z)).astype(int)
    assert np.square(back - photo).mean() < 80  # 29 dB


def mark_of(folder):
    return facts.fingerprint(facts.read_facts(str(folder)))


def test_a_foreign_ddpm_pipeline_is_a_base_model(tmp_path):
    unet = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
    )
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler(beta_schedule="linear")).save_pretrained(tmp_path)
    found = facts.read_facts(str(tmp_path))
    assert (found.family, found.classes, found.side, found.channels) == ("ddpm", 0, 8, 3)
    assert drawn(loaded(str(tmp_path))).shape == (2, 8, 8, 3)


@pytest.mark.parametrize("kind", ["ddpm", "flow"])
@pytest.mark.parametrize("latent", [False, True])
def test_what_diffusers_folder_says_is_what_ours_says(kind, latent, tmp_path):
    """Without noiseweave.json, everything but linear mixing is told from diffusers' own configs."""
    model = model_of(kind, classes=3, channels=3, encoder=tiny_kl() if latent else None)
    folder = saved(model, tmp_path)
    ours = facts.read_facts(folder)
    own = json.loads((tmp_path / "noiseweave.json").read_text())
    (tmp_path / "noiseweave.json").write_text(json.dumps(own | {"classes": 0, "guidance": 3}))
    assert facts.read_facts(folder).guidance == 1, "that of a model without classes means nothing"
    (tmp_path / "noiseweave.json").unlink()
    assert facts.read_facts(folder) == ours
    assert (ours.family, ours.classes, ours.side, ours.channels) == (kind, 3, 16, 3)


def spoil_weights(folder):
    (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"junk")


def only_a_pickle(folder):
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.unlink()
    weights.with_name("diffusion_pytorch_model.bin").write_bytes(pickle.dumps({}))


def no_weights(folder):
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()


def another_architecture(folder):
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps({**config, "block_out_channels": [8, 32]}))


def no_scheduler(folder):
    (folder / "scheduler/scheduler_config.json").unlink()


def no_index(folder):
    (folder / "model_index.json").unlink()


def no_kind(folder):
    (folder / "noiseweave.json").write_text('{"kind": "wizard", "classes": 0, "size": 8, "channels": 1}')


BREAKS = [spoil_weights, only_a_pickle, no_weights, another_architecture, no_scheduler, no_index, no_kind]


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_folder_is_one_clear_line(how, tmp_path):
    folder = saved(model_of(), tmp_path)
    how(tmp_path)
    with pytest.raises(ValueError, match="model ") as e:
        loaded(folder)
    assert "\n" not in str(e.value)
    assert str(tmp_path) in str(e.value)


def test_models_of_another_kind_are_refused_by_name(tmp_path):
    index = {"_class_name": "QwenImageEditPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="a QwenImageEditPipeline, its unet is UNet2DConditionModel"):
        facts.read_facts(str(tmp_path))
    for name, said in (
        ("PixArtAlphaPipeline", "a PixArtAlphaPipeline; supported are"),
        (None, "names no pipeline; supported"),
    ):
        index = {
            "_class_name": name,
            "transformer": ["diffusers", "PixArtTransformer2DModel"],
            "vae": ["diffusers", "A"],
        }
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(ValueError, match=said) as error:
            facts.read_facts(str(tmp_path))
        assert "StableDiffusionXLPipeline" in str(error.value)
        assert "None" not in str(error.value)
    model_of().network.save_pretrained(tmp_path / "vae")
    with pytest.raises(ValueError, match="a UNet2DModel; supported are AutoencoderKL and AutoencoderTiny"):
        base_models.load_encoder(str(tmp_path / "vae"))


def test_a_fingerprint_is_of_weights_and_configs(tmp_path):
    one, other = saved(model_of(), tmp_path / "a"), saved(model_of(classes=2), tmp_path / "b")
    mark = mark_of(one)
    assert mark != mark_of(other)
    (tmp_path / "a/README.md").write_text("words")
    assert mark_of(one) == mark
    spoil_weights(tmp_path / "a")
    assert mark_of(one) != mark


def test_a_saved_model_does_not_say_where_its_vae_lay(tmp_path):
    tiny_kl().save_pretrained(tmp_path / "somewhere")
    encoder = base_models.load_encoder(str(tmp_path / "somewhere"))
    folder = saved(model_of(channels=3, encoder=encoder), tmp_path / "model")
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert len(files) > 4
    assert not [path.name for path in files if b"somewhere" in path.read_bytes()]
    assert loaded(folder).encoder is not None
