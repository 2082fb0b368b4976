"""``noiseweave sample``: a trained model -> pictures, as shards or as a folder, with their lineage.

Each picture's chance comes from (seed, its key), so picture i is the same for any number of pictures, workers
or rows in a network call.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace

from noiseweave.engine.identity import identity_of
from noiseweave.engine.records import JsonMapping
from noiseweave.jobs.reading import class_names, running
from noiseweave.jobs.sample.config import OWNED, Config
from noiseweave.jobs.sample.task import Task


def run(config: Config) -> int:
    """Do the job. Returns 0, or 1 when units failed or nothing was written.

    Raises:
        ValueError: what a user can put right, in one line.
    """
    from noiseweave.cluster import ledger, lock, storage
    from noiseweave.cluster.session import session
    from noiseweave.jobs.sample import draw, plan, sheets

    output = storage.absolute(config.output)
    model = running.with_precision(config.model, config.cluster, output, config.overwrite)
    config = replace(config, model=model)
    task = plan.plan(config, output)
    if not config.draws:
        with lock.held(output):
            sheets.write(task)
        return 0
    # first, so that a folder that belongs to somebody else gets no sheet either
    with ledger.held_run(output, identity(task), config.overwrite, OWNED) as book:
        class_names.write(output, task.names)
        sheets.write(task)
        with session(config.cluster) as s:
            outcome = draw.run(task, book, s)
        return draw.finish(task, book, outcome)


def identity(task: Task) -> JsonMapping:
    """What the output depends on."""
    # the files that the prompts came from may have changed
    said = json.dumps([asdict(prompt) for prompt, _ in task.words])
    return identity_of(
        task.config,
        job="sample",
        model_hash=task.model_hash,
        total=task.total,
        runs=task.runs,
        class_names=task.names,
        words=hashlib.sha256(said.encode()).hexdigest()[:16],
    )
