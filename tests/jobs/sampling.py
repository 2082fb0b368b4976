"""Tiny models with their first weights, and the sample job in this process."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from flows import inline
from PIL import Image

from noiseweave.cluster import shards, storage
from noiseweave.engine.networks import base_models
from noiseweave.engine.pictures import images
from noiseweave.engine.training import systems
from noiseweave.engine.training.recipes import (
    Blueprint,
    ModelRecipe,
    ObjectiveRecipe,
    ScheduleRecipe,
    UnetRecipe,
)


def tiny(folder: Path, kind: str, classes: int = 0, channels: int = 1, size: int = 16) -> str:
    """An untrained model in a folder of its own, the same at each call."""
    plan = Blueprint(
        model=ModelRecipe(kind=kind, width=8, latent=4),
        objective=ObjectiveRecipe(),
        classes=classes,
        unet=UnetRecipe(channels=(8, 8), attention=(), head=8, groups=4),
        schedule=ScheduleRecipe(),
        size=size,
        channels=channels,
        seed=0,
    )
    with torch.random.fork_rng(devices=[]):
        model = systems.build(plan).model
    base_models.save(model, folder, torch.float32)
    return str(folder)


def drawn(output: Path, *arguments: object) -> int:
    return inline("sample", "--output", output, *arguments)


def read(output: Path) -> dict[str, dict[str, bytes]]:
    """key -> extension -> bytes, of all shards in their order; no key twice."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted((output / "shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                key, _, extension = info.name.partition(".")
                assert extension not in found.setdefault(key, {}), f"{info.name} twice"
                found[key][extension] = tar.extractfile(info).read()
    return found


def pixels(output: Path, channels: int = 1) -> np.ndarray:
    """int [N, H, W, C] of all shards."""
    return np.stack([images.decode(f["png"], channels).astype(int) for f in read(output).values()])


def lines(output: Path) -> list[dict]:
    return [json.loads(files["json"]) for files in read(output).values()]


def labels(output: Path) -> list[int]:
    return [int(files["cls"]) for files in read(output).values()]


def report(output: Path) -> dict:
    return json.loads((output / "report.json").read_text())


def refused(capsys, output: Path, *arguments: object) -> str:
    """The one line on standard error, of a command that ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        drawn(output, *arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def shard(path: Path, sides: list[dict[str, str]]) -> str:
    """A shard of 8x8 pictures, each with these side files."""
    png = images.encode(np.zeros((8, 8, 1), np.uint8))
    rows = [(f"k{i}", {"png": png} | {e: t.encode() for e, t in s.items()}) for i, s in enumerate(sides)]
    storage.write(str(path), shards.pack(rows))
    return str(path)


def png(value: int = 0, size: tuple[int, int] = (16, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, value).save(buffer, "PNG")
    return buffer.getvalue()
