"""What fuse reads and writes: the pictures as the model sees them, and the sheets."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from noiseweave.cluster import storage
from noiseweave.cluster.map_store import MapStore
from noiseweave.engine.diffusion.path import Path
from noiseweave.engine.fusion import groups
from noiseweave.engine.fusion.map_cache import MapCache, cached, map_key, size_of
from noiseweave.engine.fusion.recipes import MODES, RegionRecipe
from noiseweave.engine.fusion.reconstruction import psnr_of
from noiseweave.engine.fusion.regions import of_file
from noiseweave.engine.networks import loading
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.networks.facts import ModelFacts
from noiseweave.engine.networks.latent_backbone import LatentBackbone
from noiseweave.engine.networks.recipes import Prompts
from noiseweave.engine.pictures import collage, images, masks
from noiseweave.engine.pictures.provenance import CREATED, EDITED, MIXED, Mark, Source
from noiseweave.engine.records import NoiseMaps
from noiseweave.jobs.fuse.config import Config
from noiseweave.jobs.reading import looks

MIB = 2**20


def pictures(paths: Sequence[str], model: ModelFacts) -> tuple[list[str], np.ndarray, str | None]:
    """The pictures' keys, hashes of their bytes, and uint8 [N, side, side, C] as the model takes them.

    And a warning, where they are much larger than that, or of other channels.
    """
    files = [read(path) for path in paths]
    found = [fitted(path, data, model.channels, model.side) for path, data in zip(paths, files, strict=True)]
    unlike = looks.warning(looks.look(files), f"model {model.name}", model.side, model.channels)
    return [hashlib.sha256(data).hexdigest() for data in files], np.stack(found), unlike


def fitted(path: str, data: bytes, channels: int, size: int) -> np.ndarray:
    """uint8 [size, size, channels] of a picture's file."""
    try:
        image_HWC = images.fit(images.decode(data, channels), size)
    except ValueError as e:
        raise ValueError(f"picture {path!r}: {e}") from None
    if images.has_broken_profile(data):
        print(f"picture {path!r}: its broken colour profile is ignored", file=sys.stderr)
    return image_HWC


def mask(region: RegionRecipe, second: str, size: int) -> tuple[torch.Tensor | None, str | None]:
    """The file of a region as float32 [size, size] in 0..1, and its key; None where it has none.

    Args:
        second: the picture that shows there, whose aspect the mask has, unless it is square as what the model sees.
    """
    if region.mask is None:
        return None, None
    data = read(region.mask)
    try:
        height, width = masks.read(data).shape
        if height != width:
            masks.check_aspect((height, width), images.upright_size(read(second)))
        mask_HW = of_file(data, size)
    except ValueError as e:
        raise ValueError(f"fusion.region.mask {region.mask!r}: {e}") from None
    return mask_HW, hashlib.sha256(data).hexdigest()


def read(path: str) -> bytes:
    """A file's bytes; what cannot be read is one line."""
    try:
        return storage.read(storage.absolute(path))
    except FileNotFoundError:
        raise ValueError(f"picture {path!r}: no such file") from None
    except Exception as e:  # each file system has its own errors
        raise ValueError(f"picture {path!r}: cannot be read ({type(e).__name__}: {e})") from None


def inverted(
    config: Config, model: Backbone, image_NHWC: np.ndarray, keys: Sequence[str], prompts: Prompts | None
) -> tuple[Path, list[NoiseMaps]]:
    """The pictures' noise maps, with those that the cache holds taken from it; prints how many."""

    def invert(places: list[int]) -> tuple[Path, list[NoiseMaps]]:
        some, prompted = [keys[i] for i in places], _prompts_of(prompts, places)
        return groups.invert_pictures(
            model, image_NHWC[places], some, config.inversion, config.seed, prompted
        )

    if config.cache is None:
        return invert(list(range(len(keys))))
    store = MapStore(storage.absolute(config.cache), int(config.cache_mib * MIB))
    cache = MapCache(0, store)  # each straight to the store: all are in memory as it is
    known = map_keys(config, image_NHWC, keys, prompts)
    maps = cached(cache, known, lambda places: invert(places)[1], model.device)
    print(f"noise maps: {cache.hits} of {cache.hits + cache.misses} from the cache")
    if lost := sum(key not in store for key in set(known)):
        size = size_of(maps[0]) / MIB
        print(f"cache_mib={config.cache_mib:g}: too small, {lost} noise maps of {size:.2f} MiB were not kept")
    return model.path(config.inversion), maps


