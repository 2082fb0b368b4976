"""What the tests of latent models share: recipes, pairs, and the way there and back."""

from copy import deepcopy

import torch

from noiseweave.engine.diffusion.dpm_solver import SOLVERS
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion import groups
from noiseweave.engine.networks import latent_backbone
from noiseweave.engine.networks.recipes import PromptRecipe
from noiseweave.engine.records import Pair

QUICK = InversionRecipe(num_steps=6, skip=1)
TEXTS = ("a photo of a cat", "a dog", "")


def remade(sd, **more):
    """The same model's networks, set up in another way."""
    unet, vae = deepcopy(sd.unet), deepcopy(sd.vae)
    return latent_backbone.LatentBackbone(
        latent_backbone.LatentNetworks(unet=unet, vae=vae, text=sd.text), sd.scheduler, **more
    )


def told(count=3, **more):
    return PromptRecipe(source=TEXTS[:count], **more).of([None] * count, [None] * count)


def psnr(x, y):
    return float(10 * torch.log10(4 / (x.double() - y.double()).square().mean()))


def there_and_back(model, images, prompts, recipe=QUICK):
    s, maps = groups.invert_pictures(model, images, "abc"[: len(images)], recipe, 0, prompts)
    replay = SOLVERS[recipe.sampler].replay
    return replay(groups.source_denoiser(model, prompts), s, maps), model.encode(images)


def pair(a, b, ratio, mode="linear"):
    return Pair(a=a, b=b, similarity=0.9, mode=mode, ratio=ratio, seed=0)


PAIRS = [pair(0, 1, 0.3), pair(1, 2, 0.5, "cross_fade"), pair(0, 2, 0.0), pair(0, 2, 1.0)]
