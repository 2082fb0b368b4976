"""Small pictures with masks and captions, and the lora job in this process, for its tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.torch
from fusing import png
from PIL import Image
from training import Alone, fresh

from noiseweave.cluster.session import Session
from noiseweave.jobs.arguments import parse
from noiseweave.jobs.lora import cache
from noiseweave.jobs.lora import config as lora_config
from noiseweave.jobs.lora import input as lora_input
from noiseweave.jobs.lora import job as lora
from noiseweave.jobs.lora.loop import loop
from noiseweave.jobs.lora.task import Task

SMALL = [
    "--size",
    "32",
    "--rank",
    "2",
    "--steps",
    "6",
    "--batch",
    "2",
    "--accum",
    "1",
    "--lr",
    "1e-2",
    "--log_every",
    "1",
    "--cluster.gpus_per_worker",
    "0",
    "--cluster.address",
    "inline",
]
HERE = Session(workers=1, gpus_per_worker=0, threads=1, retries=0, inline=True)


def picture(number: int, size: tuple[int, int] = (40, 40)) -> np.ndarray:
    """Smooth colours, uint8 [H, W, 3]."""
    coarse = np.random.default_rng(number).integers(0, 255, (3, 3, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def make(root: Path, count: int = 6, masks: str | None = "masks", captions: bool = True) -> Path:
    """imgs/p0.png, ..., some with words, and a mask each with a box as hole."""
    for i in range(count):
        write(root / "imgs" / f"p{i}.png", picture(i))
        if captions and i % 2:
            (root / "imgs" / f"p{i}.txt").write_text(f"a thing {i % 3}")
        if masks:
            hole = np.zeros((40, 40), np.uint8)
            hole[4:20, 3 + i : 20 + i] = 255
            write(root / masks / f"p{i}.png", (hole if masks == "masks_inverted" else 255 - hole))
    return root


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(image))


def config_of(data: Path, model: Path, output: Path, *more: object) -> lora_config.Config:
    words = ["--data_root", data, "--model", model, "--out", output, *SMALL, *more]
    return lora.located(parse("lora", list(map(str, words))))


def filled(config: lora_config.Config) -> lora_input.Source:
    """The source with its cache."""
    return cache.filled(config, lora_input.gather(config), HERE)


def alone(config: lora_config.Config, source: lora_input.Source, checkpoint=None, threads: int = 1) -> Alone:
    """Run the loop without Ray."""
    fresh()
    link = Alone(checkpoint)
    try:
        loop(Task(config=config, source=source, threads=threads, workers=1), link)
    finally:
        fresh()
    return link


def weights(link: Alone, step: int, name: str = "lora_unet.safetensors"):
    return safetensors.torch.load(link.saved[step][name])
