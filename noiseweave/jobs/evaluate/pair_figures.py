"""Scores of matched pairs -> figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from noiseweave.cluster import storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.records import Json, JsonMapping
from noiseweave.jobs import outputs
from noiseweave.jobs.evaluate.config import Config


def all_rows(book: Ledger, phase: str) -> list[Json]:
    """What the units of a phase wrote, in order."""
    paths = [book.path("scores", f"{record['id']}.json") for record in book.records(phase)]
    return [row for path in paths for row in storage.read_json(path)]


def write_rows(output: str, rows: Iterable[JsonMapping]) -> None:
    """pairs.jsonl: a line for each pair."""
    storage.write(storage.join(output, "pairs.jsonl"), outputs.json_lines(rows))


def warnings(rows: Sequence[JsonMapping]) -> list[str]:
    """What a mean PSNR leaves out."""
    names = [n for n in dict.fromkeys(n for row in rows for n in row) if n.startswith("psnr")]
    equal = {n: sum(n in row and row[n] is None for row in rows) for n in names}
    return [f"{n}: {count} pairs are equal there and not in its mean" for n, count in equal.items() if count]


def figures(config: Config, rows: Sequence[JsonMapping]) -> Json:
    """Mean of each metric with its interval, median, and for PSNR also that of the mean squared error of all."""
    from noiseweave.engine.judging import picture_metrics, set_metrics

    names = [
        n
        for n in dict.fromkeys(n for row in rows for n in row)
        if n not in ("key", "recipe") and not n.startswith("mse")
    ]
    out: Json = {}
    for name in names:
        values = np.array([row[name] for row in rows if row.get(name) is not None], np.float64)
        about: Json = {"value": float(values.mean()) if len(values) else None, "interval": None}
        if config.bootstrap and len(values) > 1:
            w_BN = set_metrics.weights(config.bootstrap, len(values), config.seed, name)
            resampled = w_BN @ values / len(values)
            about["interval"] = list(set_metrics.interval(about["value"], resampled, config.confidence))
        about |= {"median": float(np.median(values)) if len(values) else None, "pairs": len(values)}
        if name.startswith("psnr"):
            errors = [row["mse" + name.removeprefix("psnr")] for row in rows if name in row]
            pooled = picture_metrics.decibels(float(np.mean(errors)))
            about["of the mean error"] = pooled if np.isfinite(pooled) else None
        out[name] = about
    return out
