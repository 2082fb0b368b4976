"""What tests of the evaluate job share; the fixture ``evaluate`` runs it in this process."""

import json
from pathlib import Path

import numpy as np
import pytest
from flows import error_line

from noiseweave.cluster import shards, storage
from noiseweave.engine.pictures import images


def refused(capsys, evaluate, *arguments: object) -> str:
    """The one line on standard error, of a command that ends with exit code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        evaluate(*arguments)
    assert stop.value.code == 2
    return error_line(capsys.readouterr().err)


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
