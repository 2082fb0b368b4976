"""Latent models: invert and replay with words and guidance, the pipelines' own calls, edits that show the words."""

import json
import shutil
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import small_pipeline
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from test_base_models import model_of, tiny_kl, tiny_taesd
from transformers import CLIPConfig, CLIPImageProcessor

from noiseweave.engine import (
    augmentation,
    backbone,
    base_models,
    features,
    latent_backbone,
    latents,
    text_to_image,
)
from noiseweave.engine.recipes import FeatureRecipe, FusionRecipe, InversionRecipe, ModelConfig, PromptRecipe
from noiseweave.engine.records import Pair
from noiseweave.engine.replay import replay
from noiseweave.engine.schedule import mean

QUICK = InversionRecipe(num_steps=6, skip=1)
TEXTS = ("a photo of a cat", "a dog", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_pipeline.build(tmp_path_factory.mktemp("sd") / "small", size=32)


@pytest.fixture(scope="module")
def xl_folder(tmp_path_factory):
    return small_pipeline.build(tmp_path_factory.mktemp("xl") / "small", size=32, vae=None, xl=True)


@pytest.fixture(scope="module")
def sd(folder):
    return backbone.load(ModelConfig(name=str(folder)))


@pytest.fixture(scope="module")
def xl(xl_folder):
    return backbone.load(ModelConfig(name=str(xl_folder)))


@pytest.fixture(scope="module")
def half(folder):
    return backbone.load(ModelConfig(name=str(folder), precision="bf16"))


def remade(sd, **more):
    """The same model's networks, set up in another way."""
    unet, vae = deepcopy(sd.unet), deepcopy(sd.vae)
    return latent_backbone.LatentBackbone(unet, vae, sd.scheduler, text=sd.text, **more)


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture(scope="module")
def images():
    """uint8 [3, 32, 32, 3]: smooth, as a VAE likes them."""
    coarse = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    return (smooth * 255).byte().permute(0, 2, 3, 1).numpy()


def told(count=3, **more):
    return PromptRecipe(source=TEXTS[:count], **more).of([None] * count, [None] * count)


def psnr(x, y):
    return float(10 * torch.log10(4 / (x.double() - y.double()).square().mean()))


def there_and_back(model, images, prompts, recipe=QUICK):
    s, maps = augmentation.invert_pictures(model, images, "abc"[: len(images)], recipe, 0, prompts)
    return replay(augmentation.source_denoiser(model, prompts), s, maps), model.encode(images)


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
    s = sd.schedule(1000, 0)  # its scheduler's steps_offset leads one past the end
    assert s.t_T.tolist() == list(range(999, -1, -1))
    assert sd.schedule(50, 10).t_T.tolist() == list(range(781, 0, -20))
    with pytest.raises(ValueError, match=r"inversion\.num_steps=1001"):
        sd.schedule(1001)


# what the network is asked


def by_hand(model, x, t, texts, guidance):
    """Row by row, each half a call of its own; the target is v."""
    pipe, out = model.text.pipeline, []
    for i, text in enumerate(texts):
        words = [pipe.encode_prompt(w, "cpu", 1, False)[0] for w in ("", text)]
        untold, with_words = (pipe.unet(x[i : i + 1], t[i], w).sample for w in words)
        v = untold + guidance * (with_words - untold)
        a = pipe.scheduler.alphas_cumprod[t[i]]
        out.append(a.sqrt() * v + (1 - a).sqrt() * x[i : i + 1])
    return torch.cat(out)


@pytest.mark.parametrize("guidance", [1.0, 7.0])
@torch.no_grad()
def test_the_noise_is_that_of_a_loop_by_hand(sd, guidance):
    g = torch.Generator().manual_seed(3)
    x, t = torch.randn(6, 4, 4, 4, generator=g), torch.tensor([900, 900, 900, 20, 20, 20])
    epsilon = sd.told(sd.words(TEXTS), guidance)  # rows: time steps outermost, prompts within
    torch.testing.assert_close(epsilon(x, t), by_hand(sd, x, t, TEXTS * 2, guidance), rtol=1e-3, atol=1e-4)
    silent = by_hand(sd, x, t, [""] * 6, 1.0)
    torch.testing.assert_close(sd.epsilon(x, t), silent, rtol=1e-3, atol=1e-4)
    assert (epsilon(x, t)[:2] - silent[:2]).abs().max() > 1e-3  # the words are heard


@torch.no_grad()
def test_a_replay_is_that_of_a_loop_by_hand(sd, images):
    prompts = told(2, target="two dogs", guidance_source=2.0, guidance_target=4.0)
    s, maps = augmentation.invert_pictures(sd, images[:2], "ab", QUICK, 0, prompts)
    out = augmentation.fuse_pictures(sd, s, maps[:1], [("linear", [1.0])], prompts=prompts)
    x = maps[0].x_T_CHW[None]
    for i, t in enumerate(s.t_T):
        e = by_hand(sd, x, t[None], ["two dogs"], 4.0)
        x = mean(x, e, s.a_T[i], s.a_prev_T[i]) + maps[0].residual_TCHW[i]
    torch.testing.assert_close(out, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_sdxl_is_told_what_its_pipeline_tells_it(xl, guidance):
    """The network's arguments, against those in the pipeline's own call."""
    seen, pipe = [], xl.text.pipeline

    def look(_module, positional, named):
        seen.append((named["encoder_hidden_states"], named["added_cond_kwargs"]))

    handle = pipe.unet.register_forward_pre_hook(look, with_kwargs=True)
    x = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    try:
        pipe("a cat", latents=x, num_inference_steps=1, guidance_scale=guidance, output_type="latent")
        xl.told(xl.words(["a cat"]), guidance)(x, torch.tensor([500]))
    finally:
        handle.remove()
    (theirs, their_more), (ours, our_more) = seen[0], seen[-1]
    assert len(ours) == (1 if guidance == 1 else 2)
    torch.testing.assert_close(ours, theirs)
    assert ours.shape[1:] == (77, 64)
    for name in ("text_embeds", "time_ids"):
        torch.testing.assert_close(our_more[name], their_more[name])
    assert our_more["time_ids"][0].tolist() == [32, 32, 0, 0, 32, 32]


def sizes_of(model, ask):
    """Rows in each call of the network."""
    seen = []
    handle = model.unet.register_forward_hook(lambda _m, args, _out: seen.append(len(args[0])))
    ask()
    handle.remove()
    return seen


def test_one_call_holds_both_halves_and_no_second_where_none_is_needed(sd):
    x, t = torch.zeros(3, 4, 4, 4), torch.tensor([500] * 3)
    rows = lambda words, guidance: sizes_of(sd, lambda: sd.told(sd.words(words), guidance)(x, t))  # noqa: E731
    assert rows(TEXTS, 3.5) == [6]
    assert rows(TEXTS, 1) == [3]
    assert rows([""], 3.5) == [3], "no words against no words is no guidance"


def test_the_prediction_type_makes_no_difference(sd):
    """The same noise from a network that predicts v, and from one that predicts it outright."""
    g = torch.Generator().manual_seed(1)
    x, t, words = torch.randn(3, 4, 4, 4, generator=g), torch.tensor([30, 500, 900]), sd.words(TEXTS)
    expected = sd.told(words, 4.0)(x, t)
    a = sd.scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)

    class Outright(torch.nn.Module):
        config = sd.unet.config

        def forward(self, x_in, t_in, return_dict, **named):
            a_in = torch.cat([a, a]).to(x_in)
            return ((1 - a_in).sqrt() * x_in + a_in.sqrt() * sd.unet(x_in, t_in, **named).sample,)

    scheduler = DDIMScheduler.from_config(sd.scheduler.config, prediction_type="epsilon")
    other = latent_backbone.LatentBackbone(Outright(), sd.vae, scheduler, text=sd.text)
    assert sd.scheduler.config.prediction_type == "v_prediction"
    torch.testing.assert_close(other.told(words, 4.0)(x, t), expected, rtol=1e-4, atol=1e-4)


# batches


def pair(a, b, ratio, mode="linear"):
    return Pair(a=a, b=b, similarity=0.9, mode=mode, ratio=ratio, seed=0)


PAIRS = [pair(0, 1, 0.3), pair(1, 2, 0.5, "cross_fade"), pair(0, 2, 0.0), pair(0, 2, 1.0)]


def fused(model, images, prompts):
    return augmentation.augment(model, images, "abc", PAIRS, QUICK, FusionRecipe(), 0, prompts)[0].astype(int)


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
    expected, z, picture = model.told(words, 2.0)(x, t), model.encode(images), model.decode(x)

    def small(network, most):
        def call(rows, *more, **named):
            if len(rows) > most:
                raise torch.OutOfMemoryError("not enough memory")
            return network(rows, *more, **named)

        return call

    unet, vae = model.unet, model.vae
    unet.forward = small(unet.forward, 8)  # 4 rows with guidance
    vae.encode, vae.decode = small(vae.encode, 1), small(vae.decode, 2)
    torch.testing.assert_close(model.told(words, 2.0)(x, t), expected, rtol=1e-4, atol=1e-4)
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
        block_out_channels=(8, 8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 4, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 4, latents_mean=[1.0, 2, 3, 4], latents_std=[2.0, 3, 4, 5],
    )  # fmt: skip
    model = latent_backbone.LatentBackbone(sd.unet, vae, sd.scheduler, text=sd.text)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mean
    z = (z - torch.tensor([1.0, 2, 3, 4]).view(-1, 1, 1)) / torch.tensor([2.0, 3, 4, 5]).view(-1, 1, 1)
    torch.testing.assert_close(model.encode(images), z * 0.18215, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model._decode(z * 0.18215), vae.decode(vae.encode(x).latent_dist.mean).sample)


def test_other_sizes_than_the_models_own(folder):
    name = str(folder)
    assert backbone.shape(name) == (3, 32)
    assert backbone.shape(name, 40) == (3, 40)
    model = backbone.load(ModelConfig(name=name), size=40)
    assert (model.size, model.channels, model.shrink) == (40, 3, 8)
    wide = np.zeros((1, 24, 40, 3), np.uint8)  # and what is no square
    x, z = there_and_back(model, wide, told(1))
    assert z.shape == (1, 4, 3, 5)
    assert model.decode(x).shape == wide.shape
    for size in (36, 4):
        with pytest.raises(ValueError, match=f"size={size}: for model .* a multiple of 8"):
            backbone.shape(name, size)
    with pytest.raises(ValueError, match="picture of 33 x 32: sides must be multiples of 8"):
        model.encode(np.zeros((1, 32, 33, 3), np.uint8))
    with pytest.raises(ValueError, match="16 x 16 of them alone"):
        backbone.load(ModelConfig(), size=32)


# words mixed


def test_words_are_mixed_by_weight(xl):
    words = xl.words(["a cat", "two dogs", "a bird"])
    mixed = words.mixed(
        [[(0, 1.0), (1, 0.0)], [(0, 0.0), (1, 1.0)], [(2, 0.5), (2, 0.5)], [(0, 0.25), (1, 0.75)]]
    )
    assert set(mixed.told) == {"prompt_embeds", "pooled_prompt_embeds"}
    for name, x in mixed.told.items():
        own = words.told[name]
        assert all(torch.equal(x[i], own[p]) for i, p in ((0, 0), (1, 1), (2, 2)))
        torch.testing.assert_close(x[3], text_to_image.slerp(own[0], own[1], 0.75))
    three = words.mixed([[(0, 2.0), (1, 1.0), (2, 1.0)], [(0, 0.0), (1, 0.0), (2, 3.0)]])
    own = words.told["prompt_embeds"]
    step = text_to_image.slerp(own[0], own[1], 1 / 3)
    torch.testing.assert_close(three.told["prompt_embeds"][0], text_to_image.slerp(step, own[2], 1 / 4))
    assert torch.equal(three.told["prompt_embeds"][1], own[2])


def test_what_pictures_are_told():
    of = lambda **fields: PromptRecipe(**fields).of(["3", "ant", None], ["a {label}", None, "x"])  # noqa: E731
    assert of().source == of().target == ("a {label}", "", "x")  # a caption's own braces stay
    assert of(template="one {label}").source == ("one 3", "one ant", "x")
    assert of(template="{caption}, {label}").source == ("a {label}, 3", "", "x")
    assert of(source="y", target="{label} oil").target == ("3 oil", "ant oil", "y")
    assert of(source=("p", "q", "r")).target == ("p", "q", "r")
    scales = lambda **fields: (of(**fields).guidance_source, of(**fields).guidance_target)  # noqa: E731
    assert scales() == (1, 1)
    assert scales(target="z") == (3.5, 15)
    assert scales(guidance_source=2.0) == (2, 2)
    assert scales(target="z", guidance_source=2.0, guidance_target=1.0) == (2, 1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"guidance_source": 0.5}, r"prompt\.guidance_source=0\.5: 1 \(off\) to 100"),
        ({"guidance_target": 101.0}, r"prompt\.guidance_target=101"),
        ({"source": "a", "template": "b"}, "either source or template"),
    ],
)
def test_wrong_prompts(fields, words):
    with pytest.raises(ValueError, match=words):
        PromptRecipe(**fields)
    with pytest.raises(ValueError, match="one for each of the 3 pictures"):
        PromptRecipe(source=("a", "b")).of([None] * 3, [None] * 3)


