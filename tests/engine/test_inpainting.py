"""Inpainting with models of every kind, against diffusers' own pipeline where it has one."""

import contextlib
import dataclasses
import functools
import json
from itertools import pairwise

import numpy as np
import pytest
import small_pipeline
import torch
from diffusers import (
    AutoPipelineForInpainting,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor

from noiseweave.engine import base_models, inpainting
from noiseweave.engine.base_models import BaseModel
from noiseweave.engine.inpaint_models import About, InpaintModel
from noiseweave.engine.inpaint_recipes import InpaintRecipe, walk
from noiseweave.engine.masks import compose, feather
from noiseweave.engine.prompts import Prompt
from noiseweave.engine.recipes import ModelConfig
from noiseweave.engine.seeding import generator

QUICK = InpaintRecipe(steps=4, jump_length=2, resample=2, guidance=3.0)


def prompts(count, text="", negative=""):
    return [Prompt(text=text, key=f"k{i}", negative=negative) for i in range(count)]


def pictures(count, size=16, channels=1, seed=0):
    """Random pictures and holes, each hole of another shape."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (count, size, size, channels), dtype=np.uint8)
    hole = np.zeros((count, size, size), bool)
    for h in hole:
        y, x = rng.integers(0, size // 2, 2)
        h[y : y + rng.integers(2, size // 2), x : x + rng.integers(2, size // 2)] = True
    return image, hole


def save_inpainting(folder, xl=False):
    """A small pipeline whose unet takes 9 channels, with random weights."""
    small_pipeline.build(folder, xl=xl)
    kind = StableDiffusionXLInpaintPipeline if xl else StableDiffusionInpaintPipeline
    pipe = AutoPipelineForInpainting.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = UNet2DConditionModel.from_config(pipe.unet.config, in_channels=9)
    assert isinstance(pipe, kind)
    pipe.register_modules(unet=unet)
    pipe.save_pretrained(folder)
    return folder


def save_ldm(folder):
    """A base model of 32 px colour pictures that works on latents and knows three classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        unet = UNet2DModel(
            sample_size=4, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(8, 16),
            down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, norm_num_groups=4,
            num_class_embeds=4,
        )  # fmt: skip
        vae = small_pipeline.autoencoder("taesd")
    model = BaseModel(
        kind="ddpm", network=unet, classes=3, size=32, channels=3, noise_shape=(4, 4, 4), encoder=vae,
        scheduler=DDPMScheduler(1000, clip_sample=False),
    )  # fmt: skip
    base_models.save(model, folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """kind -> a small model's name."""
    return {
        "inpaint": str(save_inpainting(tmp_path_factory.mktemp("inpaint"))),
        "latent": str(small_pipeline.build(tmp_path_factory.mktemp("plain"))),
        "pixel": "digits-ddpm",
        "ldm": str(save_ldm(tmp_path_factory.mktemp("ldm"))),
    }


@pytest.fixture(scope="module")
def models(folders):
    """(kind, **more of ModelConfig) -> a model, loaded once; no test may leave it changed."""
    return functools.cache(lambda kind, **more: inpainting.load(ModelConfig(name=folders[kind], **more)))


@contextlib.contextmanager
def watched(model):
    """A list that each call of a pipeline's unet appends its input to."""
    seen = []
    handle = model.text.pipeline.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    yield seen
    handle.remove()


def some(kind, count, seed=0):
    return pictures(count, 16, 1, seed) if kind == "pixel" else pictures(count, 32, 3, seed)


KINDS = pytest.mark.parametrize("kind", ["inpaint", "latent", "pixel"])


class Exact(nn.Module):
    """The best denoiser of independent values N(0.3, 0.1^2)."""

    def __init__(self, alpha_bar, target):
        super().__init__()
        self.alpha_bar, self.target = alpha_bar, target
        self.device, self.dtype, self.rows, self.most = torch.device("cpu"), torch.float32, [], 10**9

    def forward(self, x, t, class_labels=None, return_dict=True):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("not enough memory")
        self.rows.append(len(x))
        assert class_labels is None or (class_labels == 4).all(), "no class is told"
        a = self.alpha_bar[t.long()].view(-1, 1, 1, 1)
        x_0 = 0.3 + 0.01 * a.sqrt() * (x - a.sqrt() * 0.3) / (0.01 * a + 1 - a)
        eps = (x - a.sqrt() * x_0) / (1 - a).sqrt()
        return (
            {"epsilon": eps, "sample": x_0, "v_prediction": a.sqrt() * eps - (1 - a).sqrt() * x_0}[
                self.target
            ],
        )


def exact(target="epsilon", classes=0):
    scheduler = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2", prediction_type=target)
    base = BaseModel(
        kind="ddpm", network=Exact(scheduler.alphas_cumprod, target), classes=classes, size=8, channels=1,
        noise_shape=(1, 8, 8), scheduler=scheduler,
    )  # fmt: skip
    return InpaintModel(about=About(kind="pixel", channels=1, size=8, multiple=0), base=base, micro_batch=64)


@pytest.mark.parametrize("target", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("classes", [0, 4])
def test_whatever_the_network_predicts_the_hole_gets_its_distribution(target, classes):
    image, hole = pictures(32, 8)
    recipe = InpaintRecipe(steps=200, jump_length=10, resample=2)
    x = inpainting.inpaint(exact(target, classes), image, hole, prompts(32), recipe, 0)[hole] / 127.5 - 1
    assert x.mean() == pytest.approx(0.3, abs=0.02)
    assert x.std() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("kind", ["inpaint", "latent", "pixel", "ldm"])
def test_nothing_outside_the_hole_changes_and_what_was_inside_makes_no_difference(models, kind):
    model = models(kind)
    for seed in range(2):
        image, hole = some(kind, 3, seed)
        hole[2] = seed == 1  # no hole at all, all of it a hole
        out = inpainting.inpaint(model, image, hole, prompts(3, "a cat"), QUICK, seed)
        assert out.dtype == np.uint8
        assert np.array_equal(out[~hole], image[~hole])
        assert (out[hole] != image[hole]).mean() > 0.5
        soft = compose(image[0], out[0], feather(hole[0], 3))
        assert np.array_equal(soft[~hole[0]], image[0][~hole[0]])
        other = np.where(hole[..., None], 255 - image, image)
        again = inpainting.inpaint(model, other, hole, prompts(3, "a cat"), QUICK, seed)
        assert np.array_equal(again, out)


@KINDS
def test_a_picture_is_the_same_in_any_company_and_any_micro_batch(models, kind):
    image, hole = some(kind, 5)
    together = inpainting.inpaint(models(kind), image, hole, prompts(5), QUICK, 5)
    parted = inpainting.inpaint(models(kind, micro_batch=2), image, hole, prompts(5), QUICK, 5)
    alone = inpainting.inpaint(models(kind), image[3:4], hole[3:4], prompts(5)[3:4], QUICK, 5)
    assert np.abs(together.astype(int) - parted).max() <= 1
    assert np.abs(together[3].astype(int) - alone[0]).max() <= 1
    other = inpainting.inpaint(models(kind), image[3:4], hole[3:4], prompts(5)[3:4], QUICK, 6)
    assert np.abs(other.astype(int) - alone).max() > 8


@KINDS
def test_a_small_strength_keeps_near_to_what_was_in_the_hole(models, kind):
    """Whichever model: random weights, too, move x less in fewer steps."""
    model = models(kind)
    image, hole = some(kind, 4)
    image = np.where(image > 127, 255, 0).astype(np.uint8) if kind == "pixel" else image // 4 + 96
    off = []
    for strength in (0.1, 1.0):
        recipe = InpaintRecipe(steps=20, strength=strength, resample=1, guidance=1.0)
        out = inpainting.inpaint(model, image, hole, prompts(4), recipe, 0)
        assert np.array_equal(out[~hole], image[~hole])
        off.append(np.abs(out[hole].astype(int) - image[hole]).mean())
    assert off[0] < 0.8 * off[1]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm-solver++", "euler", "pipeline"])
@pytest.mark.parametrize(("guidance", "strength"), [(1.0, 1.0), (4.0, 0.5)])
def test_a_model_made_for_it_gives_what_diffusers_pipeline_gives(
    folders, models, sampler, guidance, strength
):
    if not small_pipeline.TAESD.is_dir():
        pytest.skip("an AutoencoderKL draws its latents there, and takes the most likely one here")
    recipe = InpaintRecipe(steps=6, guidance=guidance, strength=strength, sampler=sampler)
    image = pictures(2, 64, 3)[0]
    hole = np.zeros((2, 64, 64), bool)
    hole[0, 8:40, 16:48] = hole[1, 24:, :32] = True  # on the latent's grid, where nearest neighbour is exact
    model = models("inpaint")
    ours = inpainting.inpaint(model, image, hole, prompts(2, "a cat", "a dog"), recipe, 3)
    pipe = model.text.pipeline
    pipe.scheduler = inpainting.text_to_image.scheduler_of(
        model.text, inpainting.TextRecipe(sampler=sampler, steps=6)
    )
    theirs = pipe(
        prompt=["a cat"] * 2, negative_prompt=["a dog"] * 2, num_inference_steps=6, guidance_scale=guidance,
        image=torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255, strength=strength, height=64, width=64,
        mask_image=torch.from_numpy(hole)[:, None].float(), output_type="np",
        generator=[generator(3, "inpaint", f"k{i}") for i in range(2)],
    ).images  # fmt: skip
    assert np.abs(ours[hole].astype(int) - (theirs * 255).round()[hole]).max() <= 1


def test_guidance_has_both_halves_in_one_call_and_1_has_one(models):
    for kind in ("inpaint", "latent"):
        image, hole = some(kind, 3)
        for guidance, width in ((5.0, 6), (1.0, 3)):
            recipe = dataclasses.replace(QUICK, guidance=guidance)
            with watched(models(kind)) as seen:
                inpainting.inpaint(models(kind), image, hole, prompts(3), recipe, 0)
            calls = 4 if kind == "inpaint" else sum(b < a for a, b in pairwise(walk(4, 2, 2)))
            assert [len(x) for x in seen] == [width] * calls


def test_a_crack_thinner_than_a_latent_is_repaired(models):
    """Fitted by nearest neighbour the mask would show the model no hole at all."""
    image = pictures(1, 64, 3)[0]
    hole = np.zeros((1, 64, 64), bool)
    hole[0, 10:12] = True
    with watched(models("inpaint")) as seen:
        inpainting.inpaint(models("inpaint"), image, hole, prompts(1), QUICK, 0)
    mask = seen[0][0, 4]
    assert torch.equal(mask.sum(1), torch.tensor([0, 8.0, 0, 0, 0, 0, 0, 0]))


def test_prompts_and_negative_prompts_change_what_is_drawn(models):
    for kind in ("inpaint", "latent"):
        image, hole = some(kind, 3)
        told = [Prompt(text=t, key="k", negative=n) for t, n in (("", ""), ("a cat", ""), ("", "a dog"))]
        same = np.stack([image[0]] * 3), np.stack([hole[0]] * 3)
        out = inpainting.inpaint(models(kind), *same, told, QUICK, 0).astype(int)
        assert min(np.abs(out[a] - out[b]).max() for a, b in ((0, 1), (0, 2), (1, 2))) > 0


def test_out_of_memory_halves_the_batch_for_good_and_changes_nothing():
    image, hole = pictures(8, 8)
    plain = inpainting.inpaint(exact(), image, hole, prompts(8), QUICK, 0)
    small = exact()
    small.base.network.most = 3
    assert np.array_equal(inpainting.inpaint(small, image, hole, prompts(8), QUICK, 0), plain)
    assert max(small.base.network.rows) <= 3
    assert small.micro_batch == 2
    small.base.network.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        inpainting.inpaint(small, image, hole, prompts(8), QUICK, 0)


def test_resampling_makes_the_lower_halves_of_digits_fit_the_upper_ones(models, digits):
    """PSNR inside the hole; replacement alone knows too little of the upper half, a flat fill nothing."""
    image, hole = digits[0][:16], np.zeros((16, 16, 16), bool)
    hole[:, 8:] = True

    def psnr(out):
        return 10 * np.log10(255**2 / (out[hole].astype(float) - image[hole]).__pow__(2).mean())

    model = models("pixel")
    alone, resampled = (
        inpainting.inpaint(
            model, image, hole, prompts(16), InpaintRecipe(steps=20, jump_length=5, resample=r), 0
        )
        for r in (1, 4)
    )
    flat = np.full_like(image, int(image.mean()))
    assert psnr(resampled) > psnr(alone) + 0.5
    assert psnr(resampled) > psnr(flat) + 2


def test_what_a_safety_checker_flags_comes_out_black(tmp_path, folders):
    pipe = AutoPipelineForInpainting.from_pretrained(folders["latent"])
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    checker = StableDiffusionSafetyChecker(CLIPConfig(
        text_config=small, vision_config={**small, "image_size": 32, "patch_size": 16}, projection_dim=8
    ))  # fmt: skip
    with torch.no_grad():
        checker.concept_embeds_weights.fill_(-2)  # thresholds that every picture passes
    pipe.register_modules(safety_checker=checker, feature_extractor=CLIPImageProcessor(size=32, crop_size=32))
    pipe.save_pretrained(tmp_path)
    image, hole = pictures(2, 32, 3)
    model = inpainting.load(ModelConfig(name=str(tmp_path)))
    out = inpainting.inpaint(model, image, hole, prompts(2), QUICK, 0)
    assert out[hole].max() == 0
    assert np.array_equal(out[~hole], image[~hole])


def test_a_pipeline_that_knows_flat_walls_continues_one(tmp_path):
    """v-prediction in latents: what it learnt, what the words say and what lies around the hole agree."""
    if not small_pipeline.TAESD.is_dir():
        pytest.skip("no TAESD here: a random VAE has no colours")
    folder = small_pipeline.build(tmp_path / "taught", size=32)
    small_pipeline.teach(folder, {"a red wall": (220, 30, 30), "a blue wall": (30, 30, 220)}, 80)
    model = inpainting.load(ModelConfig(name=str(folder)))
    walls = np.array([[220, 30, 30], [30, 30, 220]], np.uint8)
    image = np.broadcast_to(walls[:, None, None], (2, 32, 32, 3)).copy()
    hole = np.zeros((2, 32, 32), bool)
    hole[:, 8:24, 8:24] = True
    image[hole] = 255
    told = [Prompt(text=f"a {c} wall", key=c) for c in ("red", "blue")]
    recipe = InpaintRecipe(steps=10, jump_length=3, resample=2, guidance=1.0)
    out = inpainting.inpaint(model, image, hole, told, recipe, 0)
    means = out[hole].reshape(2, -1, 3).mean(1)
    assert np.abs(means - walls).max() < 60


@pytest.mark.parametrize("xl", [False, True])
def test_pipelines_with_two_text_encoders_fill_holes_too(tmp_path, xl):
    folder = (
        save_inpainting(tmp_path / "xl", xl=True) if xl else small_pipeline.build(tmp_path / "p", xl=True)
    )
    image, hole = pictures(2, 64, 3)
    model = inpainting.load(ModelConfig(name=str(folder)))
    assert model.about.repaint is not xl
    out = inpainting.inpaint(model, image[:, :, :40], hole[:, :, :40], prompts(2, "a cat"), QUICK, 0)
    assert out.shape == (2, 64, 40, 3)
    assert np.array_equal(out[~hole[:, :, :40]], image[:, :, :40][~hole[:, :, :40]])


@KINDS
def test_a_model_is_known_before_it_is_loaded(folders, models, kind):
    about = inpainting.describe(folders[kind])
    assert about == models(kind).about
    assert about.kind == kind
    assert (about.channels, about.size, about.multiple) == ((1, 16, 0) if kind == "pixel" else (3, 64, 8))
    assert about.repaint is (kind != "inpaint")
    assert about.reads_prompts is (kind != "pixel")
    assert len(inpainting.fingerprint(folders[kind])) == 16


def test_models_that_cannot_inpaint_are_refused(tmp_path, folders):
    folder = tmp_path / "odd"
    small_pipeline.build(folder)
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(config | {"in_channels": 5}))
    with pytest.raises(ValueError, match=r"takes 5 channels; inpainting takes 4 or 9"):
        inpainting.describe(str(folder))
    (folder / "unet/config.json").write_text(json.dumps(config))
    weights = folder / "vae/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"vae has its weights only as pickle"):
        inpainting.load(ModelConfig(name=str(folder)))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"unet": ["my_code", "MyUNet"]}))
    with pytest.raises(ValueError, match=r"unet comes with code of its own \(my_code\)"):
        inpainting.load(ModelConfig(name=str(folder)))
    flow = tmp_path / "flow"
    base = base_models.load(ModelConfig())
    base = dataclasses.replace(base, kind="flow", scheduler=FlowMatchEulerDiscreteScheduler())
    base_models.save(base, flow, torch.float32)
    with pytest.raises(ValueError, match=r"a flow; inpainting takes a ddpm"):
        inpainting.describe(str(flow))
    with pytest.raises(ValueError, match="no such folder"):
        inpainting.describe(str(tmp_path / "nothing"))


