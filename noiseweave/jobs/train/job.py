"""``noiseweave train``: shards, or one picture -> a base model as a folder.

The result depends on everything here but ``cluster``: each sample's chance comes from (seed, step, place in the
global batch), and the batches are cut from streams that know nothing of workers, so one worker and many see
the same.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from typing import TYPE_CHECKING

from noiseweave.cluster import lock, storage
from noiseweave.cluster.ledger import check_run, claim_run
from noiseweave.cluster.session import Session
from noiseweave.engine.checks import check
from noiseweave.engine.identity import identity_of
from noiseweave.jobs import outputs
from noiseweave.jobs.reading import class_names
from noiseweave.jobs.train.config import OWNED, Config, state
from noiseweave.jobs.training.workers import check_workers

if TYPE_CHECKING:
    from noiseweave.jobs.train.task import Source


def run(config: Config) -> int:
    """Train, or go on training, or say that it is done: 0 when the model is there, 1 when training failed."""
    from noiseweave.jobs.train import input as train_input
    from noiseweave.jobs.train import sizing, start

    config = start.settled(dataclasses.replace(config, output=storage.absolute(config.output)))
    config, unlike = sizing.settled(config)
    source = train_input.survey(config)
    with lock.held(config.output):
        return _run(config, source, unlike)


def _run(config: Config, source: Source, unlike: str | None) -> int:
    from noiseweave.cluster.session import session
    from noiseweave.jobs.reading import looks
    from noiseweave.jobs.train import input as train_input
    from noiseweave.jobs.train import report, start, subject

    identity = identity_of(config, job="train", **source.identity)
    known = check_run(config.output, identity, config.overwrite, OWNED)
    if known and storage.exists(storage.join(config.output, "model_index.json")):
        print(f"{config.output}: finished already ({config.steps} steps)")
        return 0
    looks.warn(unlike)
    if config.init is not None:
        print(start.told(config, source), flush=True)
    print(f"{source.count} pictures in {len(source.shards)} shards -> {config.output}", flush=True)
    with session(config.cluster) as s:
        _check(config, s)
        if not known:
            claim_run(config.output, identity, config.overwrite, OWNED)
        class_names.write(config.output, source.names)
        source = train_input.write_own(source)
        report.quarantine(config, source.bad)
        failure = _train(config, source, s)
        if not failure:
            subject.write(config, source, s)
    report.quarantine(config, [])
    print(f"quarantined: {outputs.said_of_quarantine(config.output) or 'none'}")
    last = report.last(config)
    if failure or not last.endswith(f"{config.steps:09d}"):
        why = failure or "training ended early"
        print(f"error: {why}; last good checkpoint: {last}", file=sys.stderr)
        return 1
    report.publish(config, source, last)
    print(f"saved {config.output}")
    return 0


def _train(config: Config, source: Source, s: Session) -> str | None:
    """Train on the cluster; what went wrong, in one line."""
    from noiseweave.jobs.train import input as train_input
    from noiseweave.jobs.train.loop import loop
    from noiseweave.jobs.train.task import Task
    from noiseweave.jobs.training.watch import train

    if config.model.vae is not None:
        source = train_input.latents(config, source, s)
    task = Task(config=config, source=source, threads=s.threads, quarantine=state(config, "bad"))
    return train(loop, task, partial(state, config), config, s)


def _check(config: Config, s: Session) -> None:
    """Raise ValueError for what the config asks and these workers cannot do."""
    check_workers(config.precision, config.optimizer, s)
    check(
        config.streams % s.workers == 0, "data.streams", config.streams, f"a multiple of {s.workers} workers"
    )
    if s.workers * config.accumulate > config.batch:
        raise ValueError(f"batch={config.batch}: {s.workers} workers x {config.accumulate} parts at least")
