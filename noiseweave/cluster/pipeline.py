"""One flow for every batch job:

plan -> [ fetch (CPU tasks) -> compute (actors pinned to GPUs) -> commit (CPU tasks) ] per unit -> report

Two executors run it. Ray Data's streaming, backpressure, actor pools and retries do on many processes and nodes;
with ``cluster.address: inline`` this process does, and Ray is not imported. Ours is what makes both safe: an
exception becomes the unit's error and never ends the pipeline, a unit counts as done by its marker on storage
alone, and units without a marker are run once more before they are reported as failed.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from noiseweave.cluster import allocator, inline
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.progress import Channel, Meter, OnProgress, watch
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Commit, Compute, Fetch, Phase
from noiseweave.cluster.storage import StorageError
from noiseweave.cluster.units import Plan
from noiseweave.engine.records import Json, JsonMapping

BLOCKS = 4096  # blocks that a long plan is cut into, and some more at its end
SHORT = 8  # units a worker up to which a plan is short
STALL = 3600.0  # seconds without the end of any unit after which a hang is assumed


@dataclass(kw_only=True)
class Outcome:
    """What a phase came to, earlier runs of it counted in.

    Attributes:
        units: planned.
        produced: pictures, features or pairs made.
        quarantined: reason -> count.
        extra, tallies: the sums of the reports'.
        failed: unit id -> error, of units that two passes could not do.
        seconds: wall time of this run of the phase.
        earlier: units that were done before it.
    """

    units: int
    earlier: int = 0
    produced: int = 0
    quarantined: Counter[str] = field(default_factory=Counter)
    extra: Counter[str] = field(default_factory=Counter)
    tallies: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, record: JsonMapping) -> None:
        """Add a done-marker's counts."""
        self.produced += record["produced"]
        self.quarantined.update(record["quarantined"])
        self.extra.update(record["extra"])
        for name, counts in record["tallies"].items():
            self.tallies[name].update(counts)


def run(plan: Plan, phase: Phase, ledger: Ledger, session: Session) -> Outcome:
    """Do every unit of the plan that has no done-marker yet; a unit is failed after two passes without one.

    Raises:
        StorageError: the output cannot be written, and another try would not help; the rest is not begun.
    """
    start = time.monotonic()
    outcome = Outcome(units=plan.length)
    errors: dict[str, str] = {}
    before = ledger.done(phase.name)
    left = _left(plan, before)
    outcome.earlier = plan.length - len(left)
    meter = Meter(
        stage=phase.name, units=len(left), workers=session.workers, noun=phase.noun, earlier=outcome.earlier
    )
    channel = None if session.inline or not len(left) else Channel()
    closing = contextlib.closing(channel) if channel else contextlib.nullcontext()
    with closing, watch(meter, channel.look if channel else None) as display:
        on_progress = channel.on_progress if channel else meter.on_progress
        for again in (False, True):
            if len(left) == 0:
                break
            meter.begin_pass()
            if again:
                print(f"{phase.name}: {len(left)} units without a result are run once more", file=sys.stderr)
                gc.collect()  # the first pass's workers hold their GPUs until the last handle is gone
            for row in _rows(plan, left, phase, ledger, session, again, on_progress):
                if row["stop"]:
                    raise StorageError(f"{row['error']}; the same command goes on from what is done")
                if row["error"]:
                    errors[row["id"]] = row["error"]
                    meter.drop(row["id"])
                else:
                    meter.add(row["id"], row["produced"], row["quarantined"])
                display.update()
            left = _left(plan, ledger.done(phase.name))
    for record in ledger.records(phase.name):
        outcome.add(record)
    for index in left.tolist():
        unit = plan.unit(index).id
        outcome.failed[unit] = errors.get(unit, "its worker died or gave no answer")
    outcome.seconds = time.monotonic() - start
    return outcome


def _left(plan: Plan, done: set[str]) -> np.ndarray:
    if not done:
        return np.arange(plan.length, dtype=np.int64)
    return np.fromiter((i for i in range(plan.length) if plan.unit(i).id not in done), dtype=np.int64)


def _blocks(left: np.ndarray, workers: int) -> list[np.ndarray]:
    """The units of one task each, fewer towards the end so that all workers end together (Hummel et al. 1992); not
    single ones, of which a long plan on many workers would end in more a second than Ray can start."""
    most, blocks, start = -(-len(left) // BLOCKS), [], 0
    least = -(-most // 2)
    while start < len(left):
        size = max(least, min(most, (len(left) - start) // (2 * workers)))
        blocks.append(left[start : start + size])
        start += size
    return blocks


def _rows(
    plan: Plan,
    left: np.ndarray,
    phase: Phase,
    ledger: Ledger,
    session: Session,
    again: bool,
    on_progress: OnProgress,
) -> Iterator[Json]:
    """What became of each unit, as ``Commit`` says it, in the order in which they end."""
    if session.inline:
        return inline.rows(plan, left, phase, ledger, session, on_progress)
    return _stream(plan, left, phase, ledger, session, again, on_progress)


def _stream(
    plan: Plan,
    left: np.ndarray,
    phase: Phase,
    ledger: Ledger,
    session: Session,
    again: bool,
    on_progress: OnProgress,
) -> Iterator[Json]:
    import pyarrow as pa
    import ray.data
    from ray.data import ActorPoolStrategy
    from ray.data.exceptions import ExecutionTimeoutError

    _settings(phase.patience or STALL)
    workers = min(session.workers, len(left))
    # A unit queued behind another is lost with its killer, so the second pass queues none; nor does a short plan, of
    # which the first workers that are up would take two each and leave none to the last
    queue = 1 if again or len(left) <= SHORT * workers else 2
    gpu = session.gpus_per_worker
    # blocks of numbers: to make a read task of ray.data.range for each takes the driver several times as long
    source = ray.data.from_blocks([pa.table({"index": part}) for part in _blocks(left, workers)])
    with warnings.catch_warnings():
        # max_task_retries is what ends a unit that kills its worker again and again; Ray has no named parameter yet.
        # The first pass has none: a retry waits for the same worker, and that of a dead node may never come back
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        computed = source.map(Fetch(plan, phase.fetch)).map_batches(
            Compute,
            fn_constructor_args=(phase.make_compute, session.threads, phase.size, on_progress),
            batch_size=1,
            batch_format="numpy",
            compute=ActorPoolStrategy(
                min_size=workers, max_size=workers, max_tasks_in_flight_per_actor=queue
            ),
            num_gpus=gpu or None,
            num_cpus=0 if gpu else 1,  # a GPU actor that also takes a CPU can starve the readers
            max_task_retries=session.retries if again else 0,
            runtime_env={"env_vars": allocator.environment()},
            **session.place,
        )
    rows = computed.map(Commit(phase.name, phase.commit, ledger))
    try:
        yield from rows.iter_rows()
    except (ray.exceptions.RayError, ExecutionTimeoutError) as e:
        # the pipeline itself broke (every actor died, say, or it stalled): what has no marker is seen by the caller
        print(
            f"{phase.name}: pipeline broke off: {str(e).splitlines()[0][:200]}", file=sys.stderr, flush=True
        )


def _settings(patience: float) -> None:
    from ray.data import DataContext

    # INFO is a line a pipeline, ERROR a traceback for each block of a lost worker, which the second pass makes good
    debug = os.environ.get("NOISEWEAVE_DEBUG")
    logging.getLogger("ray.data").setLevel(logging.ERROR if debug else logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # dropped blocks are found again by their missing markers
    context.execution_no_progress_timeout_s = patience
