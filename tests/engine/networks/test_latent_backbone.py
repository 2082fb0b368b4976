"""Latent models: invert and replay with words and guidance, batches, the VAE, models without words."""

import shutil

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from latent_models import PAIRS, QUICK, TEXTS, psnr, remade, there_and_back, told
from small_models import model_of, tiny_kl, tiny_taesd

from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.features import spaces
from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.fusion import groups
from noiseweave.engine.fusion.recipes import FusionRecipe
from noiseweave.engine.networks import backbone, base_models, facts, latent_backbone, latents, loading
from noiseweave.engine.networks.recipes import ModelConfig, PromptRecipe


@pytest.fixture(scope="module")
def half(sd_folder):
    return loading.load(ModelConfig(name=str(sd_folder), precision="bf16"))


# there and back


@pytest.mark.parametrize("guidance", [1.0, 3.5, 15.0])
@pytest.mark.parametrize("which", ["sd", "xl"])
def test_replay_gives_the_latents_back_with_any_guidance(which, guidance, images, request):
    model = request.getfixturevalue(which)
    x, z = there_and_back(model, images, told(guidance_source=guidance))
    assert psnr(x, z) > 100
    assert z.shape == (3, 4, 4, 4)
    assert z.std() > 0.01


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_gives_the_latents_back_too(half, sd, images, precision):
    model = half if precision == "bf16" else remade(sd, precision="fp16")
    x, z = there_and_back(model, images, told(guidance_source=3.5))
    assert model.unet.dtype == backbone.DTYPES[precision]
    assert z.dtype == x.dtype == torch.float32
    assert psnr(x, z) > 55
    assert psnr(z, sd.encode(images)) > 40


def test_a_whole_chain_has_every_step_of_the_model(sd):
    s = sd.path(
        InversionRecipe(num_steps=1000, skip=0)
    )  # its scheduler's steps_offset leads one past the end
    assert s.t_T.tolist() == list(range(999, -1, -1))
    assert sd.path(InversionRecipe(num_steps=50, skip=10)).t_T.tolist() == list(range(781, 0, -20))


# batches


def fused(model, images, prompts):
    parents = groups.Parents(image_BHWC=images, keys="abc", prompts=prompts)
    return groups.augment(model, parents, PAIRS, QUICK, FusionRecipe(), 0).image_PHWC.astype(int)


def test_pictures_are_the_same_for_any_micro_batch(sd, images):
    prompts = told(guidance_source=3.0)
    expected = fused(sd, images, prompts)
    assert expected.shape == (4, 32, 32, 3)
    alone = remade(sd, micro_batch=1)
    assert (alone.parts.size, alone.encoding.size, alone.decoding.size) == (1, 1, 1)
    assert np.abs(fused(alone, images, prompts) - expected).max() <= 1
    plain = sd.decode(sd.encode(images)).astype(int)
    for i, parent in ((2, 0), (3, 2)):  # ratios 0 and 1: all that the VAE keeps of a picture
        assert np.abs(expected[i] - plain[parent]).max() <= 1


def test_out_of_memory_halves_each_part_for_itself(sd, images):
    model = remade(sd, micro_batch=32)
    x, t = torch.randn(8, 4, 4, 4), torch.arange(8) * 100
    words = model.words(TEXTS[:2])
    expected, z, picture = model.conditioned(words, 2.0)(x, t), model.encode(images), model.decode(x)

    def small(network, most):
        def call(rows, *more, **named):
            if len(rows) > most:
                raise torch.OutOfMemoryError("not enough memory")
            return network(rows, *more, **named)

        return call

    unet, vae = model.unet, model.vae
    unet.forward = small(unet.forward, 8)  # 4 rows with guidance
    vae.encode, vae.decode = small(vae.encode, 1), small(vae.decode, 2)
    torch.testing.assert_close(model.conditioned(words, 2.0)(x, t), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.encode(images), z, rtol=1e-4, atol=1e-4)
    assert np.abs(model.decode(x).astype(int) - picture).max() <= 1
    assert (model.parts.size, model.encoding.size, model.decoding.size) == (4, 1, 2)


def test_what_is_not_finite_in_half_precision_is_done_again(sd, images):
    model = remade(sd, precision="bf16")
    z, encode = model.encode(images), model.encoding.network

    def overflowing(x):
        out = encode(x)
        if model.vae.dtype != torch.float32:
            out[x[:, 0, 0, 0] == x_1] = torch.inf
        return out

    x_1 = backbone.Backbone.encode(model, images)[1, 0, 0, 0]
    model.encoding.network = overflowing
    again = model.encode(images)
    assert torch.equal(again[[0, 2]], z[[0, 2]])
    assert 0 < (again[1] - z[1]).abs().max() < 0.2
    assert model.vae.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="not finite"):
        model.decode(torch.full((2, 4, 4, 4), torch.nan))


# the VAE


