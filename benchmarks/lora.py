"""LoRA training: samples/s of the job's loop, with its cache and without, against a plain loop like diffusers' example.

    python benchmarks/lora.py [--out FILE] [--steps 12] [--repeats 3]

``plain`` follows diffusers' examples/text_to_image/train_text_to_image_lora.py: each step decodes, resizes, mirrors and
encodes its pictures and tokenizes and encodes their captions, then noise, UNet, mean square, backward, clip, AdamW;
accelerate around it. All three have the same pictures, pipeline (random weights: speed does not depend on them), rank,
targets, batch, precision (float32) and optimizer, one worker and one thread; they take turns. ``cached`` reads what the
cache holds; what filling it took is told apart. The clock is the process's own CPU time, loader threads counted in.

The pipeline has Stable Diffusion 1.5's layout at a quarter of its width, VAE and text encoder too, and 128 pixels.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import torch
from accelerate import Accelerator
from inversion import hardware
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from noiseweave.engine.lora import adapters
from noiseweave.engine.lora import pipelines as lora_pipelines
from noiseweave.engine.lora.loss import LoraNetwork
from noiseweave.engine.networks.families.registry import family_of
from noiseweave.engine.pictures.images import encode
from noiseweave.jobs.arguments import parse
from noiseweave.jobs.lora import cache
from noiseweave.jobs.lora import config as lora_config
from noiseweave.jobs.lora import input as lora_input
from noiseweave.jobs.lora.batches import Encoders, Reader, batches
from noiseweave.jobs.lora.loop import learner, regime
from noiseweave.jobs.lora.task import Task
from noiseweave.jobs.training.trainer import Trainer

sys.path.append(str(pipelines.ROOT / "tests/jobs"))
from training import Alone, fresh

# not smaller: below this PyTorch's own overhead for each layer hides what the layers cost
SHAPE = pipelines.Shape(
    size=128,
    unet={"block_out_channels": (80, 160, 320, 320), "cross_attention_dim": 192, "norm_num_groups": 16},
    text={"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 3},
    vae={"block_out_channels": (32, 64, 128, 128), "norm_num_groups": 16},
)


def photos(folder: Path, count: int) -> Path:
    """Photos of 256 x 256 with a caption each, as files."""
    folder.mkdir(parents=True)
    for n, image in enumerate(pipelines.pictures(count, 256)):
        (folder / f"{n:03d}.jpg").write_bytes(encode(image, "jpg"))
        (folder / f"{n:03d}.txt").write_text(f"photo number {n} of a flower")
    return folder


def ours(config: lora_config.Config, source: lora_input.Source) -> Callable[[], float]:
    """The job's own loop: each call is one step and gives its loss."""
    task = Task(config=config, source=source, threads=1, workers=1)
    fresh()
    pipeline = lora_pipelines.open_pipeline(config.model.name, "cpu")
    network = LoraNetwork(adapters.attach(pipeline, config.lora, config.seed), family_of(pipeline)).train()
    trainer = Trainer(regime(task), learner(config, network, pipeline), Alone())  # type: ignore[arg-type]
    ready = batches(Reader(config, source, Encoders(pipeline)), 0, 1, 0, 1)
    return lambda: float(trainer.update(next(ready)))


