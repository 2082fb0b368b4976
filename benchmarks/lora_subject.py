"""LoRA on one subject: the loss of its held-out photos at fixed noise, before training and after.

    python benchmarks/lora_subject.py [--out FILE] [--subject dog] [--steps 300]

The base is a small Stable Diffusion-shaped pipeline over TAESD, taught for a moment on photos of the other subjects
(DreamBooth's, ../shared/data/subjects); the job then trains LoRA on one subject, some photos held out. A control: the
loss of photos of another subject, which the base has not seen either, told before and after with the same noise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import torch
from diffusers import StableDiffusionPipeline
from inversion import hardware
from lora import fill

from noiseweave.engine import adapters, images, latents
from noiseweave.engine.lora_training import Denoiser, held_out_loss
from noiseweave.jobs import lora, lora_cache, lora_input
from noiseweave.jobs.cli import parse
from noiseweave.jobs.lora_data import Encoders, Reader
from noiseweave.jobs.lora_loop import Task, loop

sys.path.append(str(pipelines.ROOT / "tests/jobs"))
import small_pipeline
from training import Alone

SUBJECTS = pipelines.ROOT.parent / "shared/data/subjects"
SIZE = 64


def base(folder: Path, without: set[str], steps: int) -> Path:
    """A small pipeline, taught on all subjects but some."""
    small_pipeline.build(folder, size=SIZE)
    small_pipeline.change(folder / "scheduler/scheduler_config.json", prediction_type="epsilon")
    pipe = StableDiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    files = [f for f in sorted(SUBJECTS.glob("*/*.jpg")) if f.parent.name not in without]
    seen = np.stack([images.fit(images.decode(f.read_bytes()), SIZE) for f in files])
    z = torch.cat([latents.encode(pipe.vae, latents.to_pixels(some)) for some in np.array_split(seen, 20)])
    names = [f"a photo of {f.parent.name.replace('_', ' ')}" for f in files]
    encoders = Encoders(pipe)
    words = torch.stack([encoders.said(name)["prompt_embeds"] for name in [*names, ""]])
    small_pipeline.learn(pipe, z, words, steps)
    pipe.unet.save_pretrained(folder / "unet")
    return folder


def config_of(folder: Path, subject: str, args: argparse.Namespace, *more: object) -> lora.Config:
    words = [
        "--input", SUBJECTS / subject, "--output", folder / "out", "--model", folder / "model", "--size", SIZE,
        "--batch", 4, "--accum", 1, "--rank", 8, "--lr", 1e-3, "--steps", args.steps, "--data.template",
        "a photo of sks", "--data.buckets", "false", "--data.crops", 4, "--data.zoom", 1.2, *more,
    ]  # fmt: skip
    return parse("lora", list(map(str, words)))[1]


def control(config: lora.Config, state: dict[str, torch.Tensor] | None) -> float:
    """The loss of all photos of another subject, with the trained weights or without."""
    source = lora_input.gather(config)
    pipe = lora_cache.opened(config.model.name, "cpu")
    network = Denoiser(adapters.attach(pipe, config.lora, config.seed))
    if state is not None:
        adapters.load(network, state)
    reader = Reader(config, source, Encoders(pipe))
    batch = reader.batch([reader.sample(item, -1, 0) for item in source.items])
    keys = [item.key for item in source.items]
    return float(held_out_loss(network, batch, pipe.scheduler, keys, 0).mean())


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    base(folder / "model", {args.subject, args.other}, args.base_steps)
    config = config_of(
        folder, args.subject, args, "--validation.share", 0.3, "--validation.every", args.steps // 4
    )
    source = fill(config, lora_input.gather(config))
    link = Alone()
    loop(Task(config=config, source=source, threads=1, workers=1), link)  # type: ignore[arg-type]
    import safetensors.torch

    saved = safetensors.torch.load(link.saved[args.steps]["model.safetensors"])
    state = {name.removeprefix("lora.").replace(".default.", "."): w for name, w in saved.items()}
    other = config_of(folder, args.other, args)
    held = {row["step"]: round(row["validation_loss"], 4) for row in link.rows if "validation_loss" in row}
    return {
        "subject": args.subject, "photos": len(source.items), "held_out": len(source.held), "steps": args.steps,
        "base_steps": args.base_steps, "held_out_loss": held, "control": args.other,
        "control_loss": [round(control(other, s), 4) for s in (None, state)],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--subject", default="dog")
    parser.add_argument("--other", default="clock", help="of the control")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--base_steps", type=int, default=1500)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(Path(temporary), args)
    print(json.dumps(result))
    if args.out:
        args.out.write_text(json.dumps(result | {"hardware": hardware()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