def map_keys(
    config: Config, image_NHWC: np.ndarray, keys: Sequence[str], prompts: Prompts | None
) -> list[str]:
    """Cache keys: all that each picture's noise map is a function of."""
    own = config.inversion.noise == "independent"
    model = loading.fingerprint(loading.describe(config.model.name), config.model)
    return [
        map_key(
            image_HWC,
            model,
            config.inversion,
            seed=config.seed,
            key=key if own else "",
            precision=config.model.precision,
            size=len(image_HWC),
            source=prompts.source[i] if prompts else None,
            guidance=prompts.guidance_source if prompts else None,
            guidance_interval=prompts.guidance_interval if prompts else None,
        )
        for i, (image_HWC, key) in enumerate(zip(image_NHWC, keys, strict=True))
    ]


def _prompts_of(prompts: Prompts | None, places: Sequence[int]) -> Prompts | None:
    if prompts is None:
        return None
    source, target = (tuple(texts[i] for i in places) for texts in (prompts.source, prompts.target))
    return replace(prompts, source=source, target=target)


def warn(model: Backbone, prompts: Prompts | None) -> None:
    """Say on standard error what the text encoder does not read of prompts that are too long for it."""
    for end in groups.truncated_prompts(model, prompts).values():
        print(f"prompt truncated, the text encoder does not read: ...{end[:200]}", file=sys.stderr)


def report_fidelity(model: Backbone, psnr: Sequence[float], image_NHWC: np.ndarray) -> None:
    """Print how well the pictures come back."""
    if not isinstance(model, LatentBackbone):
        print(f"invert and replay give each picture back at {min(psnr):.1f} dB or more")
        return
    apart_NHWC = model.decode(model.encode(image_NHWC)).astype(np.float64) - image_NHWC
    vae = min(psnr_of(torch.from_numpy(apart_NHWC) / 127.5))
    print(
        f"invert and replay give each picture's latents back at {min(psnr):.1f} dB or more; the model's VAE "
        f"alone gives the pictures back at {vae:.1f} dB or more"
    )


def mark(config: Config, source: Source, keys: Sequence[str], model_hash: str) -> Mark | None:
    """What the file of a fused picture, or of a sheet, says; None where it is not asked for.

    A fusion is a new picture that the model drew. One that was given another text, or whose noise was edited, is
    an edit of it.
    """
    if not config.provenance:
        return None
    if source == CREATED and (config.edit is not None or len(config.images) == 1):
        source = EDITED
    how: dict[str, str | float] = {"mode": config.edit.name if config.edit else config.mode}
    how |= {"weights": " ".join(f"{share:.6g}" for share in config.shares)}
    if config.fusion.ratio is not None:
        how["ratio"] = config.fusion.ratio
    if config.fusion.variation:
        how["variation"] = config.fusion.variation
    name = config.model.name
    return Mark(source=source, model=name, model_hash=model_hash, parents=keys, seed=config.seed, how=how)


def encoded(
    config: Config, image_NHWC: np.ndarray, fused_FHWC: np.ndarray, keys: Sequence[str], model_hash: str
) -> dict[str, bytes]:
    """File name -> content of all pictures that the job writes."""
    one, several = (mark(config, source, keys, model_hash) for source in (CREATED, MIXED))
    tile = max(96, min(image_NHWC.shape[1], 256))
    heads = [*(f"{i}: {w:.2f}" for i, w in enumerate(config.shares)), "fused"]
    recipe = config.inversion
    what = config.mode if len(image_NHWC) > 1 else f"{config.prompt.target}"
    if config.edit is not None:
        heads = [*["original", "its style"][: len(image_NHWC)], "edited"]
        what = f"{config.edit.name} {config.edit.strength:g}"
    elif config.fusion.region.source != "everywhere":
        what += f", region: {config.fusion.region.source}"
    text = f"{what}, {recipe.num_steps} steps, skip {recipe.skip}, seed {config.seed}"
    files = {"fused.png": images.encode(fused_FHWC[0], mark=one)}
    files |= {f"input-{i}.png": images.encode(image) for i, image in enumerate(image_NHWC)}
    page = collage.sheet([[*image_NHWC, fused_FHWC[0]]], [text], heads, tile)
    files["sheet.png"] = collage.png(page, several)
    if config.sweep:
        width = len(config.ratios)
        rows = [list(fused_FHWC[i : i + width]) for i in range(1, len(fused_FHWC), width)]
        files["sweep.png"] = collage.png(
            collage.sheet(rows, MODES, [f"ratio {r:g}" for r in config.ratios], tile), several
        )
    return files