class Pictures(Dataset):
    """What the example's preprocess_train makes of a picture and its caption."""

    def __init__(self, folder: Path, tokenizer: Any, size: int) -> None:
        self.files, self.tokenizer = sorted(folder.glob("*.jpg")), tokenizer
        self.change = transforms.Compose(
            [
                transforms.Resize(size, interpolation=transforms.InterpolationMode.LANCZOS),
                transforms.CenterCrop(size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([0.5], [0.5]),
            ]
        )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = self.tokenizer(
            self.files[n].with_suffix(".txt").read_text(),
            max_length=self.tokenizer.model_max_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        return self.change(Image.open(self.files[n]).convert("RGB")), tokens.input_ids[0]


def plain(config: lora_config.Config) -> Callable[[], float]:
    """As the example's loop: each call is one step and gives its loss."""
    from diffusers import DDPMScheduler
    from peft import LoraConfig

    fresh()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=config.accumulate)
    pipe = lora_pipelines.open_pipeline(config.model.name, "cpu")
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False)
    r = config.lora
    pipe.unet.add_adapter(
        LoraConfig(
            r=r.rank,
            lora_alpha=r.rank,
            init_lora_weights="gaussian",
            target_modules=list(family_of(pipe).lora_layers),
        )
    )
    weights = [p for p in pipe.unet.parameters() if p.requires_grad]
    o = config.optimizer
    optimizer = torch.optim.AdamW(weights, lr=o.lr, betas=o.betas, weight_decay=o.weight_decay)
    loader = DataLoader(
        Pictures(Path(config.input), pipe.tokenizer, config.data.size),
        batch_size=config.batch,
        shuffle=True,
        drop_last=True,
    )
    unet, optimizer, loader = accelerator.prepare(pipe.unet.train(), optimizer, loader)

    def endless() -> Any:
        while True:
            yield from loader

    ready = endless()

    def step() -> float:
        x, ids = next(ready)
        with accelerator.accumulate(unet):
            with torch.no_grad():
                z = pipe.vae.encode(x).latent_dist.sample() * pipe.vae.config.scaling_factor
                told = pipe.text_encoder(ids, return_dict=False)[0]
            noise = torch.randn_like(z)
            t = torch.randint(0, schedule.config.num_train_timesteps, (len(z),))
            out = unet(schedule.add_noise(z, noise, t), t, told, return_dict=False)[0]
            loss = torch.nn.functional.mse_loss(out.float(), noise.float(), reduction="mean")
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(weights, o.clip)
            optimizer.step()
            optimizer.zero_grad()
        return float(loss.detach())

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=12, help="of each way in each repeat")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(Path(temporary), args)
    print(json.dumps(result))
    if args.out:
        args.out.write_text(json.dumps(result | {"hardware": hardware()}, indent=1) + "\n")


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    pipe = pipelines.build(SHAPE)
    pipe.save_pretrained(folder / "model")
    words = [
        "--input",
        photos(folder / "photos", args.pictures),
        "--output",
        folder / "out",
        "--model",
        folder / "model",
        "--size",
        SHAPE.size,
        "--batch",
        args.batch,
        "--accum",
        1,
        "--rank",
        16,
        "--steps",
        100_000,
    ]
    config = parse("lora", list(map(str, words)))
    source = lora_input.gather(config)
    start = time.process_time()
    filled = fill(config, source)
    filling = time.process_time() - start
    ways = {
        "plain": plain(config),
        "ours_uncached": ours(config, source),
        "ours_cached": ours(config, filled),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(args.repeats):
        for name, way in ways.items():
            start = time.process_time()
            losses[name] += [way() for _ in range(args.steps)]
            seconds[name].append(round(time.process_time() - start, 3))
    median = {name: statistics.median(s) for name, s in seconds.items()}
    samples = args.batch * args.steps
    return {
        "pictures": args.pictures,
        "batch": args.batch,
        "steps": args.steps,
        "repeats": args.repeats,
        "clock": "process",
        "seconds": seconds,
        "filling_the_cache": round(filling, 2),
        "samples_a_second": {name: round(samples / s, 2) for name, s in median.items()},
        "ratio_cached": round(median["plain"] / median["ours_cached"], 2),
        "ratio_uncached": round(median["plain"] / median["ours_uncached"], 2),
        "mean_loss": {name: round(float(np.mean(x)), 3) for name, x in losses.items()},
    }


def fill(config: lora_config.Config, source: lora_input.Source) -> lora_input.Source:
    """The cache, its units in this process."""
    from noiseweave.cluster.session import Session

    here = Session(workers=1, gpus_per_worker=0, threads=1, retries=0, inline=True)
    return cache.filled(config, source, here)


if __name__ == "__main__":
    main()
