"""Latent fusion: fused pictures/s against the published loop, same network, same run.

    python benchmarks/latent_fusion.py
    python benchmarks/latent_fusion.py --shape sd15 --device cuda --precision bf16

The published loop (published_loop.py) inverts both pictures of every pair anew, one picture, one step and one half
of the guidance a call, every step of the chain, in float32. Between it and ``augmentation.augment`` stand rungs that
each leave one thing out, so that the gain is told by its causes; what a rung costs is a sum of pieces that are all
timed in each repeat, on a CPU in processor time (one thread). The VAE and the text encoder are in every rung's time,
for the loops in float32 (the public code has autocast around its VAE).

That the comparison is fair is checked: from the same noise, with the same recipe, both must give the same picture.
The public code treats its last step in another way, so it is measured with that step done as ours too. The weights are
random: speed does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import published_loop
import torch
from inversion import hardware
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from noiseweave.engine.diffusion import inversion
from noiseweave.engine.diffusion.inversion import draw_noise
from noiseweave.engine.diffusion.path import Denoiser
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion import groups
from noiseweave.engine.fusion.modes import fuse
from noiseweave.engine.fusion.recipes import FusionRecipe
from noiseweave.engine.networks.latent_backbone import LatentBackbone, Words
from noiseweave.engine.networks.recipes import Prompts
from noiseweave.engine.records import NoiseMaps, Pair

CHAIN = InversionRecipe(num_steps=100, skip=36)  # arXiv 2304.06140, section 4
SHORT = InversionRecipe(num_steps=25, skip=9, sampler="sde-dpm-solver++")  # the same share skipped
SOURCE, TARGET = "a photo of a flower", "a watercolour of a flower"


@dataclass(frozen=True, kw_only=True)
class Work:
    """N pictures, each in some pairs, and how they are fused.

    Attributes:
        chain, short: the recipe of the paper, and the one of the second sampler.
    """

    image_NHWC: np.ndarray
    pairs: list[Pair]
    prompts: Prompts
    chain: InversionRecipe
    short: InversionRecipe

    @property
    def keys(self) -> list[str]:
        return [str(i) for i in range(len(self.image_NHWC))]

    def augment(self, model: LatentBackbone, recipe: InversionRecipe) -> np.ndarray:
        parents = groups.Parents(image_BHWC=self.image_NHWC, keys=self.keys, prompts=self.prompts)
        return groups.augment(model, parents, self.pairs, recipe, FusionRecipe(), 0).image_PHWC


def work_of(count: int, uses: int, size: int, chain: InversionRecipe, short: InversionRecipe) -> Work:
    """Each picture is paired with its ``uses`` neighbours on a ring."""
    places = [(i, (i + k) % count) for k in range(1, uses // 2 + 1) for i in range(count)]
    pairs = [Pair(a=a, b=b, similarity=1.0, mode="linear", ratio=0.5, seed=0) for a, b in places]
    prompts = Prompts(
        source=(SOURCE,) * count, target=(TARGET,) * count, guidance_source=3.5, guidance_target=15.0
    )
    return Work(
        image_NHWC=pipelines.pictures(count, size), pairs=pairs, prompts=prompts, chain=chain, short=short
    )


# the published loop, in pieces


def joined(model: LatentBackbone, words: Words, guidance: float) -> Denoiser:
    """Both halves of the guidance in one call."""
    return model.conditioned(words, guidance)


Halves = Callable[[LatentBackbone, Words, float], Denoiser]


def invert_one(
    model: LatentBackbone, work: Work, i: int, whole: bool, halves: Halves, last: bool = False
) -> tuple[Tensor, Tensor]:
    """Picture i -> (x_T [C, H, W], z [T, C, H, W])."""
    epsilon = halves(model, model.words([work.prompts.source[i]]), work.prompts.guidance_source)
    x_0 = model.encode(work.image_NHWC[i : i + 1])[0]
    recipe = work.chain
    noise = draw_noise(recipe, recipe.num_steps, tuple(x_0.shape), 0, work.keys[i]).to(x_0)
    return published_loop.invert(epsilon, model.scheduler, x_0, noise, recipe.skip, whole, last)


def replay_one(model: LatentBackbone, work: Work, x_T: Tensor, z: Tensor, halves: Halves) -> Tensor:
    """-> latents [1, C, H, W]; the picture is decoded too, as part of the work."""
    epsilon = halves(model, model.words([work.prompts.target[0]]), work.prompts.guidance_target)
    x = published_loop.replay(epsilon, model.scheduler, work.chain.num_steps, x_T, z)
    model.decode(x)
    return x


def fused_one(model: LatentBackbone, work: Work) -> tuple[Tensor, Tensor]:
    """(x_T, z) of the first pair, the last step kept."""
    t_T = torch.arange(work.chain.num_steps - work.chain.skip).flip(0)
    maps = []
    for i in (work.pairs[0].a, work.pairs[0].b):
        x_T, z = invert_one(model, work, i, False, joined, last=True)
        maps.append(NoiseMaps(x_T_CHW=x_T, residual_TCHW=z, timesteps_T=t_T))
    fused = fuse(maps, [0.5, 0.5], "linear")
    return fused.x_T_CHW, fused.residual_TCHW


def agreement(model: LatentBackbone, work: Work, x_T: Tensor, z: Tensor) -> dict[str, float]:
    """PSNR in dB of the published loop's fused latents against ours, of the first pair.

    It differs from ours in two things: it drops the last step's z, and that step aims at the first alpha_bar in
    place of 1. So it is measured as it is, without the first, and without both.
    """
    apart, dropped = published_loop.halves_apart, torch.cat([z[:-1], torch.zeros_like(z[-1:])])
    theirs, kept = (replay_one(model, work, x_T, some, apart) for some in (dropped, z))
    ours = fused_by_us(model, work, 1.0)
    return {
        "as_published": pipelines.psnr(theirs, ours),
        "last_step_kept": pipelines.psnr(kept, ours),
        "last_step_kept_and_the_same": pipelines.psnr(
            kept, fused_by_us(model, work, float(model.scheduler.final_alpha_cumprod))
        ),
    }


def fused_by_us(model: LatentBackbone, work: Work, last: float) -> Tensor:
    """Our fused latents of the first pair, [1, C, H, W]; ``last`` is the alpha_bar that the last step aims at."""
    places = [work.pairs[0].a, work.pairs[0].b]
    s = model.path(work.chain)
    alpha, sigma = s.alpha_next_T.clone(), s.sigma_next_T.clone()
    alpha[-1], sigma[-1] = last**0.5, (1 - last) ** 0.5
    s = replace(s, alpha_next_T=alpha, sigma_next_T=sigma)
    two = replace(work.prompts, source=(SOURCE,) * 2, target=(TARGET,) * 2)
    x_0 = model.encode(work.image_NHWC[places])
    noise = [draw_noise(work.chain, len(s), tuple(x_0.shape[1:]), 0, work.keys[i]) for i in places]
    denoise = groups.source_denoiser(model, two)
    maps = inversion.invert(denoise, s, x_0, torch.stack(noise, 1).to(x_0))
    return groups.fuse_pictures(
        model, groups.Inverted(path=s, maps=maps, prompts=two), [("linear", [0.5, 0.5])]
    )


# what is timed


@dataclass(kw_only=True)
class Piece:
    """Something timed: medians of seconds, and what went through the network in one run of it."""

    run: Callable[[], Any]
    unet: Any
    seconds: list[float]
    rows: int = 0
    calls: int = 0

    def measure(self, device: str) -> None:
        with counted(self.unet) as seen:
            self.seconds.append(seconds(self.run, device))
        self.rows, self.calls = sum(seen), len(seen)


@contextmanager
def counted(unet: Any) -> Iterator[list[int]]:
    """The rows of each call of a network."""
    seen: list[int] = []
    handle = unet.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    try:
        yield seen
    finally:
        handle.remove()


def seconds(run: Callable[[], Any], device: str) -> float:
    """Wall time on a GPU; on a CPU the processor's, which other work on the machine does not stretch as much."""
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    clock = time.perf_counter if device == "cuda" else time.process_time
    wait()
    start = clock()
    run()
    wait()
    return clock() - start


