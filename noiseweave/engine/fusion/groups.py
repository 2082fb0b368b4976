"""A group of pictures -> its fused pictures: every picture inverted once, every pair replayed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine import spans
from noiseweave.engine.diffusion import dpm_solver
from noiseweave.engine.diffusion.inversion import draw_noise
from noiseweave.engine.diffusion.path import Denoiser, Schedule
from noiseweave.engine.diffusion.recipes import InversionRecipe, SolverName
from noiseweave.engine.fusion.edits import variation
from noiseweave.engine.fusion.modes import fuse
from noiseweave.engine.fusion.recipes import FusionRecipe, RegionRecipe, adaptive_ratio
from noiseweave.engine.fusion.regions import fit_mask, fuse_region, saliency
from noiseweave.engine.networks import text_pipeline
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.networks.conditioning import Classes, Words
from noiseweave.engine.networks.latent_backbone import LatentBackbone
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.recipes import Prompts
from noiseweave.engine.records import NoiseMaps, Pair
from noiseweave.engine.seeding import generator, rng, seed_of

Shares = Sequence[tuple[int, float]]
"""What a fused picture is made of: (number of a picture, weight)."""


def draw_pair(
    a: int,
    b: int,
    key_a: str,
    key_b: str,
    similarity: float,
    recipe: FusionRecipe,
    seed: int,
    threshold: float = 0.0,
    number: int = 0,
    attempt: int = 0,
) -> Pair:
    """Order, mode and ratio of a pair, all from (seed, the two keys); an adaptive ratio from its similarity.

    Args:
        threshold: lowest similarity of a pair; only an adaptive ratio asks for it.
        number, attempt: of a pair's several pictures, and of the draws of one; other draws, the first are both 0.
    """
    again = (number, attempt) if number or attempt else ()
    r = rng(seed, "pair", key_a, key_b, *again)
    first, second = (a, b) if r.random() < 0.5 else (b, a)
    mode, ratio = r.choice(recipe.choices), r.uniform(*recipe.bounds)
    if recipe.adaptive:
        ratio = adaptive_ratio(max(-1.0, min(similarity, 1.0)), threshold)  # rounding may pass 1
    return Pair(
        a=first,
        b=second,
        similarity=similarity,
        mode=mode,
        ratio=round(ratio, 6),
        seed=seed_of(seed, "pair", key_a, key_b, *again),
        number=number,
        attempt=attempt,
    )


def source_denoiser(backbone: Backbone, prompts: Prompts | None) -> Denoiser:
    """What an inversion of the B pictures asks: told each picture's source text, or its class."""
    if prompts is None:
        return backbone.epsilon
    return backbone.told(_said(backbone, prompts.source), prompts.guidance_source)


def _said(backbone: Backbone, told: Sequence[Any]) -> Words | Classes:
    """Texts for a model that reads words, else classes."""
    reads = isinstance(backbone, LatentBackbone) and backbone.text is not None
    return backbone.words(told) if reads else backbone.labels(told)  # type: ignore[attr-defined]


def target_denoisers(backbone: Backbone, prompts: Prompts | None) -> Callable[[Sequence[Shares]], Denoiser]:
    """(what each fused picture is made of) -> what their replay asks: told the parents' targets, mixed alike."""
    if prompts is None:
        return lambda shares: backbone.epsilon
    told, guidance, words = backbone.told, prompts.guidance_target, _said(backbone, prompts.target)
    return lambda shares: told(words.mixed(shares), guidance)


def cut_off(backbone: Backbone, prompts: Prompts | None) -> dict[str, str]:
    """The distinct texts that are too long for the model's text encoder -> the ends that it does not read."""
    if prompts is None or not isinstance(backbone, LatentBackbone) or backbone.text is None:
        return {}
    texts = dict.fromkeys((*prompts.source, *prompts.target))
    return text_pipeline.cut_off(backbone.text, [Prompt(text=text, key="") for text in texts])


def schedule_of(backbone: Backbone, recipe: InversionRecipe) -> Schedule:
    """The kept time steps of the recipe's sampler.

    Raises:
        ValueError: more steps than the model, or the sampler, can tell apart.
    """
    if recipe.sampler == "ddim":
        return backbone.schedule(recipe.num_steps, recipe.skip)
    return dpm_solver.schedule(backbone.scheduler, recipe.num_steps, recipe.skip)


