"""How fast a base model is trained on a CPU: float32 and bf16, with PyTorch's attention and with train's, in one run.

    python benchmarks/training_speed.py [--rows 64] [--repeats 5]

The network is that of configs/train-photos-flow.yaml. A step is loss, gradient and AdamW. All ways take turns in each
repeat; the ratio is of each way's best processor time, of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from inversion import hardware
from latent_fusion import seconds

from noiseweave.engine.networks import tuning
from noiseweave.engine.training import systems
from noiseweave.engine.training.recipes import (
    Blueprint,
    ModelRecipe,
    ObjectiveRecipe,
    ScheduleRecipe,
    UnetRecipe,
)

CONFIG = Path(__file__).parent.parent / "configs/train-photos-flow.yaml"
WAYS = {"fp32": ("fp32", False), "bf16": ("bf16", False), "bf16, as train": ("bf16", True)}


def plan() -> Blueprint:
    """The photo model as one of pixels, with the channels and side of its latents."""
    config = yaml.safe_load(CONFIG.read_text())
    unet = {name: tuple(v) if isinstance(v, list) else v for name, v in config["unet"].items()}
    classes = config["model"]["classes"]
    model = ModelRecipe(kind=config["model"]["kind"], classes=classes)
    shared = {"objective": ObjectiveRecipe(), "schedule": ScheduleRecipe(), "unet": UnetRecipe(**unet)}
    return Blueprint(model=model, classes=classes, size=16, channels=4, seed=0, **shared)


def step_of(precision: str, tuned: bool, rows: int) -> Callable[[], Any]:
    """A training step of so many pictures."""
    system = systems.build(plan())
    network = system.model.network.train()
    if tuned:
        tuning.tune_training(network, "bf16", "cpu")
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, rows, *system.model.noise_shape, generator=g)
    time, hide = torch.rand(2, rows, generator=g)
    batch = systems.Batch(x0=x0, label=torch.arange(rows) % 5, eps=eps, time=time, hide=hide)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = system.turns[0].loss(system.networks, batch).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/training_speed-cpu.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    steps = {way: step_of(*how, args.rows) for way, how in WAYS.items()}
    best = dict.fromkeys(steps, float("inf"))
    for repeat in range(args.repeats + 1):  # the first is to warm up
        for way, step in steps.items():
            took = seconds(step, "cpu")
            best[way] = min(best[way], took) if repeat else best[way]
    result = {
        "hardware": hardware(),
        "rows": args.rows,
        "repeats": args.repeats,
        "pictures_per_second": {way: round(args.rows / took, 1) for way, took in best.items()},
        "speed_to_fp32": {way: round(best["fp32"] / took, 3) for way, took in best.items()},
        "seconds": round(time.perf_counter() - start, 1),
    }
    print(json.dumps(result, indent=1))
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
