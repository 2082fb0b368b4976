"""Pairs a second of the whole augment job against a plain Python loop over the same pairs.

The reference inverts both parents of every pair, one picture and one time step at a time over all steps (as the
published code does), fuses and replays. The second reference is the same loop with our inversion, so the two
ratios part what batching brings from what grouping brings. The job's time is the wall time of the command with
Ray's start, embedding, pairing and writing.

    python benchmarks/augment.py [--pairs 400] [--reference 12] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from inversion import hardware

from noiseweave.cluster import storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.diffusion.inversion import draw_noise, replay
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion.groups import invert_pictures
from noiseweave.engine.fusion.modes import fuse
from noiseweave.engine.networks import backbone, loading
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.pictures import images
from noiseweave.engine.records import NoiseMaps
from noiseweave.jobs.augment.dataset import read_group

RECIPE = InversionRecipe(num_steps=50, skip=10)


def command(*arguments: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "noiseweave", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def published(model: backbone.Backbone, picture, key: str) -> NoiseMaps:
    """One picture, one time step at a time, all steps; only then are the skipped ones dropped."""
    s = model.path(replace(RECIPE, skip=0))
    x_0 = model.encode(picture[None])[0]
    noise = draw_noise(RECIPE, len(s), tuple(x_0.shape), 0, key)
    x = [*s.noised(x_0, noise), x_0]
    rest = []
    for i, t in enumerate(s.t_T):
        out = model.denoise(x[i][None], t[None])[0]
        rest.append(x[i + 1] - s.mean(x[i], out, i))
    keep = slice(RECIPE.skip, None)
    return NoiseMaps(x_T_CHW=x[RECIPE.skip], residual_TCHW=torch.stack(rest[keep]), timesteps_T=s.t_T[keep])


def ours(model: backbone.Backbone, picture, key: str) -> NoiseMaps:
    return invert_pictures(model, picture[None], [key], RECIPE, 0)[1][0]


def loop(model: backbone.Backbone, pairs: list, invert: Callable[..., NoiseMaps]) -> float:
    """Pairs a second of a plain loop."""
    start = time.perf_counter()
    for first, second, pair in pairs:
        maps = [invert(model, picture, key) for picture, key in (first, second)]
        fused = fuse(maps, [1 - pair.ratio, pair.ratio], pair.mode)
        images.encode(model.decode(replay(model.denoise, model.path(RECIPE), [fused]))[0])
    return len(pairs) / (time.perf_counter() - start)


def parents(output: str, count: int, model: backbone.Backbone) -> list:
    """``count`` of the job's own pairs with their decoded pictures."""
    group = read_group(Ledger(output=output), 0)
    found = [
        (
            images.fit(images.decode(storage.read(p.shard, p.offset, p.size), model.channels), model.size),
            p.key,
        )
        for p in group.images
    ]
    return [(found[p.a], found[p.b], p) for p in group.pairs[:count]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--reference", type=int, default=12, help="pairs that the plain loops do")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command("pack", "--dataset", "digits", "--size", "16", "--output", f"{folder}/digits")
        seconds = command(
            "augment",
            "--config",
            "configs/augment-digits.yaml",
            "--input",
            f"{folder}/digits/shards",
            "--output",
            f"{folder}/out",
            "--pairing.max_pairs",
            str(arguments.pairs),
        )
        report = json.loads(Path(folder, "out/report.json").read_text())
        model = loading.load(ModelConfig(name="digits-ddpm"))
        pairs = parents(f"{folder}/out", arguments.reference, model)
        loop(model, pairs[:1], ours)  # warm
        plain, grouped = loop(model, pairs, published), loop(model, pairs, ours)
    job = report["pairs"] / seconds
    generate = report["pairs"] / report["phases"]["generate"]["seconds"]
    result = {
        "hardware": hardware(),
        "pairs": report["pairs"],
        "images_inverted": report["images_inverted"],
        "job_pairs_per_s": round(job, 3),
        "generate_pairs_per_s": round(generate, 3),
        "plain_loop_pairs_per_s": round(plain, 3),
        "loop_with_our_inversion_pairs_per_s": round(grouped, 3),
        "job_vs_plain_loop": round(job / plain, 2),
        "job_vs_loop_with_our_inversion": round(job / grouped, 2),
    }
    print(json.dumps(result, indent=1))
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