def test_latents_are_the_mode_at_the_pipelines_scale(xl, images):
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        z = xl.vae.encode(x).latent_dist.mean * xl.vae.config.scaling_factor
        out = xl.vae.decode(z / xl.vae.config.scaling_factor).sample
    torch.testing.assert_close(xl.encode(images), z, rtol=1e-4, atol=1e-4)
    wanted = ((out.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert np.abs(xl.decode(z).astype(int) - wanted).max() <= 1


def test_a_vae_with_statistics_of_its_latents(sd, images):
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latents_mean=[1.0, 2, 3, 4],
        latents_std=[2.0, 3, 4, 5],
    )
    model = latent_backbone.LatentBackbone(
        latent_backbone.LatentNetworks(unet=sd.unet, vae=vae, text=sd.text), sd.scheduler
    )
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mean
    z = (z - torch.tensor([1.0, 2, 3, 4]).view(-1, 1, 1)) / torch.tensor([2.0, 3, 4, 5]).view(-1, 1, 1)
    torch.testing.assert_close(model.encode(images), z * 0.18215, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model._decode(z * 0.18215), vae.decode(vae.encode(x).latent_dist.mean).sample)


def shape(name, size=None):
    found = loading.describe(name, size)
    return found.channels, found.side


def test_other_sizes_than_the_models_own(sd_folder):
    name = str(sd_folder)
    assert shape(name) == (3, 32)
    assert shape(name, 40) == (3, 40)
    model = loading.load(ModelConfig(name=name), size=40)
    assert (model.size, model.channels, model.vae_scale_factor) == (40, 3, 8)
    wide = np.zeros((1, 24, 40, 3), np.uint8)  # and what is no square
    x, z = there_and_back(model, wide, told(1))
    assert z.shape == (1, 4, 3, 5)
    assert model.decode(x).shape == wide.shape
    for size in (36, 4):
        with pytest.raises(ValueError, match=f"size={size}: for model .* a multiple of 8"):
            loading.describe(name, size)
    with pytest.raises(ValueError, match="picture of 33 x 32: sides must be multiples of 8"):
        model.encode(np.zeros((1, 32, 33, 3), np.uint8))
    with pytest.raises(ValueError, match="16 x 16 of them alone"):
        loading.load(ModelConfig(name="digits-ddpm"), size=32)


# models without words, and features


@pytest.mark.parametrize("make", [tiny_kl, tiny_taesd])
def test_a_latent_base_model_of_ours(make, tmp_path, images):
    torch.manual_seed(0)
    base = model_of("ddpm", channels=3, encoder=make())
    base_models.save(base, tmp_path, torch.float32)
    name = str(tmp_path)
    assert shape(name) == (3, 16)
    found = loading.describe(name)
    assert (found.conditioning, found.path, found.prediction) == ("none", "vp", "epsilon")
    assert (found.vae_scale_factor, found.trained_steps) == (2, 1000)
    assert loading.fingerprint(found) == facts.fingerprint(found)
    loading.settled_chain(found, InversionRecipe(num_steps=1000))
    model, small = loading.load(ModelConfig(name=name)), images[:, ::2, ::2]
    assert (model.channels, model.size, model.text) == (3, 16, None)
    x, z = there_and_back(model, small, None)
    assert psnr(x, z) > 100
    torch.testing.assert_close(
        z, latents.encode(base.encoder, torch.from_numpy(small).permute(0, 3, 1, 2) / 127.5 - 1)
    )
    assert fused(model, small, None).shape == (4, 16, 16, 3)
    with pytest.raises(ValueError, match=r"size=18: .* a multiple of 4"):  # its unet halves once more
        loading.describe(name, 18)
    with pytest.raises(ValueError, match=r"prompt\.target='a': model .* reads no words"):
        loading.check_prompt(found, PromptRecipe(target="a"))
    shutil.rmtree(tmp_path / "vqvae")
    with pytest.raises(ValueError, match=r"vqvae/config\.json is missing"):
        loading.load(ModelConfig(name=name))


def saved(folder, kind, classes=0):
    base_models.save(model_of(kind, classes=classes, channels=3, encoder=tiny_kl()), folder, torch.float32)
    return str(folder)


def test_models_that_take_no_noise_off_are_refused(tmp_path):
    base_models.save(model_of("vae"), tmp_path / "vae", torch.float32)
    with pytest.raises(ValueError, match="a vae; noise maps need a model that takes noise off step by step"):
        loading.describe(str(tmp_path / "vae"))


def test_a_class_conditional_network_is_told_labels_with_guidance(tmp_path):
    """Against diffusers' own network, which takes numbers of classes: 4 means none here."""
    name = saved(tmp_path, "ddpm", classes=4)
    found = loading.describe(name)
    assert (found.conditioning, found.classes) == ("class", 4)
    loading.check_prompt(found, PromptRecipe(guidance_target=3.0))
    model, network = loading.load(ModelConfig(name=name)), base_models.load(ModelConfig(name=name)).network
    side = network.config.sample_size
    x = torch.randn(4, network.config.in_channels, side, side)
    t, labels = torch.full((4,), 500), [2, None, 0, 99]

    def plain(numbers):
        with torch.inference_mode():
            return network(x, t, class_labels=torch.tensor(numbers), return_dict=False)[0]

    told, unconditional = plain([2, 4, 0, 4]), plain([4, 4, 4, 4])
    expected = unconditional + 3 * (told - unconditional)
    torch.testing.assert_close(
        model.conditioned(model.labels(labels), 3.0)(x, t), expected, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(model.denoise(x, t), unconditional, rtol=1e-4, atol=1e-4)
    outside = model.conditioned(model.labels(labels), 3.0, (0.0, 0.5))(x, t)  # sigma is 0.7 at 500
    torch.testing.assert_close(outside, told, rtol=1e-4, atol=1e-4)
    mixed = model.labels([2, 0]).mixed([[(0, 0.25), (1, 0.75)]])
    assert mixed.weight_PK.tolist() == [[0.75, 0, 0.25, 0, 0]]


def test_features_of_a_latent_network(sd, images):
    extract = spaces.load(FeatureRecipe(name="unet"), lambda: sd)
    f = extract(np.concatenate([images, images[:1], np.zeros_like(images[:1])]))
    assert spaces.side(FeatureRecipe(name="unet"), "digits-ddpm") == 16
    assert np.linalg.norm(f, axis=1) == pytest.approx([1, 1, 1, 1, 0])
    assert f[0] @ f[3] == pytest.approx(1, abs=1e-4)
    assert f[0] @ f[1] < 0.999