def invert_pictures(
    backbone: Backbone,
    image_BHWC: np.ndarray,
    keys: Sequence[str],
    recipe: InversionRecipe,
    seed: int,
    prompts: Prompts | None = None,
) -> tuple[Schedule, list[NoiseMaps]]:
    """uint8 [B, size, size, C] and their keys -> one NoiseMaps each; noise from (seed, key).

    Args:
        prompts: of the B pictures, for a model that reads words; None tells it nothing.
    """
    s = schedule_of(backbone, recipe)
    with spans.span(0, 1 / (len(s) + 1)):
        x_0_BCHW = backbone.encode(image_BHWC)
    noise = [draw_noise(recipe, len(s), tuple(x_0_BCHW.shape[1:]), seed, key) for key in keys]
    noise_TBCHW = torch.stack(noise, 1).to(backbone.device)
    invert, _ = dpm_solver.SOLVERS[recipe.sampler]
    with spans.span(1 / (len(s) + 1), 1):
        return s, invert(source_denoiser(backbone, prompts), s, x_0_BCHW, noise_TBCHW)


@dataclass(frozen=True, kw_only=True)
class Fused:
    """The fused pictures of P pairs.

    Attributes:
        image_PHWC: uint8 [P, size, size, C].
        finite_P: bool [P]; where False the model gave NaN or infinity, in float32 too, and the picture is none.
        areas: mean of each region's mask, 1 without a region.
    """

    image_PHWC: np.ndarray
    finite_P: np.ndarray
    areas: list[float]


@dataclass(frozen=True, kw_only=True)
class Inverted:
    """A group's pictures as noise maps, each made once for all that is drawn of it.

    Attributes:
        maps: of the B pictures.
        mask_of: position of each second picture -> float [H, W], where it shows; empty where that is everywhere.
        prompts: of the B pictures, or None.
    """

    schedule: Schedule
    maps: Sequence[NoiseMaps]
    mask_of: Mapping[int, Tensor]
    prompts: Prompts | None


def inverted(
    backbone: Backbone,
    image_BHWC: np.ndarray,
    keys: Sequence[str],
    seconds: Collection[int],
    inversion: InversionRecipe,
    fusion: FusionRecipe,
    seed: int,
    prompts: Prompts | None = None,
    masks: Mapping[int, np.ndarray] | None = None,
) -> Inverted:
    """A group's pictures -> noise maps.

    Args:
        image_BHWC: uint8 [B, size, size, C], at the model's size.
        keys: of the B pictures; with ``seed`` they decide the noise.
        seconds: positions of the pictures that are the second of a pair.
        prompts: of the B pictures, for a model that is told words or classes; None tells it nothing.
        masks: for fusion.region.source=file, position of each pair's second picture -> uint8 [h, w], 255 where
            it shows.
    """
    with spans.span(0, 1):
        s, maps = invert_pictures(backbone, image_BHWC, keys, inversion, seed, prompts)
    mask_of = _regions(fusion.region, maps, seconds, masks)
    return Inverted(schedule=s, maps=maps, mask_of=mask_of, prompts=prompts)


def fused(
    backbone: Backbone, group: Inverted, pairs: Sequence[Pair], sampler: SolverName, fusion: FusionRecipe
) -> Fused:
    """The fused pictures of some pairs, in their order.

    Where a region's mask m says how much of the fusion shows, the second picture has m * w at a place, so over
    the picture ratio * mean(m): its share of the label, as CutMix has it (Yun et al., arXiv 1905.04899).

    Args:
        pairs: with ``a`` and ``b`` as positions in the group; their seeds decide what fresh noise there is.
    """
    maps, mask_of, s = group.maps, group.mask_of, group.schedule
    areas = [_area(mask_of.get(p.b)) for p in pairs]
    epsilon_of, (_, replay) = target_denoisers(backbone, group.prompts), dpm_solver.SOLVERS[sampler]
    done = []
    step = backbone.parts.size  # the backbone's own may be halved on the way
    for start in spans.steps(range(0, len(pairs), step)):
        some = pairs[start : start + step]
        mixed = [
            varied(
                _fused(
                    [maps[p.a], maps[p.b]],
                    [1 - p.ratio, p.ratio],
                    p.mode,
                    fusion.keep_spread,
                    mask_of.get(p.b),
                ),
                s,
                fusion.variation or 0.0,
                p.seed,
            )
            for p in some
        ]
        told = [
            list(zip((p.a, p.b), _shares([1 - p.ratio, p.ratio], area), strict=True))
            for p, area in zip(some, areas[start : start + step], strict=True)
        ]
        done.append(backbone.decoded(replay(epsilon_of(told), s, mixed)))
    image_PHWC, finite_P = map(np.concatenate, zip(*done, strict=True))
    return Fused(image_PHWC=image_PHWC, finite_P=finite_P, areas=areas)


