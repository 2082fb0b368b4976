"""Small pictures with holes, for the tests of inpainting."""

import contextlib

import numpy as np
import pytest
import small_pipeline
import torch
from diffusers import DDPMScheduler, UNet2DModel

from noiseweave.engine.inpainting.recipes import InpaintRecipe
from noiseweave.engine.networks import base_models
from noiseweave.engine.networks.base_models import BaseModel
from noiseweave.engine.networks.prompts import Prompt

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


def save_ldm(folder):
    """A base model of 32 px colour pictures that works on latents and knows three classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        unet = UNet2DModel(
            sample_size=4,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            norm_num_groups=4,
            num_class_embeds=4,
        )
        vae = small_pipeline.autoencoder("taesd")
    model = BaseModel(
        kind="ddpm",
        network=unet,
        classes=3,
        size=32,
        channels=3,
        noise_shape=(4, 4, 4),
        encoder=vae,
        scheduler=DDPMScheduler(1000, clip_sample=False),
    )
    base_models.save(model, folder, torch.float32)
    return folder


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
