"""Whether the published sizes fit a machine: memory and seconds of one inversion and replay of one picture.

    python benchmarks/real_sizes.py --models sd15 sdxl [--steps 6] [--skip 2] [--size 512]

Pipelines with the networks of Stable Diffusion 1.5 (in float32) and XL (in bf16) are built with random weights, saved,
loaded as any model is, and one picture is inverted and replayed with guidance, each in a process of its own. SDXL's
text encoders have their width and two of their layers; all else has its real size. Random weights say nothing
of pictures: what comes back is compared in latents. A third of the steps is skipped, as is usual.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pipelines
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from inversion import hardware
from latent_fusion import counted
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from noiseweave.engine.diffusion import dpm_solver
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion import groups
from noiseweave.engine.networks import loading, memory
from noiseweave.engine.networks.facts import read_facts
from noiseweave.engine.networks.recipes import ModelConfig, Prompts

PRECISION = {"sd15": "fp32", "sdxl": "bf16"}
# stabilityai/stable-diffusion-xl-base-1.0, unet/config.json
XL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def encoder(kind: Any, width: int, heads: int) -> Any:
    """One of SDXL's text encoders, with two layers."""
    ends = {"vocab_size": 49408, "bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    size = {"hidden_size": width, "intermediate_size": 4 * width, "projection_dim": width}
    return kind(CLIPTextConfig(**ends, **size, num_hidden_layers=2, num_attention_heads=heads))


def save(name: str, folder: str) -> None:
    """Write a pipeline with random weights, in the precision that it is run in."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[PRECISION[name]]
    torch.set_default_dtype(dtype)  # never twice the size in memory
    if name == "sd15":
        pipelines.build(pipelines.SHAPES["sd15"]).save_pretrained(folder)
        return
    torch.manual_seed(0)
    StableDiffusionXLPipeline(
        vae=pipelines.autoencoder(pipelines.Shape(size=1024)),
        text_encoder=encoder(CLIPTextModel, 768, 12),
        text_encoder_2=encoder(CLIPTextModelWithProjection, 1280, 20),
        tokenizer=pipelines.small_pipeline.tokenizer(),
        tokenizer_2=pipelines.small_pipeline.tokenizer(),
        unet=UNet2DConditionModel(**XL),
        scheduler=DDIMScheduler(**pipelines.SCHEDULE),
    ).save_pretrained(folder)


def measure(name: str, folder: str, steps: int, skip: int, size: int) -> dict[str, Any]:
    """One inversion and replay, in this process."""
    start = time.perf_counter()
    model: Any = loading.load(ModelConfig(name=folder, precision=PRECISION[name]), size=size)
    loaded = time.perf_counter() - start
    recipe = InversionRecipe(num_steps=steps, skip=skip)
    words = ("a photo of a flower",)
    prompts = Prompts(source=words, target=words, guidance_source=3.5, guidance_target=3.5)
    image_NHWC = pipelines.pictures(1, size)
    found: dict[str, Any] = {}
    with counted(model.unet) as seen, torch.inference_mode():
        x_0, found["encode"] = timed(lambda: model.encode(image_NHWC))
        (path, maps), found["invert"] = timed(
            lambda: groups.invert_pictures(model, image_NHWC, ["0"], recipe, 0, prompts)
        )
        solver = dpm_solver.SOLVERS[recipe.sampler]
        denoise = groups.source_denoiser(model, prompts)
        x, found["replay"] = timed(lambda: solver.replay(denoise, path, maps))
        _, found["decode"] = timed(lambda: model.decode(x))
    plan = memory.plan(read_facts(folder))
    return {
        "model": name,
        "precision": PRECISION[name],
        "size": size,
        "steps": steps - skip,
        "parameters": dict(plan.parameters),
        "weights_gib": round(plan.bytes(PRECISION[name]) / memory.GIB, 2),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "unet_rows": sum(seen),
        "seconds": {"load": round(loaded, 1), **{k: round(v, 1) for k, v in found.items()}},
        "psnr_db": pipelines.psnr(x, x_0),
    }


def timed(run: Any) -> tuple[Any, float]:
    """What it gives, and processor seconds."""
    start = time.process_time()
    return run(), time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=list(PRECISION), default=[])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--skip", type=int, default=2)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/real_sizes.json")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.one:
        print(json.dumps(measure(*args.one, args.steps, args.skip, args.size)))
        return
    if not args.models:
        print("left out: it needs --models, minutes, and 10 GB of disk and memory")
    found = []
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            save(name, folder)
            numbers = {"--steps": args.steps, "--skip": args.skip, "--size": args.size}
            options = [text for pair in numbers.items() for text in map(str, pair)]
            command = [sys.executable, __file__, "--one", name, folder, *options]
            said = subprocess.run(
                [*command, "--size", str(args.size)],
                capture_output=True,
                text=True,
                check=True,
                env=os.environ,
            )
        found.append(json.loads(said.stdout.splitlines()[-1]))
        print(json.dumps(found[-1], indent=1), flush=True)
    if found:
        args.out.write_text(json.dumps({"hardware": hardware(), "models": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
