"""How a network runs fastest: ModelConfig's compile, channels_last and attention against the plain way, in one run.

    python benchmarks/tuning.py [--device cuda] [--compile] [--networks digits-ddpm small] [--batches 1 4 16 64]

Networks: those of digits-ddpm and flowers-flow, and UNets of Stable Diffusion-shaped pipelines (pipelines.py; sd15 is
the real size). Plain is NCHW with PyTorch's scaled_dot_product_attention (sdpa). All ways take turns in each repeat;
the ratio is of each way's best time (on a CPU processor time, of one thread). The first calls' seconds are told, on
the clock: of one size, then of a second, where it is compiled once more for any size. FASTEST and COMPILING in
``noiseweave/engine/networks/tuning.py`` are read off this.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pipelines
import torch
from inversion import hardware
from latent_fusion import seconds

from noiseweave.engine.networks import backbone, loading, tuning
from noiseweave.engine.networks.recipes import ModelConfig

PLAIN: dict[str, Any] = {"compile": False, "channels_last": False, "attention": "sdpa"}
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "channels_last": {"channels_last": True},
    "eager": {"attention": "eager"},
    "channels_last, eager": {"channels_last": True, "attention": "eager"},
    "compile": {"compile": True},
    "compile, channels_last": {"compile": True, "channels_last": True},
}

SHIPPED = ("digits-ddpm", "flowers-flow")

Call = Callable[[int], Any]


def network(name: str, device: str, precision: str) -> tuple[Any, Callable[[Any, int], Any]]:
    """A UNet, and a call of it on so many rows."""
    dtype = backbone.DTYPES[precision]
    if name in SHIPPED:
        model: Any = loading.load(ModelConfig(name=name, precision=precision, **PLAIN), device)
        unet, words = model.unet, None
    else:
        pipe = pipelines.build(pipelines.SHAPES[name])
        unet = pipe.unet.to(device, dtype).eval().requires_grad_(False)
        words = torch.randn(1, 77, unet.config.cross_attention_dim, device=device, dtype=dtype)
    shape = (unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)

    @torch.inference_mode()
    def call(unet: Any, rows: int) -> Any:
        x = torch.ones(rows, *shape, device=device, dtype=dtype)
        t = torch.full((rows,), 500, device=device)
        told = {} if words is None else {"encoder_hidden_states": words.expand(rows, -1, -1)}
        if unet.config.get("num_class_embeds"):
            weights_K = torch.eye(unet.config.num_class_embeds, device=device, dtype=dtype)[0]
            told["class_labels"] = weights_K.expand(rows, -1)  # as a Backbone gives mixed classes
        return unet(x, t, **told, return_dict=False)[0]

    return unet, call


def ways(name: str, args: argparse.Namespace) -> tuple[dict[str, Call], dict[str, list[float]]]:
    """Each way's call, and the seconds of its first calls of the two first batch sizes."""
    unet, call = network(name, args.device, args.precision)
    calls: dict[str, Call] = {}
    first: dict[str, list[float]] = {}
    for way, options in WAYS.items():
        if options.get("compile") and not args.compile:
            continue
        one = copy.deepcopy(unet)
        tuning.tune(one, ModelConfig(name="digits-ddpm", **PLAIN | options), args.device)
        calls[way] = partial(call, one)
        first[way] = [wall(partial(call, one, n), args.device) for n in args.batches[:2]]
    return calls, first


def wall(run: Callable[[], Any], device: str) -> float:
    """Seconds on the clock: compilers are processes of their own."""
    start = time.perf_counter()
    seconds(run, device)
    return round(time.perf_counter() - start, 3)


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    calls, first = ways(name, args)
    found: dict[int, dict[str, float]] = {}
    for rows in args.batches:
        best = dict.fromkeys(calls, float("inf"))
        for repeat in range(args.repeats + 1):  # the first is to warm up
            for way, call in calls.items():
                took = seconds(partial(call, rows), args.device)
                best[way] = min(best[way], took) if repeat else best[way]
        found[rows] = best
    return {
        "network": name,
        "first_calls_s": first,
        "plain_ms_a_row": {n: round(1e3 * b["plain"] / n, 3) for n, b in found.items()},
        "speed_to_plain": {
            way: {n: round(b["plain"] / b[way], 3) for n, b in found.items()} for way in calls
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16", "fp16"], default="fp32")
    known = [*SHIPPED, *pipelines.SHAPES]
    parser.add_argument("--networks", nargs="+", choices=known, default=["digits-ddpm", "small"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="measure that too: minutes for each network")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    start, found = time.perf_counter(), []
    for name in args.networks:
        found.append(measure(name, args))
        for way, ratios in found[-1]["speed_to_plain"].items():
            print(f"{name:12} {way:24} {ratios}, first calls {found[-1]['first_calls_s'][way]}")
    result = {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "hardware": hardware(),
        "precision": args.precision,
        "repeats": args.repeats,
        "seconds": time.perf_counter() - start,
        "networks": found,
    }
    out = args.out or Path(__file__).parent / f"results/tuning-{args.device}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
