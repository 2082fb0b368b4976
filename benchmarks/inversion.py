"""Inversion: pictures/s of this package against the published way, same network, same run.

    python benchmarks/inversion.py [--out FILE] [--pictures 4] [--repeats 5]

The published way (github.com/inbarhub/DDPM_inversion) inverts one picture, one time step a call, all steps,
the skipped ones too, with a conditional and an unconditional call a step. The digits model has no condition, so
both calls are the same network here. ``batching`` is the part of the gain that comes from batching alone: the
reference there makes the calls that are kept, 40 a picture, one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion.groups import invert_pictures
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.networks.loading import load
from noiseweave.engine.networks.recipes import ModelConfig


def hardware() -> dict[str, object]:
    names = [
        x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x
    ]
    return {
        "cpu": names[0],
        "cores": len(names),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def one_by_one(backbone: Backbone, calls: int, recipe: InversionRecipe, skip: int) -> float:
    """Seconds for one picture, one time step a call."""
    x = torch.zeros(1, backbone.channels, backbone.size, backbone.size)
    start = time.perf_counter()
    for t in backbone.path(replace(recipe, skip=skip)).t_T:
        for _ in range(calls):
            backbone.denoise(x, t[None])
    return time.perf_counter() - start


def ours(backbone: Backbone, pictures: int, recipe: InversionRecipe) -> float:
    """Seconds a picture, everything included."""
    image = np.zeros((pictures, backbone.size, backbone.size, backbone.channels), np.uint8)
    start = time.perf_counter()
    invert_pictures(backbone, image, [str(i) for i in range(pictures)], recipe, 0)
    return (time.perf_counter() - start) / pictures


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/inversion-cpu.json")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe, backbone = InversionRecipe(num_steps=50, skip=10), load(ModelConfig(name="digits-ddpm"))
    runs = {
        "published": lambda: one_by_one(backbone, 2, recipe, 0),
        "kept_calls_one_by_one": lambda: one_by_one(backbone, 1, recipe, recipe.skip),
        "ours": lambda: ours(backbone, args.pictures, recipe),
    }
    ours(backbone, 1, recipe)  # warm
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.repeats):
        for name, run in runs.items():
            seconds[name].append(run())
    median = {name: statistics.median(s) for name, s in seconds.items()}
    result = {
        "model": "digits-ddpm",
        "num_steps": 50,
        "skip": 10,
        "pictures": args.pictures,
        "micro_batch": backbone.parts.size,
        "repeats": args.repeats,
        "hardware": hardware(),
        "seconds_a_picture": seconds,
        "pictures_a_second": {name: round(1 / s, 3) for name, s in median.items()},
        "ratio_to_published": round(median["published"] / median["ours"], 2),
        "ratio_of_batching_alone": round(median["kept_calls_one_by_one"] / median["ours"], 2),
    }
    print(
        f"{result['ratio_to_published']} x the published way; {result['ratio_of_batching_alone']} x batching"
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