def pieces(
    plain: LatentBackbone, fast: LatentBackbone, work: Work, x_T: Tensor, z: Tensor
) -> dict[str, Piece]:
    """plain is the float32 model, fast the one in the precision asked for."""
    apart = published_loop.halves_apart
    runs: dict[str, tuple[LatentBackbone, Callable[[], Any]]] = {
        "invert_whole_chain": (plain, lambda: invert_one(plain, work, 0, True, apart)),
        "invert": (plain, lambda: invert_one(plain, work, 0, False, apart)),
        "invert_joined": (plain, lambda: invert_one(plain, work, 0, False, joined)),
        "replay": (plain, lambda: replay_one(plain, work, x_T, z, apart)),
        "replay_joined": (plain, lambda: replay_one(plain, work, x_T, z, joined)),
        "ours_float32": (plain, lambda: work.augment(plain, work.chain)),
        "ours": (fast, lambda: work.augment(fast, work.chain)),
        "ours_short": (fast, lambda: work.augment(fast, work.short)),
    }
    if fast is plain:
        del runs["ours"]
    return {name: Piece(run=run, unet=model.unet, seconds=[]) for name, (model, run) in runs.items()}


def rungs(work: Work, precision: str) -> dict[str, dict[str, float]]:
    """From the published loop to ours: each rung's pieces, as many as one fused picture takes."""
    share, one = len(work.image_NHWC) / len(work.pairs), 1 / len(work.pairs)
    half = {} if precision == "fp32" else {f"and {precision}": {"ours": one}}
    return {
        "published": {"invert_whole_chain": 2, "replay": 1},
        "without the skipped steps": {"invert": 2, "replay": 1},
        "and each picture inverted once": {"invert": share, "replay": 1},
        "and guidance in one call": {"invert_joined": share, "replay_joined": 1},
        "and in batches (ours, ddim)": {"ours_float32": one},
        **half,
        "and sde-dpm-solver++, 25 steps (ours)": {"ours_short": one},
    }