@pytest.mark.parametrize(("kind", "shape", "words"), [
    ("pixel", (32, 32, 1), "16x16 only"), ("pixel", (16, 16, 3), "1 channels"),
    ("latent", (30, 32, 3), "multiples of 8"), ("inpaint", (32, 32, 1), "3 channels"),
])  # fmt: skip
def test_pictures_that_do_not_fit_the_model_are_refused(models, kind, shape, words):
    image, hole = np.zeros((1, *shape), np.uint8), np.ones((1, *shape[:2]), bool)
    with pytest.raises(ValueError, match=words):
        inpainting.inpaint(models(kind), image, hole, prompts(1), QUICK, 0)


@KINDS
def test_what_is_not_finite_is_said_by_key(folders, kind):
    model = inpainting.load(ModelConfig(name=folders[kind]))
    network = model.base.network if model.base else model.text.pipeline.unet
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"^not_finite: k0, k1$"):
        inpainting.inpaint(model, *some(kind, 2), prompts(2), QUICK, 0)


def test_more_steps_than_the_model_has_and_odd_recipes_are_refused(models):
    with pytest.raises(ValueError, match=r"inpaint.steps=1001: the model has 1000"):
        inpainting.inpaint(exact(), *pictures(1, 8), prompts(1), InpaintRecipe(steps=1001), 0)
    for field, value in (
        ("steps", 0), ("guidance", 0.5), ("strength", 0.0), ("strength", 1.5), ("strength", 0.01), ("resample", 0),
        ("jump_length", 0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=rf"inpaint\.{field}={value}"):
            InpaintRecipe(**{field: value})