# an edit that shows its words


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    """A pipeline that has learnt two flat colours in some seconds."""
    if not small_pipeline.TAESD.is_dir():
        pytest.skip("no TAESD here: a random VAE has no colours")
    torch.set_num_threads(1)
    folder = small_pipeline.build(tmp_path_factory.mktemp("taught") / "small", size=32)
    small_pipeline.teach(folder, {"a red wall": (220, 30, 30), "a blue wall": (30, 30, 220)}, 80)
    return backbone.load(ModelConfig(name=str(folder)))


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
        s, maps = augmentation.invert_pictures(painter, wall, "k", recipe, 0, prompts.of([None], [None]))
        told = prompts.of([None], [None])
        x = augmentation.fuse_pictures(painter, s, maps, [("linear", [1.0])], prompts=told)
        edits[target] = redness(painter.decode(x))[0]
    assert edits["a red wall"] > 150  # told the same again, it comes back
    assert edits["a blue wall"] < edits["a red wall"] - 100


def test_a_larger_guidance_moves_the_picture_further(painter):
    wall, recipe, red = walls((220, 30, 30)), InversionRecipe(num_steps=20, skip=6), []
    for guidance in (1.0, 3.0):
        prompts = PromptRecipe(
            source="a red wall", target="a blue wall", guidance_source=1, guidance_target=guidance
        ).of([None], [None])
        s, maps = augmentation.invert_pictures(painter, wall, "k", recipe, 0, prompts)
        x = augmentation.fuse_pictures(painter, s, maps, [("linear", [1.0])], prompts=prompts)
        red.append(redness(painter.decode(x))[0])
    assert red[1] < red[0] - 10


