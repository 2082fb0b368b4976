"""Does LoRA learn the subject? Held-out photos of one subject against the same photos under LoRAs of others.

    python benchmarks/lora_subject.py [--out FILE] [--subjects dog cat ...] [--looks 50 100] [--base FOLDER]

The base is a small Stable Diffusion-shaped pipeline over TAESD, taught on flowers and on DreamBooth's other subjects
(../shared/data). The job then trains one LoRA on each subject, which the base has not seen, all with the same prompt,
some photos held out. Each LoRA's loss of each held-out photo is taken at the same noises and times as the base's.

Any photo teaches the base something about photos. So the claim is not that the loss falls, but that it falls by more
than under the LoRAs of the other subjects: for a held-out photo p of subject s,

    d_p = (loss of p with s's LoRA - base's) - mean over others o of (loss of p with o's LoRA - base's)

and below zero the subject was learnt. A subject's d is the mean of its photos'; the interval is Student's, over
subjects.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import safetensors.torch
import scipy.stats
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import EMAModel
from inversion import hardware
from lora import fill

from noiseweave.engine.lora import adapters
from noiseweave.engine.lora import pipelines as lora_pipelines
from noiseweave.engine.lora.loss import LoraBatch, LoraNetwork, held_out_loss
from noiseweave.engine.networks import latents
from noiseweave.engine.networks.families.registry import family_of
from noiseweave.engine.pictures import crops, images
from noiseweave.jobs.arguments import parse
from noiseweave.jobs.lora import config as lora_config
from noiseweave.jobs.lora import input as lora_input
from noiseweave.jobs.lora.batches import Encoders, Reader
from noiseweave.jobs.lora.input import Item
from noiseweave.jobs.lora.loop import goal_of, loop
from noiseweave.jobs.lora.task import Task

sys.path.append(str(pipelines.ROOT / "tests/jobs"))
from training import Alone, fresh

SUBJECTS = pipelines.ROOT.parent / "shared/data/subjects"
SHAPE = pipelines.SHAPES["tiny"]
SIZE = SHAPE.size
CHOSEN = ("dog", "cat", "clock", "vase", "backpack", "monster_toy", "bear_plushie", "colorful_sneaker")
TIMES = tuple((i + 0.5) / 10 for i in range(10))
State = Mapping[str, torch.Tensor]


# the base


def base(folder: Path, without: Sequence[str], steps: int) -> None:
    """A small pipeline, taught on flowers and all subjects but some."""
    pipe = pipelines.build(SHAPE)
    flowers = pipelines.photos("train", 1467, SIZE)
    shown = [image for image, _ in flowers]
    names = [f"a photo of {kind}" for _, kind in flowers]
    files = [f for f in sorted(SUBJECTS.glob("*/*.jpg")) if f.parent.name not in without]
    for f in files:
        image = images.decode(f.read_bytes(), 3)
        for number in range(4):
            where = crops.choose_crop(image.shape[:2], (SIZE, SIZE), 0, str(f), number, 1.5)
            shown.append(crops.cut(image, where, (SIZE, SIZE)))
            names.append(f"a photo of {f.parent.name.replace('_', ' ')}")
    parts = np.array_split(np.stack(shown), len(shown) // 32)
    z = torch.cat([latents.encode(pipe.vae, latents.to_pixels(some)) for some in parts])
    encoders = Encoders(pipe)
    words = torch.stack([encoders.said(name)["prompt_embeds"] for name in [*names, ""]])
    learn(pipe, z, words, len(flowers), steps)
    pipe.save_pretrained(folder)


def learn(pipe: Any, z_NCHW: torch.Tensor, words: torch.Tensor, flowers: int, steps: int) -> None:
    """Three flowers to one other photo in a batch of 32; the average of the weights is kept."""
    schedule, N = DDPMScheduler.from_config(pipe.scheduler.config), len(z_NCHW)
    torch.manual_seed(1)
    optimizer = torch.optim.AdamW(pipe.unet.train().parameters(), 2e-3)
    average = EMAModel(pipe.unet.parameters(), decay=0.995, use_ema_warmup=True, power=0.75)
    losses = []
    for step in range(steps):
        which = torch.cat([torch.randint(flowers, (24,)), torch.randint(flowers, N, (8,))])
        told = torch.where(torch.rand(32) < 1 / 8, N, which)
        z = z_NCHW[which]
        noise, t = torch.randn_like(z), torch.randint(1000, (32,))
        loss = (pipe.unet(schedule.add_noise(z, noise, t), t, words[told]).sample - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(pipe.unet.parameters(), 1.0)
        optimizer.step()
        average.step(pipe.unet.parameters())
        losses.append(float(loss.detach()))
        if (step + 1) % 100 == 0:
            print(f"base {step + 1}: {np.mean(losses[-100:]):.4f}", flush=True)
    average.copy_to(pipe.unet.parameters())
    pipe.unet.eval()


# the subjects


def config_of(folder: Path, model: Path, subject: str, args: argparse.Namespace) -> lora_config.Config:
    words = [
        "--input",
        SUBJECTS / subject,
        "--output",
        folder / subject,
        "--model",
        model,
        "--size",
        SIZE,
        "--batch",
        4,
        "--accum",
        1,
        "--rank",
        args.rank,
        "--lr",
        args.lr,
        "--steps",
        max(args.looks),
        "--data.template",
        "a photo of sks",
        "--data.buckets",
        "false",
        "--data.crops",
        8,
        "--data.zoom",
        1.5,
        "--validation.share",
        0.3,
        "--validation.every",
        0,
        "--checkpoint.every",
        np.gcd.reduce(args.looks),
        "--cache",
        folder / "cache",
    ]
    return parse("lora", list(map(str, words)))


def trained(
    config: lora_config.Config, looks: Sequence[int]
) -> tuple[dict[int, State], LoraBatch, list[Item]]:
    """The adapter after so many steps, and the held-out pictures."""
    source = fill(config, lora_input.gather(config))
    link = Alone()
    fresh()
    loop(Task(config=config, source=source, threads=1, workers=1), link)  # type: ignore[arg-type]
    fresh()
    states = {}
    for step in looks:
        saved = safetensors.torch.load(link.saved[step]["model.safetensors"])
        states[step] = {n.removeprefix("lora.").replace(".default.", "."): w for n, w in saved.items()}
    pipe = lora_pipelines.open_pipeline(config.model.name, "cpu", "unet")
    [(batch, items)] = Reader(config, source, Encoders(pipe)).held_out(4)
    return states, batch, items


class Judge:
    """Losses of all held-out pictures, at the same noises whatever weights are asked about."""

    def __init__(
        self, config: lora_config.Config, batch: LoraBatch, keys: Sequence[str], noises: int
    ) -> None:
        pipe = lora_pipelines.open_pipeline(config.model.name, "cpu")
        self.network = LoraNetwork(adapters.attach(pipe, config.lora, config.seed), family_of(pipe))
        self.untrained = {n: w.clone() for n, w in adapters.state(self.network).items()}
        self.goal, self.batch, self.keys, self.noises = goal_of(config, pipe), batch, keys, noises

    def __call__(self, state: State | None) -> np.ndarray:
        """float64 [pictures]; None asks about the base."""
        adapters.load(self.network, self.untrained if state is None else state)
        each = [
            held_out_loss(self.network, self.batch, self.goal, self.keys, seed, TIMES).double()
            for seed in range(self.noises)
        ]
        return torch.stack(each).mean(0).numpy()


def joined(batches: Sequence[LoraBatch]) -> LoraBatch:
    """Batches of one size as one."""
    words = {n: torch.cat([b.words[n] for b in batches]) for n in batches[0].words}
    return LoraBatch(
        z_BCHW=torch.cat([b.z_BCHW for b in batches]),
        words=words,
        size=batches[0].size,
        eps_BCHW=torch.cat([b.eps_BCHW for b in batches]),
        time_B=torch.cat([b.time_B for b in batches]),
    )


def compared(before: np.ndarray, after: np.ndarray, whose: np.ndarray) -> dict[str, Any]:
    """What each subject's LoRA did for its own photos, and the others' LoRAs for the same.

    Args:
        before: [P] losses of the base.
        after: [S, P] losses under each subject's LoRA.
        whose: [P] number of the subject that a photo is of.

    Returns:
        own, others, difference: [S], means over a subject's photos; mean and interval of the difference over
        subjects, 95 % by Student's t; photos: how many of them have a difference below 0.
    """
    change_SP = after - before
    S, P = change_SP.shape
    own = change_SP[whose, np.arange(P)]
    others = (change_SP.sum(0) - own) / (S - 1)
    of = [whose == s for s in range(S)]
    difference = np.array([(own - others)[mine].mean() for mine in of])
    half = scipy.stats.t.ppf(0.975, S - 1) * difference.std(ddof=1) / np.sqrt(S)
    return {
        "own": [own[mine].mean() for mine in of],
        "others": [others[mine].mean() for mine in of],
        "difference": difference.tolist(),
        "mean": difference.mean(),
        "interval": [difference.mean() - half, difference.mean() + half],
        "photos_below_0": int((own < others).sum()),
        "subjects_below_0": int((difference < 0).sum()),
    }


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    model = args.base or folder / "model"
    if not (model / "model_index.json").is_file():
        base(model, args.subjects, args.base_steps)
    configs = {s: config_of(folder, model, s, args) for s in args.subjects}
    runs = {s: trained(config, args.looks) for s, config in configs.items()}
    keys = [f"{s}/{item.key}" for s in runs for item in runs[s][2]]
    whose = np.array([n for n, s in enumerate(runs) for _ in runs[s][2]])
    judge = Judge(next(iter(configs.values())), joined([r[1] for r in runs.values()]), keys, args.noises)
    before = judge(None)
    found = {}
    for step in args.looks:
        found[step] = compared(before, np.stack([judge(r[0][step]) for r in runs.values()]), whose)
        print(step, json.dumps(rounded(found[step])), flush=True)
    return {
        "subjects": list(runs),
        "held_out": np.bincount(whose).tolist(),
        "rank": args.rank,
        "lr": args.lr,
        "batch": 4,
        "base_steps": args.base_steps,
        "noises": args.noises,
        "times": TIMES,
        "base_loss": [float(before[whose == n].mean()) for n in range(len(runs))],
        "after": found,
    }


def rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return round(float(value), 5) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--base", type=Path, help="folder of the base; taught and kept there if it is not there"
    )
    parser.add_argument("--subjects", nargs="+", default=list(CHOSEN))
    parser.add_argument("--looks", nargs="+", type=int, default=[50, 100], help="steps of LoRA")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--noises", type=int, default=4, help="for each of ten times and each photo")
    parser.add_argument("--base_steps", type=int, default=550)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        result = rounded(measure(Path(temporary), args))
    print(json.dumps(result))
    if args.out:
        args.out.write_text(json.dumps(result | {"hardware": hardware()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
