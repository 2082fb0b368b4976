"""``noiseweave lora``: pictures, with or without masks -> LoRA weights of a text-to-image model.

The result depends on everything here but ``cluster`` and ``cache``: each sample's chance comes from (seed, step, place
in the global batch), so one worker and many see the same.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from noiseweave.engine.identity import identity_of
from noiseweave.engine.records import Json
from noiseweave.jobs.lora.config import OWNED, Config, state

if TYPE_CHECKING:
    from noiseweave.cluster.session import Session
    from noiseweave.jobs.lora.input import Source


STATE = ("_run/checkpoints", "_run/log.jsonl", "_run/tensorboard")
"""What of ``_run`` goes with ``overwrite``; the cache stays."""


def run(config: Config) -> int:
    """Train, or go on training, or say that it is done: 0 when the weights are there, 1 when training failed.

    Raises:
        ValueError: what a user can put right, in one line.
    """
    from noiseweave.cluster import ledger, lock, storage
    from noiseweave.cluster.session import session
    from noiseweave.jobs.lora import cache as lora_cache
    from noiseweave.jobs.lora import input as lora_input
    from noiseweave.jobs.lora import report

    config = located(config)
    source = lora_input.gather(config)
    with lock.held(config.output), session(config.cluster) as s:
        check_cluster(config, s)
        task_identity = identity(config, source, s.workers)
        known = ledger.check_run(config.output, task_identity, config.overwrite, OWNED)
        if known and storage.exists(storage.join(config.output, report.REPORT)):
            print(f"{config.output}: finished already ({config.steps} steps)")
            return 0
        print(lora_input.summary(config, source, s.workers), flush=True)
        source = replace(source, truncated=lora_cache.truncated_captions(config, source))
        report.warn_of_truncated(source.truncated)
        if not known:
            ledger.claim_run(config.output, task_identity, config.overwrite, OWNED, STATE)
        source = lora_cache.filled(config, source, s)
        failure = _train(config, source, s)
        return report.finish(config, source, failure)


def located(config: Config) -> Config:
    """The config with absolute paths, for workers run in other folders."""
    from noiseweave.cluster import storage

    name = config.model.name
    return replace(
        config,
        input=storage.absolute(config.input),
        output=storage.absolute(config.output),
        prior=None if config.prior is None else storage.absolute(config.prior),
        model=replace(config.model, name=storage.absolute(name) if storage.is_folder(name) else name),
    )


def identity(config: Config, source: Source, workers: int) -> Json:
    """What the weights depend on."""
    global_batch = config.batch * config.accumulate * workers
    return identity_of(config, job="lora", global_batch=global_batch, **source.identity)


def check_cluster(config: Config, s: Session) -> None:
    """Raise ValueError for what the config asks and these workers cannot do."""
    from noiseweave.jobs.training.workers import check_workers

    check_workers(config.precision, config.optimizer, s)


def _train(config: Config, source: Source, s: Session) -> str | None:
    """Train on the cluster; what went wrong, in one line."""
    from noiseweave.jobs.lora.loop import loop
    from noiseweave.jobs.lora.task import Task
    from noiseweave.jobs.training.watch import train

    task = Task(config=config, source=source, threads=s.threads, workers=s.workers)
    return train(loop, task, partial(state, config), config, s)
