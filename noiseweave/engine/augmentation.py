"""A group of pictures -> its fused pictures: every picture inverted once, every pair replayed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine.backbone import Backbone
from noiseweave.engine.fusion import fuse
from noiseweave.engine.inversion import draw_noise, invert
from noiseweave.engine.recipes import FusionRecipe, InversionRecipe
from noiseweave.engine.records import NoiseMaps, Pair
from noiseweave.engine.replay import replay
from noiseweave.engine.schedule import Schedule
from noiseweave.engine.seeding import rng, seed_of


def draw_pair(
    a: int, b: int, key_a: str, key_b: str, similarity: float, recipe: FusionRecipe, seed: int
) -> Pair:
    """Order, mode and ratio of a pair, all from (seed, the two keys)."""
    r = rng(seed, "pair", key_a, key_b)
    first, second = (a, b) if r.random() < 0.5 else (b, a)
    return Pair(
        a=first, b=second, similarity=similarity, mode=r.choice(recipe.modes),
        ratio=round(r.uniform(recipe.ratio_min, recipe.ratio_max), 6),
        seed=seed_of(seed, "pair", key_a, key_b),
    )  # fmt: skip


def invert_pictures(
    backbone: Backbone, image_BHWC: np.ndarray, keys: Sequence[str], recipe: InversionRecipe, seed: int
) -> tuple[Schedule, list[NoiseMaps]]:
    """uint8 [B, size, size, C] and their keys -> one NoiseMaps each; noise from (seed, key)."""
    s = backbone.schedule(recipe.num_steps, recipe.skip)
    x_0_BCHW = backbone.encode(image_BHWC)
    noise = [draw_noise(recipe, len(s), tuple(x_0_BCHW.shape[1:]), seed, key) for key in keys]
    return s, invert(backbone.epsilon, s, x_0_BCHW, torch.stack(noise, 1).to(backbone.device))


def augment(
    backbone: Backbone, image_BHWC: np.ndarray, keys: Sequence[str], pairs: Sequence[Pair],
    inversion: InversionRecipe, fusion: FusionRecipe, seed: int,
) -> np.ndarray:  # fmt: skip
    """The fused pictures of a group, in the order of its pairs.

    Args:
        image_BHWC: uint8 [B, size, size, C], at the model's size.
        keys: of the B pictures; with ``seed`` they decide the noise.
        pairs: with ``a`` and ``b`` as positions in the B pictures.

    Returns:
        uint8 [number of pairs, size, size, C].
    """
    if not pairs:
        return image_BHWC[:0]
    s, maps = invert_pictures(backbone, image_BHWC, keys, inversion, seed)
    done = []
    step = backbone.parts.size  # the backbone's own may be halved on the way
    for start in range(0, len(pairs), step):
        fused = [
            fuse([maps[p.a], maps[p.b]], [1 - p.ratio, p.ratio], p.mode, fusion.keep_spread)  # type: ignore[arg-type]
            for p in pairs[start : start + step]
        ]
        done.append(backbone.decode(replay(backbone.epsilon, s, fused)))
    return np.concatenate(done)


def fuse_pictures(
    backbone: Backbone, s: Schedule, maps: Sequence[NoiseMaps],
    recipes: Sequence[tuple[str, Sequence[float]]], keep_spread: bool = True,
) -> Tensor:  # fmt: skip
    """Several fusions (mode, weights) of the same maps: float [len(recipes), C, H, W]."""
    fused = [fuse(maps, weights, mode, keep_spread) for mode, weights in recipes]  # type: ignore[arg-type]
    return replay(backbone.epsilon, s, fused)
