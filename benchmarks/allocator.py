"""What it is worth that a process keeps the memory that an operation lets go of: a VAE, and features, on a CPU.

Fresh processes by turns, one as the C library has it, one as Noiseweave sets it (cluster/allocator.py), one thread at
work: the process's first, or another, as in Ray's workers and the Studio. The ratio is of processor time, the system's
included, so that other work on the machine changes it little.

    python benchmarks/allocator.py [--side 256] [--repeats 3] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from inversion import hardware

from noiseweave.cluster import allocator

ROWS, CALLS = 4, 3


def took(work: Callable[[], object]) -> float:
    """Milliseconds of processor time a picture, after a first call."""
    work()
    start = time.process_time()
    for _ in range(CALLS):
        work()
    return 1000 * (time.process_time() - start) / CALLS / ROWS


def one(side: int, kept: bool) -> dict[str, float]:
    """Milliseconds of each kind of work, in this process."""
    if kept:
        assert allocator.keep()
    import torch

    from noiseweave.engine.features import networks
    from noiseweave.engine.networks import base_models, latents
    from noiseweave.engine.networks.recipes import ModelConfig

    torch.set_num_threads(1)
    vae = base_models.load(ModelConfig(name="flowers-flow")).encoder
    assert vae is not None
    features = networks.load(name := "efficientnet-lite0", networks.weights_of(name, None), "cpu")

    @torch.inference_mode()
    def each(where: str) -> dict[str, float]:
        x_BCHW = torch.rand(ROWS, 3, side, side) * 2 - 1
        z_BCHW = latents.encode(vae, x_BCHW)
        return {
            f"VAE, encoding{where}": took(lambda: latents.encode(vae, x_BCHW)),
            f"VAE, decoding{where}": took(lambda: latents.decode(vae, z_BCHW)),
            f"features{where}": took(lambda: features.run(x_BCHW / 2 + 0.5)),
        }

    with ThreadPoolExecutor(1) as pool:
        return each("") | pool.submit(each, ", in another thread").result()


def measured(side: int, kept: bool) -> dict[str, float]:
    """``one`` of a fresh process."""
    env = {n: v for n, v in os.environ.items() if not n.startswith(allocator.OWN)} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--side", str(side), "--one", "kept" if kept else "given back"]
    out = subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.side, args.one == "kept")))
        return
    pairs = [(measured(args.side, False), measured(args.side, True)) for _ in range(args.repeats)]
    found = {}
    for name in pairs[0][0]:
        before, after = (statistics.median(pair[i][name] for pair in pairs) for i in range(2))
        found[name] = {
            "given back, ms": round(before, 1),
            "kept, ms": round(after, 1),
            "ratio": round(before / after, 2),
        }
        print(f"{name}: {found[name]}", flush=True)
    if args.out:
        args.out.write_text(
            json.dumps({"hardware": hardware(), "side": args.side, "work": found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
