"""What train tells: the log, the quarantine, the finished model's folder, the strip of its previews."""

from __future__ import annotations

import dataclasses
import io
import json
import tempfile
from collections import Counter
from pathlib import Path

from noiseweave.cluster import storage
from noiseweave.engine.records import Quarantined
from noiseweave.jobs import outputs
from noiseweave.jobs.train import start
from noiseweave.jobs.train.config import Config, state
from noiseweave.jobs.train.task import Source

STRIP = 12  # rows of the strip


def quarantine(config: Config, bad: list[Quarantined]) -> Counter[str]:
    """Add ``bad`` and what the workers could not decode to quarantine.jsonl, once each; reason -> count."""
    path, folder = storage.join(config.output, outputs.QUARANTINE), state(config, "bad")
    files = [path] * storage.exists(path) + [storage.join(folder, f) for f in storage.names_in(folder)]
    rows = [json.loads(line) for file in files for line in storage.read(file).splitlines()]
    rows += [dataclasses.asdict(b) for b in bad]
    unique = {(r["shard"], r["key"], r["reason"]): r for r in rows}
    return outputs.write_quarantine(config.output, (row for _, row in sorted(unique.items())))


def last(config: Config) -> str:
    """The newest whole checkpoint's folder, or "none"."""
    from noiseweave.cluster.training import latest

    return latest(state(config, "checkpoints")) or "none"


def publish(config: Config, source: Source, checkpoint: str) -> None:
    """A checkpoint's averaged weights as a model's folder; model_index.json, which makes it one, goes last."""
    import safetensors.torch
    import torch

    from noiseweave.engine.networks import base_models

    model = start.build(config, source).model
    model.network.load_state_dict(safetensors.torch.load(storage.read(f"{checkpoint}/ema.safetensors")))
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[config.save_precision]
    strip(config)
    with tempfile.TemporaryDirectory() as temporary:
        base_models.save(model, Path(temporary), dtype)
        files = [p for p in Path(temporary).rglob("*") if p.is_file()]
        for file in sorted(files, key=lambda p: p.name == "model_index.json"):
            target = storage.join(config.output, file.relative_to(temporary).as_posix())
            storage.write(target, file.read_bytes())


def strip(config: Config) -> None:
    """strip.png: the same noises' samples over training, one row a preview; nothing without previews."""
    import numpy as np
    from PIL import Image

    from noiseweave.engine.pictures import collage

    names = storage.names_in(state(config, "strips"))
    if not names:
        return
    names = [names[round(i)] for i in np.linspace(0, len(names) - 1, min(STRIP, len(names)))]
    rows = []
    for name in names:
        wide = np.atleast_3d(np.asarray(Image.open(io.BytesIO(storage.read(state(config, "strips", name))))))
        rows.append(np.split(wide, wide.shape[1] // wide.shape[0], 1))
    captions = [f"step {int(name.removesuffix('.png'))}" for name in names]
    page = collage.sheet(rows, captions, tile=max(48, config.data.size))
    storage.write(storage.join(config.output, "strip.png"), collage.png(page))
