"""The generator of a comparison: trained on the pool without labels, then with the few that have some."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from noiseweave.engine import spans
from noiseweave.engine.networks.latents import to_pixels
from noiseweave.engine.seeding import generator
from noiseweave.engine.training import systems
from noiseweave.engine.training.objectives import learning_rate, moving_average
from noiseweave.engine.training.recipes import Blueprint, ModelRecipe
from noiseweave.engine.training.systems import Batch, System
from noiseweave.engine.usefulness.data import Pictures, Setup
from noiseweave.engine.usefulness.recipes import GeneratorRecipe

WARMUP = 100


def plan_generator(recipe: GeneratorRecipe, classes: int, side: int, channels: int, seed: int) -> Blueprint:
    """A class-conditional model of pictures of side x side pixels."""
    return Blueprint(
        model=ModelRecipe(kind=recipe.kind, classes=classes, label_dropout=recipe.label_dropout),
        objective=recipe.objective,
        unet=recipe.unet,
        schedule=recipe.schedule,
        classes=classes,
        size=side,
        channels=channels,
        seed=seed,
    )


def learn(
    system: System, parts: Sequence[tuple[Pictures, float]], recipe: GeneratorRecipe, steps: int, setup: Setup
) -> None:
    """Train a generator in place; its weights become the moving average.

    Args:
        parts: pictures, and their share of a batch; label -1 trains the unconditional half.
    """
    network: torch.nn.Module = system.networks["unet"].to(setup.device).train()
    weights = list(network.parameters())
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=0.01)
    average = moving_average(weights, recipe.ema)
    loaded = [(to_pixels(p.image_NHWC, torch.device("cpu")), torch.from_numpy(p.label_N)) for p, _ in parts]
    counts = _counts([share for _, share in parts], recipe.batch)
    g = generator(setup.seed, "generator")
    for step in spans.steps(range(steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, peak=recipe.lr, steps=steps, warmup=WARMUP, decay="cosine")
        batch = _batch(loaded, counts, g, setup)
        optimizer.zero_grad()
        system.turns[0].loss(system.networks, batch).mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        average.step(weights)
    average.copy_to(weights)
    network.eval()


def _counts(shares: Sequence[float], batch: int) -> list[int]:
    """Pictures of each part in a batch; the last has what the others leave."""
    first = [round(batch * share) for share in shares[:-1]]
    return [*first, batch - sum(first)]


def _batch(
    parts: Sequence[tuple[Tensor, Tensor]], counts: Sequence[int], g: torch.Generator, setup: Setup
) -> Batch:
    rows = [torch.randint(len(x), (n,), generator=g) for (x, _), n in zip(parts, counts, strict=True)]
    x0 = torch.cat([x[r] for (x, _), r in zip(parts, rows, strict=True)])
    label = torch.cat([y[r] for (_, y), r in zip(parts, rows, strict=True)])
    mirrored = torch.rand(len(x0), generator=g) < 0.5 * setup.flip
    x0 = torch.where(mirrored.view(-1, 1, 1, 1), x0.flip(-1), x0)
    eps = torch.randn(x0.shape, generator=g)
    time, hide = torch.rand(2, len(x0), generator=g)
    x0, label, eps, time, hide = (v.to(setup.device) for v in (x0, label, eps, time, hide))
    return Batch(x0=x0, label=label, eps=eps, time=time, hide=hide)


def tune_generator(
    few: Pictures, pool: Pictures | None, start: bytes | None, recipe: GeneratorRecipe, setup: Setup
) -> bytes:
    """A generator that knows the labels of the few, as safetensors.

    Args:
        pool: what it may see beside them, each with what it was guessed to be or -1; None is the closed protocol.
        start: the prior that it goes on from; None starts anew.
    """
    side, channels = few.image_NHWC.shape[2:]
    system = systems.build(plan_generator(recipe, setup.classes, side, channels, setup.seed))
    if start is not None:
        system.networks["unet"].load_state_dict(safetensors.torch.load(start))
    parts = [(few, 1.0)]
    if pool is not None:
        parts = [(few, recipe.labelled), (pool, 1 - recipe.labelled)]
    learn(system, parts, recipe, recipe.tuning_steps, setup)
    return safetensors.torch.save({n: w.cpu() for n, w in system.networks["unet"].state_dict().items()})


def train_prior(pool: Pictures, recipe: GeneratorRecipe, setup: Setup) -> bytes:
    """A generator trained on the pool with every label hidden, as safetensors."""
    side, channels = pool.image_NHWC.shape[2:]
    system = systems.build(plan_generator(recipe, setup.classes, side, channels, setup.seed))
    hidden = Pictures(image_NHWC=pool.image_NHWC, label_N=np.full(len(pool.label_N), -1, np.int64))
    learn(system, [(hidden, 1.0)], recipe, recipe.steps, setup)
    return safetensors.torch.save({n: w.cpu() for n, w in system.networks["unet"].state_dict().items()})
