"""A group of pictures -> its fused pictures: every picture inverted once, every pair replayed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine import spans
from noiseweave.engine.diffusion import dpm_solver
from noiseweave.engine.diffusion.inversion import draw_noise
from noiseweave.engine.diffusion.path import Denoiser, Path
from noiseweave.engine.diffusion.recipes import InversionRecipe, SolverName
from noiseweave.engine.fusion.edits import variation
from noiseweave.engine.fusion.modes import fuse
from noiseweave.engine.fusion.recipes import FusionRecipe, RegionRecipe, adaptive_ratio
from noiseweave.engine.fusion.regions import fit_mask, fuse_region, saliency
from noiseweave.engine.networks import text_encoding
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.networks.conditioning import Classes, Words
from noiseweave.engine.networks.latent_backbone import LatentBackbone
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.recipes import Prompts
from noiseweave.engine.records import NoiseMaps, Pair
from noiseweave.engine.seeding import generator, rng, seed_of

GOLDEN = (5**0.5 - 1) / 2  # the first n multiples of it, modulo 1, lie as far apart as n points may
Composition = Sequence[tuple[int, float]]
"""What a fused picture is made of: (number of a picture, weight)."""


def draw_pair(
    ends: tuple[int, int],
    keys: tuple[str, str],
    similarity: float,
    recipe: FusionRecipe,
    seed: int,
    threshold: float = 0.0,
    turn: tuple[int, int] = (0, 0),
) -> Pair:
    """Order, mode and ratio of a pair, all from (seed, the two keys); an adaptive ratio from its similarity.

    A pair's pictures take the modes in turn, from one that is drawn, and their ratios, as weights of one of the two
    where the range is symmetric, are spread over the range. So no two of them are alike by chance.

    Args:
        ends: positions of the two pictures in their group.
        threshold: lowest similarity of a pair; only an adaptive ratio asks for it.
        turn: (number, attempt): of a pair's several pictures, and of the draws of one.
    """
    again = turn if any(turn) else ()
    r = rng(seed, "pair", *keys)
    first, second = ends if r.random() < 0.5 else ends[::-1]
    n = turn[0] + recipe.per_pair * turn[1]  # draws of the pair before this one, as far as there were any
    mode = recipe.choices[(r.randrange(len(recipe.choices)) + n) % len(recipe.choices)]
    low, high = recipe.bounds
    ratio = low + (high - low) * ((r.random() + n * GOLDEN) % 1)
    if again and rng(seed, "order", *keys, *again).random() < 0.5:
        first, second, ratio = second, first, low + high - ratio
    if recipe.adaptive:
        ratio = adaptive_ratio(max(-1.0, min(similarity, 1.0)), threshold)  # rounding may pass 1
    return Pair(
        a=first,
        b=second,
        similarity=similarity,
        mode=mode,
        ratio=round(ratio, 6),
        seed=seed_of(seed, "pair", *keys, *again),
        number=turn[0],
        attempt=turn[1],
    )


def draw_pairs(
    ends: Iterable[tuple[int, int]],
    keys: Sequence[str],
    similarity_P: np.ndarray,
    recipe: FusionRecipe,
    seed: int,
    threshold: float,
) -> list[Pair]:
    """The pairs of a group, ``recipe.per_pair`` of each two pictures.

    Args:
        ends: positions of the two.
        keys: names of the group's pictures in the whole data set.
        similarity_P: cosine of their features, float [P].
        threshold: lowest similarity of a pair.
    """
    return [
        draw_pair((i, j), (keys[i], keys[j]), float(cosine), recipe, seed, threshold, (number, 0))
        for (i, j), cosine in zip(ends, similarity_P, strict=True)
        for number in range(recipe.per_pair)
    ]


def source_denoiser(backbone: Backbone, prompts: Prompts | None) -> Denoiser:
    """The denoiser of an inversion of the B pictures: conditioned on each one's source text, or its class."""
    if prompts is None:
        return backbone.denoise
    words = _conditions_of(backbone, prompts.source)
    return backbone.conditioned(words, prompts.guidance_source, prompts.guidance_interval)


def _conditions_of(backbone: Backbone, given: Sequence[Any]) -> Words | Classes:
    """Texts for a model that reads words, else classes."""
    reads = isinstance(backbone, LatentBackbone) and backbone.text is not None
    return backbone.words(given) if reads else backbone.labels(given)  # type: ignore[attr-defined]


