"""Tiny models with their first weights, and the sample job: through Ray, or its flow alone where Ray adds nothing."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from noiseweave.cluster import ledger, shards, storage
from noiseweave.cluster.pipeline import Outcome
from noiseweave.engine import base_models, images, systems
from noiseweave.engine.training_recipes import (
    Blueprint,
    ModelRecipe,
    ObjectiveRecipe,
    ScheduleRecipe,
    UnetRecipe,
)
from noiseweave.jobs import cli, sample, sample_draw, sample_plan

CPU = ["--cluster.gpus_per_worker", "0"]


def tiny(folder: Path, kind: str, classes: int = 0, channels: int = 1, size: int = 16) -> str:
    """An untrained model in a folder of its own, the same at each call."""
    plan = Blueprint(
        model=ModelRecipe(kind=kind, width=8, latent=4), objective=ObjectiveRecipe(), classes=classes,
        unet=UnetRecipe(channels=(8, 8), attention=(), head=8, groups=4), schedule=ScheduleRecipe(),
        size=size, channels=channels, seed=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model = systems.build(plan).model
    base_models.save(model, folder, torch.float32)
    return str(folder)


def through_ray(output: Path, *arguments: object) -> int:
    return cli.main(["sample", *CPU, "--output", str(output), *map(str, arguments)])


def drawn(output: Path, *arguments: object) -> int:
    """As ``through_ray``, with the units one after another in this process."""
    _, config = cli.parse("sample", [*map(str, arguments), "--output", str(output)])
    task = sample_plan.plan(config, str(output))
    book = ledger.open_run(str(output), sample.identity(task), config.overwrite, sample.OWNED)
    plan, phase = sample_draw.units(task), sample_draw.phase(task, gpu=False)
    compute, outcome = phase.make_compute(), Outcome(units=plan.length)
    for unit in map(plan.unit, range(plan.length)):
        book.mark("sample", *phase.commit(unit, compute(phase.fetch(unit))))
    for record in book.records("sample"):
        outcome.add(record)
    return sample_draw.finish(task, book, outcome)


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
        through_ray(output, *arguments)
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