def test_fused_walls_lie_between_their_parents(painter):
    images = walls((220, 30, 30), (30, 30, 220))
    prompts = PromptRecipe(source=("a red wall", "a blue wall")).of([None] * 2, [None] * 2)
    s, maps = augmentation.invert_pictures(
        painter, images, "ab", InversionRecipe(num_steps=20, skip=2), 0, prompts
    )
    recipes = [("linear", [1 - r, r]) for r in (0, 0.5, 1)]
    x = augmentation.fuse_pictures(painter, s, maps, recipes, prompts=prompts)
    first, middle, second = redness(painter.decode(x))
    assert first > 150
    assert second < -150
    assert second + 30 < middle < first - 30


# models without words, and features


@pytest.mark.parametrize("make", [tiny_kl, tiny_taesd])
def test_a_latent_base_model_of_ours(make, tmp_path, images):
    torch.manual_seed(0)
    base = model_of("ddpm", channels=3, encoder=make())
    base_models.save(base, tmp_path, torch.float32)
    name = str(tmp_path)
    assert backbone.shape(name) == (3, 16)
    assert backbone.fingerprint(name) == base_models.fingerprint(name)
    backbone.check_steps(name, 1000)
    model, small = backbone.load(ModelConfig(name=name)), images[:, ::2, ::2]
    assert (model.channels, model.size, model.text) == (3, 16, None)
    x, z = there_and_back(model, small, None)
    assert psnr(x, z) > 100
    torch.testing.assert_close(
        z, latents.encode(base.encoder, torch.from_numpy(small).permute(0, 3, 1, 2) / 127.5 - 1)
    )
    pictures, _ = augmentation.augment(model, small, "abc", PAIRS, QUICK, FusionRecipe(), 0)
    assert pictures.shape == (4, 16, 16, 3)
    with pytest.raises(ValueError, match=r"size=18: .* a multiple of 4"):  # its unet halves once more
        backbone.shape(name, 18)
    with pytest.raises(ValueError, match=r"prompt\.target='a': model .* reads no words"):
        backbone.reads_words(name, PromptRecipe(target="a"))
    shutil.rmtree(tmp_path / "vqvae")
    with pytest.raises(ValueError, match=r"vqvae/config\.json is missing"):
        backbone.load(ModelConfig(name=name))