def target_denoisers(
    backbone: Backbone, prompts: Prompts | None
) -> Callable[[Sequence[Composition]], Denoiser]:
    """(what each fused picture is made of) -> the denoiser of their replay: on the parents' targets, mixed alike."""
    if prompts is None:
        return lambda shares: backbone.denoise
    guidance, words = prompts.guidance_target, _conditions_of(backbone, prompts.target)
    return lambda shares: backbone.conditioned(words.mixed(shares), guidance, prompts.guidance_interval)


def truncated_prompts(backbone: Backbone, prompts: Prompts | None) -> dict[str, str]:
    """The distinct texts that are too long for the model's text encoder -> the ends that it does not read."""
    if prompts is None or not isinstance(backbone, LatentBackbone) or backbone.text is None:
        return {}
    texts = dict.fromkeys((*prompts.source, *prompts.target))
    return text_encoding.truncated_ends(backbone.text.pipeline, [Prompt(text=text, key="") for text in texts])


def invert_pictures(
    backbone: Backbone,
    image_BHWC: np.ndarray,
    keys: Sequence[str],
    recipe: InversionRecipe,
    seed: int,
    prompts: Prompts | None = None,
) -> tuple[Path, list[NoiseMaps]]:
    """uint8 [B, size, size, C] and their keys -> one NoiseMaps each; noise from (seed, key).

    Args:
        prompts: of the B pictures, for a model that reads words; None is without conditioning.
    """
    path = backbone.path(recipe)
    with spans.span(0, 1 / (len(path) + 1)):
        x_0_BCHW = backbone.encode(image_BHWC)
    noise = [draw_noise(recipe, len(path), tuple(x_0_BCHW.shape[1:]), seed, key) for key in keys]
    noise_TBCHW = torch.stack(noise, 1).to(backbone.device)
    invert = dpm_solver.SOLVERS[recipe.sampler].invert
    with spans.span(1 / (len(path) + 1), 1):
        return path, invert(source_denoiser(backbone, prompts), path, x_0_BCHW, noise_TBCHW)


@dataclass(frozen=True, kw_only=True)
class Fused:
    """The fused pictures of P pairs.

    Attributes:
        image_PHWC: uint8 [P, size, size, C].
        finite_P: bool [P]; where False the model gave NaN or infinity, in float32 too, and the picture is none.
        flagged_P: bool [P]; where True the model's safety checker flags the picture.
        areas: mean of each region's mask, 1 without a region.
    """

    image_PHWC: np.ndarray
    finite_P: np.ndarray
    flagged_P: np.ndarray
    areas: list[float]


@dataclass(frozen=True, kw_only=True)
class Parents:
    """The B pictures of a group, before they are inverted.

    Attributes:
        image_BHWC: uint8 [B, size, size, C], at the model's size.
        keys: of each; with a seed they decide the noise.
        prompts: of a text or class-conditional model; None is without conditioning.
        masks: for fusion.region.source=file, position of each pair's second picture -> uint8 [h, w], 255 where
            it shows.
    """

    image_BHWC: np.ndarray
    keys: Sequence[str]
    prompts: Prompts | None = None
    masks: Mapping[int, np.ndarray] | None = None


@dataclass(frozen=True, kw_only=True)
class Inverted:
    """A group's pictures as noise maps, each made once for all that is drawn of it.

    Attributes:
        maps: of the B pictures.
        mask_of: position of each second picture -> float [H, W], where it shows; empty where that is everywhere.
        prompts: of the B pictures, or None.
    """

    path: Path
    maps: Sequence[NoiseMaps]
    mask_of: Mapping[int, Tensor] = field(default_factory=dict)
    prompts: Prompts | None = None


def invert_group(
    backbone: Backbone,
    group: Parents,
    seconds: Collection[int],
    inversion: InversionRecipe,
    fusion: FusionRecipe,
    seed: int,
) -> Inverted:
    """A group's pictures -> noise maps.

    Args:
        seconds: positions of the pictures that are the second of a pair.
    """
    with spans.span(0, 1):
        path, maps = invert_pictures(backbone, group.image_BHWC, group.keys, inversion, seed, group.prompts)
    mask_of = _regions(fusion.region, maps, seconds, group.masks)
    return Inverted(path=path, maps=maps, mask_of=mask_of, prompts=group.prompts)


