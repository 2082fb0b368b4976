"""Inpainting with models of every kind: what stays, what fills the hole, and in which company."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from holes import KINDS, QUICK, pictures, prompts, some, watched
from torch import nn

from noiseweave.engine.inpainting import filling
from noiseweave.engine.inpainting.models import InpaintFacts, InpaintModel
from noiseweave.engine.inpainting.recipes import InpaintRecipe, repaint_levels
from noiseweave.engine.networks.base_models import BaseModel
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.pictures.masks import compose, feather


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
        if self.alpha_bar is None:
            sigma = t.view(-1, 1, 1, 1) / 1000
            alpha = 1 - sigma
        else:
            a = self.alpha_bar[t.long()].view(-1, 1, 1, 1)
            alpha, sigma = a.sqrt(), (1 - a).sqrt()
        eps = sigma * (x - alpha * 0.3) / (0.01 * alpha**2 + sigma**2)
        x_0 = 0.3 + 0.01 * alpha * (x - alpha * 0.3) / (0.01 * alpha**2 + sigma**2)
        v = alpha * eps - sigma * x_0
        return ({"epsilon": eps, "sample": x_0, "v_prediction": v, "flow": eps - x_0}[self.target],)


def exact(target="epsilon", classes=0, kind="ddpm"):
    scheduler, alpha_bar = FlowMatchEulerDiscreteScheduler(), None
    if kind == "ddpm":
        scheduler = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2", prediction_type=target)
        alpha_bar = scheduler.alphas_cumprod
    base = BaseModel(
        kind=kind,
        network=Exact(alpha_bar, target),
        classes=classes,
        size=8,
        channels=1,
        noise_shape=(1, 8, 8),
        scheduler=scheduler,
    )
    return InpaintModel(
        about=InpaintFacts(kind="pixel", channels=1, size=8, multiple=0), base=base, micro_batch=64
    )


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        *(("ddpm", target) for target in ("epsilon", "sample", "v_prediction")),
        ("flow", "flow"),
        ("linear_mixing", "sample"),
    ],
)
@pytest.mark.parametrize("classes", [0, 4])
def test_whatever_the_network_predicts_the_hole_gets_its_distribution(kind, target, classes):
    image, hole = pictures(32, 8)
    recipe = InpaintRecipe(steps=200, jump_length=10, resample=2)
    x = filling.inpaint(exact(target, classes, kind), image, hole, prompts(32), recipe, 0)[hole] / 127.5 - 1
    assert x.mean() == pytest.approx(0.3, abs=0.02)
    assert x.std() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("kind", ["inpaint", "latent", "pixel", "ldm"])
def test_nothing_outside_the_hole_changes_and_what_was_inside_makes_no_difference(models, kind):
    model = models(kind)
    for seed in range(2):
        image, hole = some(kind, 3, seed)
        hole[2] = seed == 1  # no hole at all, all of it a hole
        out = filling.inpaint(model, image, hole, prompts(3, "a cat"), QUICK, seed)
        assert out.dtype == np.uint8
        assert np.array_equal(out[~hole], image[~hole])
        assert (out[hole] != image[hole]).mean() > 0.5
        soft = compose(image[0], out[0], feather(hole[0], 3))
        assert np.array_equal(soft[~hole[0]], image[0][~hole[0]])
        other = np.where(hole[..., None], 255 - image, image)
        again = filling.inpaint(model, other, hole, prompts(3, "a cat"), QUICK, seed)
        assert np.array_equal(again, out)


@KINDS
def test_a_picture_is_the_same_in_any_company_and_any_micro_batch(models, kind):
    image, hole = some(kind, 5)
    together = filling.inpaint(models(kind), image, hole, prompts(5), QUICK, 5)
    parted = filling.inpaint(models(kind, micro_batch=2), image, hole, prompts(5), QUICK, 5)
    alone = filling.inpaint(models(kind), image[3:4], hole[3:4], prompts(5)[3:4], QUICK, 5)
    assert np.abs(together.astype(int) - parted).max() <= 1
    assert np.abs(together[3].astype(int) - alone[0]).max() <= 1
    other = filling.inpaint(models(kind), image[3:4], hole[3:4], prompts(5)[3:4], QUICK, 6)
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
        out = filling.inpaint(model, image, hole, prompts(4), recipe, 0)
        assert np.array_equal(out[~hole], image[~hole])
        off.append(np.abs(out[hole].astype(int) - image[hole]).mean())
    assert off[0] < 0.8 * off[1]


def test_guidance_has_both_halves_in_one_call_and_1_has_one(models):
    for kind in ("inpaint", "latent"):
        image, hole = some(kind, 3)
        for guidance, width in ((5.0, 6), (1.0, 3)):
            recipe = dataclasses.replace(QUICK, guidance=guidance)
            with watched(models(kind)) as seen:
                filling.inpaint(models(kind), image, hole, prompts(3), recipe, 0)
            calls = 4 if kind == "inpaint" else sum(b < a for a, b in pairwise(repaint_levels(4, 2, 2)))
            assert [len(x) for x in seen] == [width] * calls


def test_a_crack_thinner_than_a_latent_is_repaired(models):
    """Fitted by nearest neighbour the mask would show the model no hole at all."""
    image = pictures(1, 64, 3)[0]
    hole = np.zeros((1, 64, 64), bool)
    hole[0, 10:12] = True
    with watched(models("inpaint")) as seen:
        filling.inpaint(models("inpaint"), image, hole, prompts(1), QUICK, 0)
    mask = seen[0][0, 4]
    assert torch.equal(mask.sum(1), torch.tensor([0, 8.0, 0, 0, 0, 0, 0, 0]))


def test_prompts_and_negative_prompts_change_what_is_drawn(models):
    for kind in ("inpaint", "latent"):
        image, hole = some(kind, 3)
        told = [Prompt(text=t, key="k", negative=n) for t, n in (("", ""), ("a cat", ""), ("", "a dog"))]
        same = np.stack([image[0]] * 3), np.stack([hole[0]] * 3)
        out = filling.inpaint(models(kind), *same, told, QUICK, 0).astype(int)
        assert min(np.abs(out[a] - out[b]).max() for a, b in ((0, 1), (0, 2), (1, 2))) > 0


def test_out_of_memory_halves_the_batch_for_good_and_changes_nothing():
    image, hole = pictures(8, 8)
    plain = filling.inpaint(exact(), image, hole, prompts(8), QUICK, 0)
    small = exact()
    small.base.network.most = 3
    assert np.array_equal(filling.inpaint(small, image, hole, prompts(8), QUICK, 0), plain)
    assert max(small.base.network.rows) <= 3
    assert small.micro_batch == 2
    small.base.network.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        filling.inpaint(small, image, hole, prompts(8), QUICK, 0)


def test_resampling_makes_the_lower_halves_of_digits_fit_the_upper_ones(models, digits):
    """PSNR inside the hole; replacement alone knows too little of the upper half, a flat fill nothing."""
    image, hole = digits[0][:16], np.zeros((16, 16, 16), bool)
    hole[:, 8:] = True

    def psnr(out):
        return 10 * np.log10(255**2 / (out[hole].astype(float) - image[hole]).__pow__(2).mean())

    model = models("pixel")
    alone, resampled = (
        filling.inpaint(
            model, image, hole, prompts(16), InpaintRecipe(steps=20, jump_length=5, resample=r), 0
        )
        for r in (1, 4)
    )
    flat = np.full_like(image, int(image.mean()))
    assert psnr(resampled) > psnr(alone) + 0.5
    assert psnr(resampled) > psnr(flat) + 2


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        ("pixel", (32, 32, 1), "16x16 only"),
        ("pixel", (16, 16, 3), "1 channels"),
        ("latent", (30, 32, 3), "multiples of 8"),
        ("inpaint", (32, 32, 1), "3 channels"),
    ],
)
def test_pictures_that_do_not_fit_the_model_are_refused(models, kind, shape, words):
    image, hole = np.zeros((1, *shape), np.uint8), np.ones((1, *shape[:2]), bool)
    with pytest.raises(ValueError, match=words):
        filling.inpaint(models(kind), image, hole, prompts(1), QUICK, 0)


@KINDS
def test_what_is_not_finite_is_said_by_key(inpainters, kind):
    model = filling.load(ModelConfig(name=inpainters[kind]))
    network = model.base.network if model.base else model.text.pipeline.unet
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match=r"^not_finite: k0, k1$"):
        filling.inpaint(model, *some(kind, 2), prompts(2), QUICK, 0)


def test_more_steps_than_the_model_has_and_odd_recipes_are_refused(models):
    with pytest.raises(ValueError, match=r"inpaint.steps=1001: the model has 1000"):
        filling.inpaint(exact(), *pictures(1, 8), prompts(1), InpaintRecipe(steps=1001), 0)
    for field, value in (
        ("steps", 0),
        ("guidance", 0.5),
        ("strength", 0.0),
        ("strength", 1.5),
        ("strength", 0.01),
        ("resample", 0),
        ("jump_length", 0),
    ):
        with pytest.raises(ValueError, match=rf"inpaint\.{field}={value}"):
            InpaintRecipe(**{field: value})
