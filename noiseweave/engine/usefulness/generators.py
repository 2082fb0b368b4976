"""The generator of a comparison: trained on the pool without labels, then with the few that have some.

Its network sees pixels or latents, and in V views where pictures may be mirrored: a mirrored picture's latents are not
its latents mirrored. N pictures, C channels, H x W of what the network sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from noiseweave.engine import spans
from noiseweave.engine.networks import base_models, paths, pretrained
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.networks.latent_backbone import LatentBackbone, LatentNetworks
from noiseweave.engine.networks.latents import encode, to_pixels
from noiseweave.engine.networks.micro_batch import MicroBatch
from noiseweave.engine.pictures import images
from noiseweave.engine.seeding import generator
from noiseweave.engine.training import systems
from noiseweave.engine.training.objectives import learning_rate, moving_average
from noiseweave.engine.training.recipes import Blueprint, ModelRecipe
from noiseweave.engine.training.systems import Batch, System
from noiseweave.engine.usefulness.data import Pictures, Setup
from noiseweave.engine.usefulness.recipes import GeneratorRecipe

WARMUP = 100
ENCODED = 16  # pictures that a VAE takes at once


@dataclass(frozen=True, kw_only=True)
class Part:
    """Pictures as the network sees them, and how much of a batch they are.

    Attributes:
        x_VNCHW: float32: pixels in [-1, 1], or latents and, as a second view, those of the mirrored pictures.
        label_N: int64, -1 trains the unconditional half.
        share: of a batch.
    """

    x_VNCHW: Tensor
    label_N: Tensor
    share: float = 1.0

    def take(self, row_B: Tensor, mirrored_B: Tensor) -> Tensor:
        """Some of the pictures, some of them mirrored: float32 [B, C, H, W]."""
        x = self.x_VNCHW[0][row_B]
        other = self.x_VNCHW[1][row_B] if len(self.x_VNCHW) > 1 else x.flip(-1)
        return torch.where(mirrored_B.view(-1, 1, 1, 1), other, x)


def built(recipe: GeneratorRecipe, setup: Setup, side: int, channels: int, seed: int = 0) -> System:
    """A class-conditional model for pictures of side x side pixels, which it sees enlarged, with first weights.

    Raises:
        ValueError: a VAE that is not there, or sizes that do not fit each other: one line.
    """
    pretrained.quiet()
    plan = Blueprint(
        model=ModelRecipe(
            kind=recipe.kind, classes=setup.classes, label_dropout=recipe.label_dropout, vae=recipe.vae
        ),
        objective=recipe.objective,
        unet=recipe.unet,
        schedule=recipe.schedule,
        classes=setup.classes,
        size=side * recipe.enlarge,
        channels=channels,
        seed=seed,
    )
    encoder = None if recipe.vae is None else base_models.load_encoder(recipe.vae, setup.device)
    return systems.build(plan, encoder)


def enlarged(recipe: GeneratorRecipe, image_NHWC: np.ndarray) -> np.ndarray:
    """Pictures as large as the generator sees them, uint8."""
    return resized(image_NHWC, image_NHWC.shape[1] * recipe.enlarge)


def resized(image_NHWC: np.ndarray, side: int) -> np.ndarray:
    """Square pictures at another side, uint8."""
    if not len(image_NHWC) or image_NHWC.shape[1] == side:
        return image_NHWC
    return np.stack([images.fit(image_HWC, side) for image_HWC in image_NHWC])


def views(recipe: GeneratorRecipe, image_NHWC: np.ndarray, setup: Setup) -> Tensor:
    """uint8 [N, side, side, C] -> what the network sees of them: ``Part.x_VNCHW``."""
    x_NCHW = to_pixels(enlarged(recipe, image_NHWC))
    if recipe.vae is None:
        return x_NCHW[None]
    vae = base_models.load_encoder(recipe.vae, setup.device)
    parts = MicroBatch(lambda x: encode(vae, x), ENCODED, setup.device)
    mirrored = [x_NCHW.flip(-1)] if setup.flip else []
    return torch.stack([parts(view).cpu() for view in spans.steps([x_NCHW, *mirrored])])


def learn(system: System, parts: Sequence[Part], recipe: GeneratorRecipe, steps: int, setup: Setup) -> None:
    """Train a generator in place; its weights become the moving average."""
    network: torch.nn.Module = system.networks["unet"].to(setup.device).train()
    weights = list(network.parameters())
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=0.01)
    average = moving_average(weights, recipe.ema)
    counts = _counts([part.share for part in parts], recipe.batch)
    g, half = generator(setup.seed, "generator"), recipe.precision == "bf16"
    for step in spans.steps(range(steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, peak=recipe.lr, steps=steps, warmup=WARMUP, decay="cosine")
        batch = _batch(parts, counts, g, setup)
        optimizer.zero_grad()
        with torch.autocast(torch.device(setup.device).type, torch.bfloat16, enabled=half):
            loss = system.turns[0].loss(system.networks, batch).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        average.step(weights)
    average.copy_to(weights)
    network.eval()


def _counts(shares: Sequence[float], batch: int) -> list[int]:
    """Pictures of each part in a batch; the last has what the others leave."""
    first = [round(batch * share) for share in shares[:-1]]
    return [*first, batch - sum(first)]


def _batch(parts: Sequence[Part], counts: Sequence[int], g: torch.Generator, setup: Setup) -> Batch:
    rows = [torch.randint(len(p.label_N), (n,), generator=g) for p, n in zip(parts, counts, strict=True)]
    label = torch.cat([p.label_N[r] for p, r in zip(parts, rows, strict=True)])
    mirrored = torch.rand(len(label), generator=g) < 0.5 * setup.flip
    x0 = torch.cat([p.take(r, m) for p, r, m in zip(parts, rows, mirrored.split(list(counts)), strict=True)])
    eps = torch.randn(x0.shape, generator=g)
    time, hide = torch.rand(2, len(x0), generator=g)
    x0, label, eps, time, hide = (v.to(setup.device) for v in (x0, label, eps, time, hide))
    return Batch(x0=x0, label=label, eps=eps, time=time, hide=hide)


def tune_generator(
    few: Pictures,
    pool: Pictures | None,
    start: bytes | None,
    recipe: GeneratorRecipe,
    setup: Setup,
    seen_VNCHW: Tensor | None = None,
) -> bytes:
    """A generator that knows the labels of the few, as safetensors.

    Args:
        pool: what it may see beside them, each with what it was guessed to be or -1; None is the closed protocol.
        start: the prior that it goes on from; None starts anew.
        seen_VNCHW: ``views`` of the pool, where they are known.
    """
    side, channels = few.image_NHWC.shape[2:]
    system = built(recipe, setup, side, channels, setup.seed)
    if start is not None:
        system.networks["unet"].load_state_dict(safetensors.torch.load(start))
    parts = [_part(recipe, few, setup, 1.0 if pool is None else recipe.labelled)]
    if pool is not None:
        parts.append(_part(recipe, pool, setup, 1 - recipe.labelled, seen_VNCHW))
    learn(system, parts, recipe, recipe.tuning_steps, setup)
    return weights_of(system)


def train_prior(
    pool: Pictures, recipe: GeneratorRecipe, setup: Setup, seen_VNCHW: Tensor | None = None
) -> bytes:
    """A generator trained on the pool with every label hidden, as safetensors; arguments as of ``tune_generator``."""
    side, channels = pool.image_NHWC.shape[2:]
    system = built(recipe, setup, side, channels, setup.seed)
    hidden = Pictures(image_NHWC=pool.image_NHWC, label_N=np.full(len(pool.label_N), -1, np.int64))
    learn(system, [_part(recipe, hidden, setup, 1.0, seen_VNCHW)], recipe, recipe.steps, setup)
    return weights_of(system)


def _part(
    recipe: GeneratorRecipe,
    some: Pictures,
    setup: Setup,
    share: float = 1.0,
    seen_VNCHW: Tensor | None = None,
) -> Part:
    x_VNCHW = views(recipe, some.image_NHWC, setup) if seen_VNCHW is None else seen_VNCHW
    return Part(x_VNCHW=x_VNCHW, label_N=torch.from_numpy(some.label_N), share=share)


def weights_of(system: System) -> bytes:
    """The network's weights as safetensors."""
    return safetensors.torch.save({n: w.cpu() for n, w in system.networks["unet"].state_dict().items()})


def loaded(recipe: GeneratorRecipe, weights: bytes, setup: Setup, side: int, channels: int) -> System:
    """A generator of ``weights_of``, ready to draw."""
    system = built(recipe, setup, side, channels)
    system.networks["unet"].load_state_dict(safetensors.torch.load(weights))
    system.networks["unet"].to(setup.device).eval().requires_grad_(False)
    return system


def backbone_of(system: System, setup: Setup) -> Backbone:
    """The generator as inversion and fusion see it."""
    model = system.model
    scheduler = paths.stepping(model.scheduler)
    if model.encoder is None:
        return Backbone(model.network, scheduler, setup.device, prediction=model.prediction)
    parts = LatentNetworks(unet=model.network, vae=model.encoder, prediction=model.prediction)
    return LatentBackbone(parts, scheduler, setup.device)
