"""What it is worth that OpenMP's waiting threads sleep: network calls on a quiet machine, and beside busy loops.

The shipped digits network, forward (a sampler's call) and forward and backward (a training step), with as many torch
threads as there are cores, once with OpenMP's own way of waiting (spinning) and once with Noiseweave's (passive), by
turns in fresh processes. Throughput is over all calls; the median call is what a call takes that nothing disturbs, on a
machine that is quiet most of the time. The ratio is the median of passive to spinning over neighbouring processes.

    python benchmarks/threads.py [--busy 0 2] [--repeats 5] [--seconds 4] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from noiseweave.cluster.threads import OWN, PASSIVE
from noiseweave.engine.networks import loading

ROWS = 16
WAYS: dict[str, dict[str, str]] = {"spinning": {}, "passive": PASSIVE}


def rates(seconds: float) -> dict[str, list[float]]:
    """Seconds of each call of both kinds of work, in this process."""
    import torch

    from noiseweave.engine.networks.recipes import ModelConfig

    torch.set_num_threads(os.cpu_count() or 1)
    unet = loading.load(ModelConfig(name="digits-ddpm")).unet.requires_grad_(True)
    x, t = torch.randn(ROWS, 1, 16, 16), torch.arange(ROWS)

    def forward() -> None:
        with torch.inference_mode():
            unet(x, t)

    def step() -> None:
        unet(x, t).sample.square().mean().backward()

    return {"forward": calls(forward, seconds), "training": calls(step, seconds)}


def calls(work: Callable[[], None], seconds: float) -> list[float]:
    work()
    end, took = time.monotonic() + seconds, []
    while time.monotonic() < end:
        start = time.monotonic()
        work()
        took.append(time.monotonic() - start)
    return took


FIGURES: dict[str, Callable[[list[float]], float]] = {
    "throughput": lambda took: ROWS * len(took) / sum(took),
    "median call": lambda took: ROWS / statistics.median(took),
}


def measured(way: str, seconds: float) -> dict[str, list[float]]:
    """``rates`` of a fresh process."""
    env = {name: value for name, value in os.environ.items() if name not in (*OWN, "OMP_NUM_THREADS")}
    command = [sys.executable, __file__, "--one", "--seconds", str(seconds)]
    out = subprocess.run(command, env=env | WAYS[way], check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def beside(busy: int, repeats: int, seconds: float) -> dict[str, dict[str, float]]:
    """ "work, figure" -> medians of both ways, and their ratio, beside so many busy loops."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        found = [{way: measured(way, seconds) for way in WAYS} for _ in range(repeats)]
    finally:
        for loop in loops:
            loop.kill()
    table = {}
    for work in ("forward", "training"):
        for name, figure in FIGURES.items():
            rows = [{way: figure(took[work]) for way, took in pair.items()} for pair in found]
            median = {way: statistics.median(row[way] for row in rows) for way in WAYS}
            ratio = statistics.median(row["passive"] / row["spinning"] for row in rows)
            table[f"{work}, {name}"] = median | {"ratio": ratio}
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2], help="busy loops beside the work")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(rates(args.seconds)))
        return
    import torch

    report = {
        "cores": os.cpu_count(),
        "processor": platform.processor(),
        "torch": torch.__version__,
        "busy": {},
    }
    print(f"{'busy loops':>10} {'work':>21} {'spinning':>9} {'passive':>9} {'ratio':>6}   pictures/s")
    for busy in args.busy:
        report["busy"][str(busy)] = table = beside(busy, args.repeats, args.seconds)
        for work, row in table.items():
            print(
                f"{busy:>10} {work:>21} {row['spinning']:>9.1f} {row['passive']:>9.1f} {row['ratio']:>6.2f}",
                flush=True,
            )
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
