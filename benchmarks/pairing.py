"""Pairing: blockwise top-k against a plain loop over all pairs, same features, same run.

    python benchmarks/pairing.py [--out FILE] [--rows 5000] [--repeats 3]
    python benchmarks/pairing.py --large [--rows 200000] [--blocks 0]

``--large`` streams memory-mapped .npy shards through ``nearest`` and measures the peak memory of the process;
``--blocks`` stops after that many blocks of rows (0: all), each against all columns, and says
so in the result.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from inversion import hardware

from noiseweave.engine.pairing.nearest import nearest
from noiseweave.engine.pairing.recipes import PairingRecipe
from noiseweave.engine.pairing.selection import Known, select

D = 512
RECIPE = PairingRecipe(classes="any", draw="top", upper=0.999, hash=None, max_uses=None)


def features(n: int, seed: int) -> np.ndarray:
    """Unit rows in clusters of ten, whose members have a cosine of about 0.85."""
    g = np.random.default_rng(seed)
    f = np.repeat(g.standard_normal((n // 10, D), np.float32), 10, 0)
    f += 0.42 * g.standard_normal((n, D), np.float32)
    return f / np.linalg.norm(f, axis=1, keepdims=True)


def plain(f: np.ndarray) -> tuple[float, set[tuple[int, int]]]:
    """A cosine for each pair into a full matrix, then the best of each row."""
    start = time.perf_counter()
    matrix = np.full((len(f), len(f)), -1.0)
    for i in range(len(f)):
        for j in range(i + 1, len(f)):
            matrix[i, j] = matrix[j, i] = np.dot(f[i], f[j])
    pairs = set()
    for i in range(len(f)):
        allowed = [j for j in range(len(f)) if RECIPE.threshold <= matrix[i, j] <= RECIPE.upper]
        for j in sorted(allowed, key=lambda j: -matrix[i, j])[: RECIPE.top_k]:
            pairs.add((min(i, j), max(i, j)))
    return time.perf_counter() - start, pairs


def _pairs(found: list[tuple[np.ndarray, np.ndarray, np.ndarray]], n: int) -> tuple[np.ndarray, np.ndarray]:
    a, b, similarity = (np.concatenate(x) for x in zip(*found, strict=True))
    known = Known(label_N=np.zeros(n, np.int64), hash_N=np.zeros(n, np.uint64))
    selected = select((a, b, similarity), known, RECIPE)
    return selected.a, selected.b


def ours(f: np.ndarray) -> tuple[float, set[tuple[int, int]]]:
    start = time.perf_counter()
    label, size = np.zeros(len(f), np.int64), RECIPE.block
    columns = [(i, f[i : i + size], label[i : i + size]) for i in range(0, len(f), size)]
    found = [nearest(i, rows, own, columns, RECIPE) for i, rows, own in columns]
    a, b = _pairs(found, len(f))
    return time.perf_counter() - start, set(zip(a.tolist(), b.tolist(), strict=True))


def compare(n: int, repeats: int) -> dict[str, object]:
    f = features(n, 0)
    ours(f[:500])  # warm
    loops, blocks = [], []
    for _ in range(repeats):
        (slow, expected), (fast, found) = plain(f), ours(f)
        assert found == expected
        loops.append(slow)
        blocks.append(fast)
    ratio = statistics.median(loops) / statistics.median(blocks)
    print(f"{n} rows: {ratio:.0f} x a plain loop ({loops} s, {blocks} s), the same {len(found)} pairs")
    return {"rows": n, "seconds_plain_loop": loops, "seconds_ours": blocks, "ratio": round(ratio, 1)}


def large(n: int, blocks: int) -> dict[str, object]:
    """Peak memory of the process; the shards lie on disk and are mapped one at a time."""
    size = RECIPE.block
    with tempfile.TemporaryDirectory() as folder:
        shards = [(i, Path(folder) / f"{i}.npy") for i in range(0, n, size)]
        for i, path in shards:
            np.save(path, features((min(size, n - i) + 9) // 10 * 10, i)[: n - i])

        def table() -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
            for i, path in shards:
                f = np.load(path, mmap_mode="r")
                yield i, f, np.zeros(len(f), np.int64)

        start = time.perf_counter()
        rows = shards[:blocks] if blocks else shards
        found = []
        for i, path in rows:
            f = np.load(path, mmap_mode="r")
            found.append(nearest(i, f, np.zeros(len(f), np.int64), table(), RECIPE))
        pairs = len(_pairs(found, n)[0])
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{n} x {D}, {len(rows)} of {len(shards)} row blocks: {seconds:.0f} s, {pairs} pairs, {peak:.2f} GiB"
    )
    assert peak < 3
    return {
        "rows": n,
        "row_blocks_done": len(rows),
        "row_blocks": len(shards),
        "seconds": round(seconds, 1),
        "pairs": pairs,
        "peak_rss_gib": round(peak, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/pairing-cpu.json")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.large:
        result = {"large": large(args.rows or 200_000, args.blocks)}
    else:
        result = {"small": compare(args.rows or 5000, args.repeats)}
    kept = json.loads(args.out.read_text()) if args.out.is_file() else {}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(kept | {"D": D, "hardware": hardware()} | result, indent=1) + "\n")


if __name__ == "__main__":
    main()
