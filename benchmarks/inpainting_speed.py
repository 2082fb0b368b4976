"""Inpainting: pictures/s of the job's compute, batched and bucketed by size, against one picture at a time.

    python benchmarks/inpainting_speed.py [--out FILE] [--pictures 16] [--repeats 3]
    python benchmarks/inpainting_speed.py --device cuda --shape sd15 --out FILE

``diffusers`` is StableDiffusionInpaintPipeline called for each picture: the same object, so the same weights,
precision, scheduler, steps and guidance, and pictures at the same working size. ``ours_alone`` is our code, told one
picture at a time, so the two ratios part what batching brings from the rest. The pipeline has random weights (speed
does not depend on them): ``small`` is a few layers of the right kinds, ``sd15`` has the shapes of Stable
Diffusion 1.5. A second part is RePaint with the shipped model of digits. Files are read beforehand.

Noise is the same on both sides and the holes lie on the latents' grid, so that the pictures can be compared:
``largest_difference`` is in levels of 255, inside the holes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import torch
from diffusers import AutoencoderKL, StableDiffusionInpaintPipeline, UNet2DConditionModel
from inversion import hardware
from PIL import Image

from noiseweave.engine.inpainting import filling
from noiseweave.engine.inpainting.models import InpaintModel
from noiseweave.engine.inpainting.recipes import InpaintRecipe
from noiseweave.engine.networks import text_pipeline
from noiseweave.engine.networks.recipes import ModelConfig, TextRecipe
from noiseweave.engine.seeding import generator
from noiseweave.jobs.inpaint import draw, plan
from noiseweave.jobs.inpaint import input as inpaint_input
from noiseweave.jobs.inpaint.config import Config
from noiseweave.jobs.inpaint.draw import Painter, chance
from noiseweave.jobs.inpaint.task import Loaded, Region, Task

SIDES = (
    (2, 2),
    (2, 1.5),
    (1.5, 2),
    (4, 4),
)  # height and width of the files; the long one is halved or quartered
SEED = 1
Patches = list[np.ndarray]
Way = Callable[[Sequence[Loaded]], Patches]


def build(folder: Path, shape: pipelines.Shape, dtype: torch.dtype) -> Path:
    """Save an inpainting pipeline, whose UNet takes 9 channels, and return its folder."""
    plain = pipelines.build(shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = UNet2DConditionModel.from_config(plain.unet.config, in_channels=9)
    if isinstance(plain.vae, AutoencoderKL):
        _narrow(plain.vae)
    pipe = StableDiffusionInpaintPipeline(**plain.components | {"unet": unet}, requires_safety_checker=False)
    pipe.to(dtype).save_pretrained(folder)
    return folder


def _narrow(vae: AutoencoderKL) -> None:
    """The pipeline draws a latent and we take the likeliest: make them one; and let both run in one precision."""
    vae.register_to_config(force_upcast=False)
    quant, half = vae.quant_conv, vae.config.latent_channels
    with torch.no_grad():
        quant.weight[half:] = 0
        quant.bias[half:] = -30  # log of the variance


def pictures(folder: Path, count: int, size: int, grid: int) -> None:
    """``count`` noisy pictures of four sizes, each with a hole on the grid (in working pixels), black in its mask."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for n in range(count):
        scale = max(SIDES[n % len(SIDES)])
        rows, columns = (round(side / scale * size / grid) for side in SIDES[n % len(SIDES)])
        cells = np.full((rows, columns), 255, np.uint8)
        top, left = int(rng.integers(rows // 2)), int(rng.integers(columns // 2))
        cells[top : top + rows // 2, left : left + columns // 2] = 0
        mask = np.kron(cells, np.ones((scale * grid, scale * grid), np.uint8))
        noise = rng.integers(0, 256, (*mask.shape, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"images/{n:03d}.png")
        Image.fromarray(mask).save(folder / f"masks/{n:03d}.png")


def read(config: Config) -> tuple[Task, list[Loaded]]:
    """The job's own reading: each picture at its working size."""
    work = inpaint_input.gather(config)
    task = plan.plan(config, "unused", None, SEED)
    items = [
        item for i in range(work.plan.length) for item in inpaint_input.items_of(work.plan.unit(i).payload)
    ]
    return task, [draw.load(task, item) for item in items]


def ours(task: Task, model: InpaintModel, loaded: Sequence[Loaded], each: int) -> Patches:
    """The job's compute, ``each`` pictures a unit."""
    paint = Painter(task, model, lambda: None)
    out: Patches = []
    for i in range(0, len(loaded), each):
        painted, bad = paint((list(loaded[i : i + each]), []))
        assert not bad
        out += [one.patches[0][0] for one in painted]
    return out


def theirs(task: Task, model: InpaintModel, loaded: Sequence[Loaded]) -> Patches:
    """diffusers' pipeline, a call for each picture."""
    assert model.text is not None
    pipe, recipe = model.text.pipeline, task.config.inpaint
    pipe.set_progress_bar_config(disable=True)
    told = TextRecipe(sampler=recipe.sampler, steps=recipe.steps, guidance=recipe.scale)
    pipe.scheduler = text_pipeline.text_scheduler(model.text, told)
    return [_theirs(pipe, task, one, one.regions[0]) for one in loaded]


def _theirs(pipe: Any, task: Task, one: Loaded, region: Region) -> np.ndarray:
    height, width = region.hole_HW.shape
    out = pipe(
        prompt=one.prompt,
        negative_prompt=task.config.negative_prompt,
        height=height,
        width=width,
        image=torch.from_numpy(region.image_HWC.copy()).permute(2, 0, 1)[None].float() / 255,
        mask_image=torch.from_numpy(region.hole_HW.copy())[None, None].float(),
        num_inference_steps=task.config.inpaint.steps,
        guidance_scale=task.config.inpaint.scale,
        strength=1.0,
        output_type="np",
        generator=generator(SEED, "inpaint", chance(one.item, 0)),
    ).images[0]
    return (out * 255).round().astype(np.uint8)


def timed(
    runs: Mapping[str, Way], loaded: Sequence[Loaded], repeats: int, clock: Callable[[], float]
) -> tuple[dict[str, list[float]], dict[str, Patches]]:
    """(seconds of each repeat, pictures) of each way, after one picture to warm up; the ways take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    found: dict[str, Patches] = {}
    for run in runs.values():
        run(loaded[:1])
    for _ in range(repeats):
        for name, run in runs.items():
            start = clock()
            found[name] = run(loaded)  # on the CPU in the end, so a GPU has finished
            seconds[name].append(round(clock() - start, 4))
    return seconds, found


def difference(loaded: Sequence[Loaded], a: Patches, b: Patches) -> int:
    """The largest in the holes, in levels of 255."""
    holes = [one.regions[0].hole_HW for one in loaded]
    return max(int(np.abs(x[h].astype(int) - y[h]).max()) for h, x, y in zip(holes, a, b, strict=True))


def measure(config: Config, device: str, repeats: int) -> dict[str, object]:
    """The ways against each other with one model."""
    task, loaded = read(config)
    model = filling.load(config.model, device)
    runs: dict[str, Way] = {
        "ours_alone": lambda some: ours(task, model, some, 1),
        "ours": lambda some: ours(task, model, some, len(some)),
    }
    if task.method == "inpaint":
        runs = {"diffusers": lambda some: theirs(task, model, some)} | runs
    # one thread's own time: other work on the machine does not count, as far as it leaves the caches alone
    own = device == "cpu" and torch.get_num_threads() == 1
    seconds, found = timed(runs, loaded, repeats, time.process_time if own else time.perf_counter)
    median = {name: statistics.median(s) for name, s in seconds.items()}
    result: dict[str, object] = {
        "method": task.method,
        "steps": config.inpaint.steps,
        "pictures": len(loaded),
        "working_sizes": sorted({one.regions[0].hole_HW.shape for one in loaded}),
        "micro_batch": model.micro_batch,
        "precision": config.model.precision,
        "repeats": repeats,
        "clock": "process" if own else "wall",
        "seconds": seconds,
        "pictures_a_second": {n: round(len(loaded) / s, 3) for n, s in median.items()},
    }
    if task.method == "inpaint":
        result["guidance"] = config.inpaint.scale
    for name in runs.keys() - {"ours"}:
        result[f"ratio_to_{name}"] = round(median[name] / median["ours"], 2)
        result[f"largest_difference_to_{name}"] = difference(loaded, found["ours"], found[name])
    print(json.dumps(result))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=tuple(pipelines.SHAPES), default="small")
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10, help="of the pipeline")
    parser.add_argument("--repaint_steps", type=int, default=20)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--micro_batch", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    run(args)


def run(args: argparse.Namespace) -> None:
    shape = pipelines.SHAPES[args.shape]
    recipe = InpaintRecipe(steps=args.steps, guidance=5.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dtype = torch.float32 if args.precision == "fp32" else torch.float16
        made = build(folder / "pipeline", shape, dtype)
        pictures(folder / "latent", args.pictures, shape.size, 8)
        pictures(folder / "pixel", args.pictures, 16, 1)
        digits = _config(folder / "pixel", "digits-ddpm", args, InpaintRecipe(steps=args.repaint_steps), 16)
        results = {
            "pipeline": measure(
                _config(folder / "latent", str(made), args, recipe, shape.size), args.device, args.repeats
            ),
            "digits": measure(digits, args.device, args.repeats),
        }
    about: dict[str, object] = {"hardware": hardware(), "device": args.device, "shape": args.shape}
    if args.device == "cuda":
        about["gpu"] = torch.cuda.get_device_name()
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(about | results, indent=1) + "\n")


def _config(folder: Path, model: str, args: argparse.Namespace, recipe: InpaintRecipe, size: int) -> Config:
    return Config(
        output="unused",
        images=str(folder / "images"),
        masks=str(folder / "masks"),
        size=size,
        seed=SEED,
        inpaint=recipe,
        model=ModelConfig(name=model, precision=args.precision, micro_batch=args.micro_batch),
    )


if __name__ == "__main__":
    main()
