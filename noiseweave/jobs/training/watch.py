"""What a person watches while a model is trained."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Protocol

from noiseweave.cluster import storage
from noiseweave.cluster.session import Session
from noiseweave.cluster.storage import StorageError
from noiseweave.cluster.training import Loop, run_training
from noiseweave.engine.records import Json
from noiseweave.engine.training.recipes import CheckpointRecipe
from noiseweave.jobs import outputs


def train(loop: Loop, task: object, state: Callable[..., str], plan: Training, s: Session) -> str | None:
    """Run a train loop on a session's workers with its log and checkpoints; what went wrong, in one line.

    Args:
        state: names -> a path below the run's own folder.

    Raises:
        StorageError: the log could not be written.
    """
    watch = Watch(state("log.jsonl"), plan.steps)
    try:
        failure = run_training(
            loop,
            task,
            folder=state("checkpoints"),
            session=s,
            max_failures=s.retries,
            keep=plan.checkpoint.keep,
            watch=watch,
        )
    except RuntimeError as e:
        return f"training failed: {e}"
    if watch.unwritten is not None:
        raise watch.unwritten
    return failure


class Training(Protocol):
    """What a job's config says of its training."""

    @property
    def steps(self) -> int:
        """Optimizer steps in all."""

    @property
    def checkpoint(self) -> CheckpointRecipe:
        """How many are kept."""


class Watch:
    """Prints a line every few seconds and keeps the log: one JSON row for every ``log_every`` steps."""

    def __init__(self, path: str, steps: int, seconds: float = 5.0) -> None:
        self.path, self.steps, self.seconds = path, steps, seconds
        old = storage.read(self.path).splitlines() if storage.exists(self.path) else []
        self.rows = {row["step"]: row for row in map(json.loads, old)}
        self.shown = 0.0
        self.unwritten: StorageError | None = None

    def __call__(self, row: Json) -> None:
        """Note a row, and show it where some seconds have gone by."""
        if "earlier" in row:  # of a run that was killed before it wrote them down
            self.rows |= {r["step"]: r for r in row["earlier"]}
            return
        self.rows[row["step"]] = row
        now = row["step"] == self.steps or any(name.startswith("validation") for name in row)
        if time.monotonic() - self.shown < self.seconds and not now:
            return
        self.shown = time.monotonic()
        self._write()
        print(f"step {row['step']}/{self.steps}  {self._figures(row)}", flush=True)

    def _write(self) -> None:
        """Write the log; a failure is kept for the end: this may be a thread, and the next try writes it all again."""
        try:
            storage.write(self.path, outputs.json_lines(row for _, row in sorted(self.rows.items())))
            self.unwritten = None
        except StorageError as e:
            self.unwritten = e

    def _figures(self, row: Json) -> str:
        figures = [f"{k} {v:.4f}" for k, v in row.items() if k.startswith(("loss", "d_", "validation"))]
        if "lr" in row:  # all but what is seen before the first step
            left = (self.steps - row["step"]) * row["seconds_per_step"]
            figures += [
                f"lr {row['lr']:.2e}",
                f"{row['samples_per_second']:.3g} samples/s",
                f"{left / 60:.1f} min left",
            ]
        return "  ".join(figures)