def table(work: Work, found: dict[str, Piece], precision: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, parts in rungs(work, precision).items():
        cost = sum(n * statistics.median(found[p].seconds) for p, n in parts.items())
        rows.append(
            {
                "name": name,
                "images_per_s": round(1 / cost, 4),
                "seconds_an_image": cost,
                "unet_rows_an_image": round(sum(n * found[p].rows for p, n in parts.items()), 1),
                "unet_calls_an_image": round(sum(n * found[p].calls for p, n in parts.items()), 1),
                "ratio_to_published": round(rows[0]["seconds_an_image"] / cost, 2) if rows else 1.0,
                "gain": round(rows[-1]["seconds_an_image"] / cost, 2) if rows else 1.0,
            }
        )
    return rows


# how much of the machine is used


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of the best of some large matrix products."""
    n, times = (8192, 20) if device == "cuda" else (1024, 3)
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in "ab")

    def products() -> None:
        for _ in range(times):
            torch.matmul(a, b)

    products()
    return times * 2 * n**3 / min(seconds(products, device) for _ in range(3))


def flops(unet: Any, arguments: dict[str, Any]) -> int:
    """Of one row. Attention is written out for it, as the counter does not know each fused kernel."""
    one = {name: x[:1] for name, x in arguments.items()}
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        unet(**one, return_dict=False)
    return counter.get_total_flops()


def use_of_the_machine(model: LatentBackbone, device: str, ours: Piece) -> dict[str, Any]:
    """What one full, guided call of our UNet reaches of the rate of large matrix products, and the whole of ours."""
    rows, side = 2 * model.parts.size, model.unet.config.sample_size
    words = model.words([""]).conditional["prompt_embeds"]
    arguments = {
        "sample": torch.randn(
            rows, model.unet.config.in_channels, side, side, device=device, dtype=model.dtype
        ),
        "timestep": torch.full((rows,), 500, device=device),
        "encoder_hidden_states": words.expand(rows, -1, -1),
    }
    with torch.inference_mode():
        model.unet(**arguments)
        call = min(seconds(lambda: model.unet(**arguments), device) for _ in range(3))
    row, rate = flops(model.unet, arguments), matmul_rate(device, model.dtype)
    whole = ours.rows * row / statistics.median(ours.seconds)
    return {
        "dtype": str(model.dtype),
        "gflop_a_row": round(row / 1e9, 3),
        "rows_a_call": rows,
        "matmul_gflops": round(rate / 1e9, 1),
        "unet_call_gflops": round(rows * row / call / 1e9, 1),
        "share_in_a_unet_call": float(f"{rows * row / call / rate:.3g}"),
        "share_over_all_of_ours": float(f"{whole / rate:.3g}"),
    }


def run(
    args: argparse.Namespace, chain: InversionRecipe = CHAIN, short: InversionRecipe = SHORT
) -> dict[str, Any]:
    shape = pipelines.SHAPES[args.shape]
    pipe = pipelines.build(shape)
    plain = pipelines.backbone(pipe, args.device)
    same = args.precision == "fp32"
    fast = plain if same else pipelines.backbone(pipe, args.device, args.precision, args.micro_batch)
    work = work_of(args.pictures, args.uses, shape.size, chain, short)
    x_T, z = fused_one(plain, work)
    agree = agreement(plain, work, x_T, z)
    found = pieces(plain, fast, work, x_T, z)
    work.augment(fast, work.short)  # warm
    for _ in range(args.repeats):
        for piece in found.values():
            piece.measure(args.device)
    rows = table(work, found, args.precision)
    return {
        "shape": args.shape,
        "size": shape.size,
        "precision": args.precision,
        "parameters": sum(p.numel() for p in plain.unet.parameters()),
        "pictures": args.pictures,
        "pairs": len(work.pairs),
        "recipe": asdict(work.chain),
        "short_recipe": asdict(work.short),
        "guidance": [work.prompts.guidance_source, work.prompts.guidance_target],
        "repeats": args.repeats,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "hardware": hardware(),
        "psnr_of_the_same_fused_latents": agree,
        "rungs": rows,
        "use_of_the_machine": use_of_the_machine(fast, args.device, found.get("ours", found["ours_float32"])),
        "seconds": {name: piece.seconds for name, piece in found.items()},
    }


def tell(result: dict[str, Any]) -> None:
    for row in result["rungs"]:
        print(
            f"{row['name']:40} {row['images_per_s']:9.3f} pictures/s, {row['unet_rows_an_image']:6.1f} rows in "
            f"{row['unet_calls_an_image']:6.1f} calls: {row['ratio_to_published']} x (this step {row['gain']} x)"
        )
    print(f"same recipe, same noise, PSNR in dB: {result['psnr_of_the_same_fused_latents']}")
    print(f"machine: {result['use_of_the_machine']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=["small", "sd15"], default="small")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--uses", type=int, default=4, help="pairs that each picture is in; an even number")
    parser.add_argument("--micro_batch", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = run(args)
    tell(result)
    name = "latent-fusion" + ("" if args.shape == "small" else f"-{args.shape}")
    out = args.out or Path(__file__).parent / f"results/{name}-{args.device}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