def fuse_group(
    backbone: Backbone, group: Inverted, pairs: Sequence[Pair], solver: SolverName, fusion: FusionRecipe
) -> Fused:
    """The fused pictures of some pairs, in their order.

    Where a region's mask m says how much of the fusion shows, the second picture has m * w at a place, so over
    the picture ratio * mean(m): its share of the label, as CutMix has it (Yun et al., arXiv 1905.04899).

    Args:
        pairs: with ``a`` and ``b`` as positions in the group; their seeds decide what fresh noise there is.
    """
    areas = [_area(group.mask_of.get(p.b)) for p in pairs]
    denoiser_of, replay = target_denoisers(backbone, group.prompts), dpm_solver.SOLVERS[solver].replay
    done = []
    step = backbone.parts.size  # the backbone's own may be halved on the way
    for start in spans.steps(range(0, len(pairs), step)):
        some, shown = pairs[start : start + step], areas[start : start + step]
        mixed = [_fuse_pair(group, p, fusion) for p in some]
        made_of = [
            list(zip((p.a, p.b), _shares([1 - p.ratio, p.ratio], area), strict=True))
            for p, area in zip(some, shown, strict=True)
        ]
        done.append(backbone.decoded(replay(denoiser_of(made_of), group.path, mixed)))
    image_PHWC, finite_P = map(np.concatenate, zip(*done, strict=True))
    flagged_P = finite_P & backbone.flagged(image_PHWC)
    return Fused(image_PHWC=image_PHWC, finite_P=finite_P, flagged_P=flagged_P, areas=areas)


def _fuse_pair(group: Inverted, p: Pair, fusion: FusionRecipe) -> NoiseMaps:
    weights, mask_HW = [1 - p.ratio, p.ratio], group.mask_of.get(p.b)
    maps = _fuse_maps([group.maps[p.a], group.maps[p.b]], weights, p.mode, fusion.keep_spread, mask_HW)
    return varied(maps, group.path, fusion.variation, p.seed)


def augment(
    backbone: Backbone,
    group: Parents,
    pairs: Sequence[Pair],
    inversion: InversionRecipe,
    fusion: FusionRecipe,
    seed: int,
) -> Fused:
    """The fused pictures of a group, in the order of its pairs: ``invert_group``, then ``fuse_group``."""
    if not pairs:
        none = np.zeros(0, bool)
        return Fused(image_PHWC=group.image_BHWC[:0], finite_P=none, flagged_P=none, areas=[])
    maps = invert_group(backbone, group, {p.b for p in pairs}, inversion, fusion, seed)
    return fuse_group(backbone, maps, pairs, inversion.sampler, fusion)


def varied(maps: NoiseMaps, path: Path, strength: float, seed: int) -> NoiseMaps:
    """The map with a share of fresh noise from ``seed`` in each step: ``edits.variation`` from the first on."""
    if strength == 0:
        return maps
    r_TCHW = maps.residual_TCHW
    fresh_TCHW = torch.randn(r_TCHW.shape, generator=generator(seed, "variation"))
    return replace(maps, residual_TCHW=variation(r_TCHW, strength, path, fresh_TCHW))


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
    group: Inverted,
    recipes: Sequence[tuple[str, Sequence[float]]],
    keep_spread: bool = True,
    solver: SolverName = "ddim",
    mask_HW: Tensor | None = None,
    fresh: tuple[float, int] = (0.0, 0),
) -> Tensor:
    """Several fusions (mode, weights) of all pictures of a group: float [len(recipes), C, H, W].

    The maps of one picture alone are replayed as they are: with a target prompt that is text-guided editing.

    Args:
        solver: that the maps were made with.
        mask_HW: float [h, w] in 0..1, where the fusion shows; elsewhere is the first picture. None is everywhere.
        fresh: share of fresh noise in each fused map, 0 (none) to 1, and the seed that it is drawn from.

    Raises:
        ValueError: as of ``regions.fit_mask``.
    """
    fused = [_fuse_maps(group.maps, weights, mode, keep_spread, mask_HW) for mode, weights in recipes]
    fused = [varied(maps, group.path, *fresh) for maps in fused]
    shares = [_shares(w, _area(mask_HW)) for _, w in recipes]
    denoise = target_denoisers(backbone, group.prompts)([list(enumerate(w)) for w in shares])
    return dpm_solver.SOLVERS[solver].replay(denoise, group.path, fused)


def _fuse_maps(
    maps: Sequence[NoiseMaps], weights: Sequence[float], mode: str, keep_spread: bool, mask_HW: Tensor | None
) -> NoiseMaps:
    if len(maps) == 1:
        return maps[0]
    if mask_HW is None:
        return fuse(maps, weights, mode, keep_spread)  # type: ignore[arg-type]
    return fuse_region(maps, weights, mode, mask_HW, keep_spread)  # type: ignore[arg-type]