def test_latent_flows_and_classes_are_refused(tmp_path):
    for kind, classes, words in (("flow", 0, "a flow"), ("ddpm", 4, "no class labels")):
        base_models.save(
            model_of(kind, classes=classes, channels=3, encoder=tiny_kl()), tmp_path / kind, torch.float32
        )
        with pytest.raises(ValueError, match=words):
            backbone.shape(str(tmp_path / kind))


def test_features_of_a_latent_network(sd, images):
    extract = features.load(FeatureRecipe(name="unet"), lambda: sd)
    f = extract(np.concatenate([images, images[:1], np.zeros_like(images[:1])]))
    assert features.side(FeatureRecipe(name="unet"), "digits-ddpm") == 16
    assert np.linalg.norm(f, axis=1) == pytest.approx([1, 1, 1, 1, 0])
    assert f[0] @ f[3] == pytest.approx(1, abs=1e-4)
    assert f[0] @ f[1] < 0.999


# folders


def test_a_safety_checker_that_is_there_blacks_out(copy, images):
    pipe = StableDiffusionPipeline.from_pretrained(copy, use_safetensors=True)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small, vision_config={**small, "image_size": 32, "patch_size": 16}, projection_dim=8
    )
    checker = StableDiffusionSafetyChecker(config)
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(-2)  # thresholds that every picture passes
    pipe.register_modules(safety_checker=checker, feature_extractor=CLIPImageProcessor(size=32, crop_size=32))
    pipe.save_pretrained(copy)
    model = backbone.load(ModelConfig(name=str(copy)))
    z = model.encode(images)
    assert model.decode(z).max() == 0
    model.text.pipeline.safety_checker = None
    assert model.decode(z).max() > 0


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


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
        "a flow",
    ),
    "target": (
        lambda m: change(m / "scheduler/scheduler_config.json", prediction_type="flow"),
        "it predicts flow",
    ),
    "other vae": (lambda m: change(m / "vae/config.json", _class_name="VQModel"), "its VAE is a VQModel"),
    "no square": (lambda m: change(m / "unet/config.json", sample_size=[4, 8]), "square pictures"),
    "cut weights": (lambda m: next((m / "vae").glob("*.saf*")).write_bytes(b"12345678{"), "model"),
    "other family": (
        lambda m: change(m / "model_index.json", _class_name="StableDiffusion3Pipeline"),
        "its unet is UNet2DConditionModel; supported are pixel models",
    ),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_model_is_one_clear_line(copy, how):
    damage, words = BREAKS[how]
    damage(copy)
    with pytest.raises(ValueError, match=words) as error:
        backbone.load(ModelConfig(name=str(copy)))
    assert "\n" not in str(error.value)


def test_prompts_are_for_models_that_read(folder):
    assert backbone.reads_words(str(folder), PromptRecipe(target="a"))
    assert not backbone.reads_words("digits-ddpm", PromptRecipe())
    with pytest.raises(ValueError, match=r"prompt\.guidance_target=3\.0: model 'digits-ddpm' reads no words"):
        backbone.reads_words("digits-ddpm", replace(PromptRecipe(), guidance_target=3.0))
