"""Fewer steps on photographs: the Frechet distance, network rows and pictures/s of ``augment`` by sampler and steps.

    python benchmarks/fewer_steps.py --reference PHOTOS --weights efficientnet-lite0.pth [--pairs 150] [--seed 0]

The same pairs, modes, ratios and noise seeds each time, as ``configs/augment-flowers.yaml`` has them but for
``inversion`` and the gate, which is off, so that all are counted. The distances are those of ``evaluate --mode sets``
(fd and kid) to photographs that neither the model nor the pairs have seen. They depend on the number of pictures:
compare within one table. Beside them stands the published loop (arXiv 2304.06140) on the same network: for each pair
both pictures are inverted at every step of 100, and the last 64 are replayed, guided. Pictures/s are of the network
alone, in processor time of one thread: 64 rows a call, and one a call of the published loop.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from inversion import hardware
from latent_fusion import seconds

from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.networks import loading
from noiseweave.engine.networks.recipes import ModelConfig

ROOT = Path(__file__).parents[1]
RECIPES = (
    InversionRecipe(num_steps=100, skip=36),
    InversionRecipe(num_steps=25, skip=5),
    InversionRecipe(num_steps=25, skip=5, sampler="sde-dpm-solver++"),
    InversionRecipe(num_steps=20, skip=4, sampler="sde-dpm-solver++"),
    InversionRecipe(num_steps=20, skip=4),
    InversionRecipe(num_steps=15, skip=3, sampler="sde-dpm-solver++"),
)
CHAIN, SKIP = 100, 36  # of the published loop


def noiseweave(job: str, output: Path, *arguments: str) -> Any:
    """A job, in a process of its own; its report."""
    command = [
        sys.executable,
        "-m",
        "noiseweave",
        job,
        "--output",
        str(output),
        "--cluster.address",
        "inline",
    ]
    subprocess.run([*command, *arguments], check=True, capture_output=True, cwd=ROOT)
    return json.loads((output / "report.json").read_text())


def measured(recipe: InversionRecipe, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One recipe: pictures made, then their distance."""
    chosen = {"num_steps": recipe.num_steps, "skip": recipe.skip, "sampler": recipe.sampler}
    inversion = [text for name, value in chosen.items() for text in (f"--inversion.{name}", str(value))]
    config = str(ROOT / "configs/augment-flowers.yaml")
    more = [
        "--config",
        config,
        "--input",
        str(args.input.resolve()),
        "--seed",
        str(args.seed),
        "--gate",
        "false",
    ]
    made = noiseweave("augment", folder / "made", *more, "--pairing.max_pairs", str(args.pairs), *inversion)
    features = ["--features.name", "efficientnet-lite0", "--features.weights", str(args.weights.resolve())]
    sets = ["--input", str(folder / "made/shards"), "--reference", str(args.reference.resolve())]
    features += ["--features.cache", str(args.cache), "--metrics", "[fd,kid]", "--bootstrap", "0"]
    figures = noiseweave("evaluate", folder / "found", *features, *sets)["figures"]
    count, kept = made["samples"], recipe.num_steps - recipe.skip
    rows = kept * (made["images_inverted"] + 2 * count)  # the replay is guided
    return chosen | {
        "pictures": count,
        "rows_a_picture": round(rows / count, 1),
        "fd": round(figures["FD(efficientnet-lite0)"]["value"], 1),
        "kd": round(figures["KD(efficientnet-lite0)"]["value"], 4),
    }


def seconds_a_row(rows: int) -> float:
    """Processor time of one row in a call of so many, one thread, the best of 5 calls."""
    torch.set_num_threads(1)
    model = loading.load(ModelConfig(name="flowers-flow", precision="fp32"))
    side = model.size // model.vae_scale_factor
    x, t = torch.randn(rows, 4, side, side), torch.full((rows,), 500.0)
    return min(seconds(lambda: model.denoise(x, t), "cpu") for _ in range(5)) / rows


def with_speed(found: dict[str, Any], a_row: float) -> dict[str, Any]:
    return found | {"pictures_per_s": round(1 / (found["rows_a_picture"] * a_row), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--input", type=Path, default=ROOT / "examples/flowers")
    parser.add_argument("--reference", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--pairs", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/fewer-steps-cpu.json")
    args = parser.parse_args()
    if not (args.reference and args.weights):
        print("left out: it needs --reference and --weights")
        return
    loop = with_speed({"rows_a_picture": 2 * CHAIN + 2 * (CHAIN - SKIP)}, seconds_a_row(1))
    print(loop, flush=True)
    a_row, rows = seconds_a_row(64), []
    with tempfile.TemporaryDirectory() as top:
        args.cache = Path(top) / "features"
        for number, recipe in enumerate(RECIPES):
            rows.append(with_speed(measured(recipe, args, Path(top) / str(number)), a_row))
            print(rows[-1], flush=True)
    result = {"hardware": hardware(), "seed": args.seed, "published_loop": loop, "recipes": rows}
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
