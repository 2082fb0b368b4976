"""The sheets of sample that need no cluster: the panel, a vae's reconstructions, a walk between two codes."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from PIL.Image import Image

from noiseweave.cluster import shards, storage
from noiseweave.engine.checks import check
from noiseweave.engine.formats import is_picture
from noiseweave.engine.networks import base_models, latents, tuning
from noiseweave.engine.networks.base_models import BaseModel
from noiseweave.engine.pictures import collage, images
from noiseweave.engine.pictures.provenance import CREATED, MIXED
from noiseweave.engine.sampling import samplers
from noiseweave.jobs.sample.draw import animation, mark
from noiseweave.jobs.sample.task import Task

COLUMNS = 8


def write(task: Task) -> None:
    """Write the sheets that the config asks for.

    Raises:
        ValueError: the model cannot draw them, or the picture cannot be read.
    """
    config, kind = task.config, task.about["kind"]
    if config.panel is None and config.reconstruct is None and not config.walk:
        return
    vae = kind == "vae"
    check(config.panel is None or kind not in ("vae", "dcgan"), "panel", config.panel, f"null for a {kind}")
    check(config.reconstruct is None or vae, "reconstruct", config.reconstruct, f"null for a {kind}")
    check(config.walk == 0 or vae, "walk", config.walk, f"0 for a {kind}")
    model = base_models.load(config.model, tuning.pick_device())
    pages = {"panel": config.panel, "reconstructions": config.reconstruct, "walk": config.walk}
    makers = {"panel": panel, "reconstructions": reconstructions, "walk": walked}
    for name, wanted in pages.items():
        if wanted:
            path = storage.join(task.output, f"{name}.png")
            source = CREATED if name == "walk" else MIXED
            storage.write(path, collage.png(makers[name](task, model), mark(task, source=source)))
            print(f"wrote {path}")


def panel(task: Task, model: BaseModel) -> Image:
    """truth | noisy | restored."""
    assert task.config.panel is not None
    truth = pictures(task, task.config.panel)[:1]
    noisy, belief = samplers.denoise_once(model, truth, task.config.level, ["panel"], task.config.seed)
    heads = ("truth", f"noise {task.config.level:g}", "restored")
    return collage.sheet([[truth[0], noisy[0], belief[0]]], heads=heads, tile=max(128, model.size))


@torch.inference_mode()
def reconstructions(task: Task, model: BaseModel) -> Image:
    """Rows of truth over rows of decode(mean code)."""
    assert task.config.reconstruct is not None
    truth = pictures(task, task.config.reconstruct)
    x = latents.to_pixels(truth, model.device).to(model.dtype)
    back = base_models.pictures_of(model, model.network.decode(model.network.encode(x)[0]))
    rows = []
    for i in range(0, len(truth), COLUMNS):
        rows += [list(truth[i : i + COLUMNS]), list(back[i : i + COLUMNS])]
    return collage.sheet(rows, tile=max(64, model.size))


@torch.inference_mode()
def walked(task: Task, model: BaseModel) -> Image:
    """The pictures on the way from one random code to another; the animation goes there and back."""
    from noiseweave.engine.networks.vae import walk

    ends, _ = samplers.first_noise(model, ["walk-a", "walk-b"], task.config.seed)
    codes = walk(ends[0], ends[1], task.config.walk).to(model.device)
    frames = list(base_models.pictures_of(model, samplers.decoded(model, codes)))
    storage.write(storage.join(task.output, "walk.webp"), animation([*frames, *frames[-2:0:-1]], mark(task)))
    rows = [frames[i : i + COLUMNS] for i in range(0, len(frames), COLUMNS)]
    return collage.sheet(rows, tile=max(64, model.size))


def pictures(task: Task, source: str) -> np.ndarray:
    """A picture, or the first of a set of shards, as the model sees them: uint8 [N, size, size, channels]."""
    channels, size = task.about["channels"], task.about["size"]
    url = storage.absolute(source)
    if is_picture(url):
        if not storage.exists(url):
            raise ValueError(f"picture {source!r}: no such file")
        data = [storage.read(url)]
    else:
        found = itertools.chain.from_iterable(shards.locate(s)[0] for s in shards.find(source))
        data = [storage.read(p.shard, p.offset, p.size) for p in itertools.islice(found, 2 * COLUMNS)]
    if not data:
        raise ValueError(f"picture {source!r}: the shards there hold none")
    try:
        return np.stack([images.fit(images.decode(d, channels), size) for d in data])
    except ValueError as e:
        raise ValueError(f"picture {source!r}: {e}") from None
