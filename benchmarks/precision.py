"""How exactly invert -> replay gives pictures back, by precision of the network, sampler and number of steps.

    python benchmarks/precision.py [--pictures 4] [--out FILE]

Two models: digits-ddpm on real digits, and a small pipeline of Stable Diffusion's layout over the pretrained TAESD on
real photos, which is taught some photos first. Its inversion and replay are told the same prompt at guidance 3.5.
Prints the table of docs/noise.md.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import digits_classifier
import numpy as np
import pipelines
import torch
from inversion import hardware
from pipelines import psnr, small_pipeline

from noiseweave.engine.diffusion import dpm_solver
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion import groups
from noiseweave.engine.networks import loading
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.networks.recipes import ModelConfig, Prompts

PRECISIONS, SAMPLERS, STEPS = ("fp32", "bf16", "fp16"), ("ddim", "sde-dpm-solver++"), (20, 50, 100)
PROMPT = "a photo of {}"


def taught(steps: int, pictures: int) -> Any:
    """A tiny pipeline that has seen some photos of flowers and the names of their classes."""
    pipe = pipelines.build(pipelines.SHAPES["tiny"])
    model, seen = pipelines.backbone(pipe, "cpu"), pipelines.photos("train", pictures, 64)
    z_NCHW = model.encode(np.stack([picture for picture, _ in seen]))
    words = model.words([*(PROMPT.format(name) for _, name in seen), ""]).conditional["prompt_embeds"]
    small_pipeline.learn(pipe, z_NCHW.clone(), words.clone(), steps)
    return pipe


def there_and_back(
    model: Backbone, image_NHWC: np.ndarray, recipe: InversionRecipe, prompts: Prompts | None
) -> dict[str, float | None]:
    """PSNR in dB: of what was inverted, and of the decoded pictures; None where there is no difference at all."""
    keys = [str(i) for i in range(len(image_NHWC))]
    s, maps = groups.invert_pictures(model, image_NHWC, keys, recipe, 0, prompts)
    x_0 = model.encode(image_NHWC)
    denoise = groups.source_denoiser(model, prompts)
    x = dpm_solver.SOLVERS[recipe.sampler].replay(denoise, s, maps)
    back, own = (torch.from_numpy(model.decode(v)).float() for v in (x, x_0))
    original = torch.from_numpy(image_NHWC.copy()).float()
    found = {
        "inverted": psnr(x, x_0, None if prompts else 2.0),
        "picture": psnr(back, original, 255.0),
        "picture_of_encode_and_decode": psnr(own, original, 255.0),
        "picture_to_that": psnr(back, own, 255.0),
    }
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def rows(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    digits = digits_classifier.halves()[1].image_NHWC[: args.pictures]
    cases: list[tuple[str, Any, np.ndarray, Prompts | None]] = [
        ("digits-ddpm", lambda p: loading.load(ModelConfig(name="digits-ddpm", precision=p)), digits, None)
    ]
    seen = pipelines.photos("validation", args.pictures, 64)
    if seen:
        told = tuple(PROMPT.format(name) for _, name in seen)
        prompts = Prompts(source=told, target=told, guidance_source=3.5, guidance_target=3.5)
        pipe = taught(args.teach, 100)
        image_NHWC = np.stack([picture for picture, _ in seen])
        cases.append(("latent", partial(pipelines.backbone, pipe, "cpu"), image_NHWC, prompts))
    for name, load, image_NHWC, prompts in cases:
        for precision in PRECISIONS:
            model = load(precision)
            for sampler in SAMPLERS:
                for n in args.steps:
                    recipe = InversionRecipe(num_steps=n, skip=n // 5, sampler=sampler)
                    found = there_and_back(model, image_NHWC, recipe, prompts)
                    yield {"model": name, "precision": precision, "sampler": sampler, "steps": n} | found


def page(found: list[dict[str, Any]]) -> str:
    """The table as markdown: a line for each model, precision and sampler."""
    by = {(r["model"], r["precision"], r["sampler"], r["steps"]): r for r in found}
    steps = sorted({r["steps"] for r in found})
    lines = [
        f"| Model | Precision | Sampler | {', '.join(map(str, steps))} steps | Picture against the original "
        "| against encode and decode alone |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for model, precision, sampler in dict.fromkeys(k[:3] for k in by):
        some = [by[model, precision, sampler, n] for n in steps]
        cells = [", ".join(_cell(r[k]) for r in some) for k in ("inverted", "picture", "picture_to_that")]
        lines.append(f"| {model} | {precision} | `{sampler}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    return "same" if value is None else f"{value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--teach", type=int, default=400, help="training steps of the latent model")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/precision-cpu.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    found = list(rows(args))
    print(page(found))
    result = {"hardware": hardware(), "pictures": args.pictures, "teach": args.teach, "rows": found}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