def augment(
    backbone: Backbone,
    image_BHWC: np.ndarray,
    keys: Sequence[str],
    pairs: Sequence[Pair],
    inversion: InversionRecipe,
    fusion: FusionRecipe,
    seed: int,
    prompts: Prompts | None = None,
    masks: Mapping[int, np.ndarray] | None = None,
) -> Fused:
    """The fused pictures of a group, in the order of its pairs: ``inverted``, then ``fused``."""
    if not pairs:
        return Fused(image_PHWC=image_BHWC[:0], finite_P=np.zeros(0, bool), areas=[])
    seconds = {p.b for p in pairs}
    group = inverted(backbone, image_BHWC, keys, seconds, inversion, fusion, seed, prompts, masks)
    return fused(backbone, group, pairs, inversion.sampler, fusion)


def varied(maps: NoiseMaps, s: Schedule, strength: float, seed: int) -> NoiseMaps:
    """The map with a share of fresh noise from ``seed`` in each step: ``edits.variation`` from the first on."""
    if strength == 0:
        return maps
    r_TCHW = maps.residual_TCHW
    fresh_TCHW = torch.randn(r_TCHW.shape, generator=generator(seed, "variation"))
    return replace(maps, residual_TCHW=variation(r_TCHW, strength, s, fresh_TCHW))


def _regions(
    region: RegionRecipe,
    maps: Sequence[NoiseMaps],
    seconds: Collection[int],
    masks: Mapping[int, np.ndarray] | None,
) -> dict[int, Tensor]:
    """Position of each second picture -> float [H, W], where it shows; empty where that is everywhere."""
    if region.source == "saliency":
        return {b: saliency(maps[b], region.smooth) for b in seconds}
    if region.source == "everywhere":
        return {}
    assert masks is not None
    x = maps[0].x_T_CHW
    size = int(x.shape[-2]), int(x.shape[-1])
    return {b: fit_mask(torch.from_numpy(masks[b] / np.float32(255)), size).to(x.device) for b in seconds}


def _area(mask_HW: Tensor | None) -> float:
    return 1.0 if mask_HW is None else float(mask_HW.double().mean())


def _shares(weights: Sequence[float], area: float) -> list[float]:
    """What each picture has of the whole, where the first alone shows outside of ``area``."""
    return [1 - area + area * weights[0], *(area * w for w in weights[1:])]


def fuse_pictures(
    backbone: Backbone,
    s: Schedule,
    maps: Sequence[NoiseMaps],
    recipes: Sequence[tuple[str, Sequence[float]]],
    keep_spread: bool = True,
    prompts: Prompts | None = None,
    sampler: SolverName = "ddim",
    mask_HW: Tensor | None = None,
) -> Tensor:
    """Several fusions (mode, weights) of the same maps: float [len(recipes), C, H, W].

    The maps of one picture alone are replayed as they are: with a target prompt that is text-guided editing.

    Args:
        prompts: of the pictures, for a model that reads words; None tells it nothing.
        sampler: that the maps were made with.
        mask_HW: float [h, w] in 0..1, where the fusion shows; elsewhere is the first picture. None is everywhere.

    Raises:
        ValueError: as of ``regions.fit_mask``.
    """
    fused = [_fused(maps, weights, mode, keep_spread, mask_HW) for mode, weights in recipes]
    shares = [_shares(w, _area(mask_HW)) for _, w in recipes]
    epsilon = target_denoisers(backbone, prompts)([list(enumerate(w)) for w in shares])
    return dpm_solver.SOLVERS[sampler][1](epsilon, s, fused)


def _fused(
    maps: Sequence[NoiseMaps], weights: Sequence[float], mode: str, keep_spread: bool, mask_HW: Tensor | None
) -> NoiseMaps:
    if len(maps) == 1:
        return maps[0]
    if mask_HW is None:
        return fuse(maps, weights, mode, keep_spread)  # type: ignore[arg-type]
    return fuse_region(maps, weights, mode, mask_HW, keep_spread)  # type: ignore[arg-type]
