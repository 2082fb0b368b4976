"""The evaluate job in this process."""

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flows import run_here

from noiseweave.cluster import pipeline, shards, storage
from noiseweave.engine import images
from noiseweave.jobs import cli, evaluate_pairs, evaluate_reconstruction, evaluate_sets


@pytest.fixture
def evaluate(monkeypatch, tmp_path):
    """(arguments) -> the report of a run, with the units one after another; no Ray."""

    @contextlib.contextmanager
    def alone(_config):
        yield SimpleNamespace(workers=1)

    monkeypatch.setattr(pipeline, "run", run_here)
    for module in (evaluate_sets, evaluate_pairs, evaluate_reconstruction):
        monkeypatch.setattr(module, "session", alone)

    def run(*arguments: object, output: Path = tmp_path / "out") -> dict:
        assert cli.main(["evaluate", "--output", str(output), *map(str, arguments)]) == 0
        return json.loads((output / "report.json").read_text())

    return run


def refused(capsys, evaluate, *arguments: object) -> str:
    """The one line on standard error, of a command that ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        evaluate(*arguments)
    error = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert len(error) == 1
    return error[0]


def shard(path: Path, pictures: dict[str, np.ndarray | bytes], **more: dict[str, bytes]) -> Path:
    """A tar of pictures by key, as .png; ``more`` has further files by key."""
    rows = [
        (key, {"png": p if isinstance(p, bytes) else images.encode(p)} | more.get(key, {}))
        for key, p in pictures.items()
    ]
    storage.write(str(path), shards.pack(rows))
    return path


def noise(n: int, size: int = 16, channels: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    r = np.random.default_rng(seed)
    return {f"p{i:03d}": r.integers(0, 256, (size, size, channels), np.uint8) for i in range(n)}


def quarantine(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "quarantine.jsonl").read_text().splitlines()]
