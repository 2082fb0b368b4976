"""The ``augment`` job: shards -> features -> similar pairs -> groups -> fused, labelled shards.

A folder of pictures becomes shards first (packing.py).

Three flows with a barrier between them: embed (a shard), pair (a block of rows), generate (a group). With
``pairing.scope: window`` one flow does all three for a run of consecutive shards (window.py).
"""

from __future__ import annotations

from dataclasses import replace

from noiseweave.engine.identity import identity_of
from noiseweave.engine.networks import loading
from noiseweave.engine.records import Json
from noiseweave.jobs.augment import originals, packing
from noiseweave.jobs.augment.config import Config
from noiseweave.jobs.augment.packing import Folder
from noiseweave.jobs.augment.reference import FORGOTTEN, common_root
from noiseweave.jobs.augment.task import Task
from noiseweave.jobs.reading import class_names, looks, loras, running


def run(config: Config) -> int:
    """Do the job. Returns 0, or 1 when units failed.

    Raises:
        ValueError: what a user can put right, in one line.
    """
    from noiseweave.cluster import ledger, storage
    from noiseweave.cluster.session import session
    from noiseweave.jobs.augment import dataset, report, window

    output = storage.absolute(config.output)
    source = None if config.follow else packing.look(config)
    found = [] if config.follow or source else _find(config)
    task = _task(config, output, found, source)
    held = ledger.held_run(output, identity(task, found, source), config.overwrite, report.OWNED)
    with held as book, session(config.cluster) as s:
        if source:
            found = packing.packed(source, book)
            names = tuple(class_names.carried_classes(config.input, found))
            task = replace(task, root=common_root(found), classes=names)
        if found:
            seen = looks.look_at_shards(found, config.max_pixels)
            looks.warn(looks.warning(seen, f"model {config.model.name}", task.size, task.channels))
        class_names.write(output, task.classes)
        path = book.path(FORGOTTEN)
        task = replace(task, forgotten=frozenset(storage.read_json(path) if storage.exists(path) else ()))
        phases = window if config.pairing.scope == "window" else dataset
        outcomes = phases.run(task, found, book, s)
        if config.samples.copy_original and not report.failed(outcomes):
            outcomes["copy"] = originals.copy_original(task, found, book, s)
        return report.finish(task, book, outcomes, s)


def _find(config: Config) -> list[str]:
    from noiseweave.cluster import shards

    return shards.find(config.input)


def _task(config: Config, output: str, found: list[str], source: Folder | None = None) -> Task:
    from noiseweave.cluster import storage
    from noiseweave.engine.features import choice, spaces

    config = replace(config, model=loras.settled(config.model))
    model = loading.describe(config.model.name, config.size)
    inversion = loading.settled_chain(model, config.inversion)
    looks.warn(loading.long_chain(model, inversion))
    features = choice.settled(config.features, model)
    spaces.check_here(features)
    if features != config.features:
        print(f"features: {features.name}, which pictures are compared in (features.name auto)", flush=True)
    photos = choice.of_photos(model.channels, model.side)
    gate = photos if config.gate is None else config.gate
    quality = config.quality.settled(photos)
    prompt = loading.settled_prompt(model, config.prompt)
    chosen = running.with_precision(config.model, config.cluster, output, config.overwrite)
    config = replace(config, model=chosen)
    config = replace(
        config, inversion=inversion, features=features, prompt=prompt, gate=gate, quality=quality
    )
    root = common_root(found) if found else storage.absolute(config.input).rstrip("/") + "/"
    return Task(
        config=config,
        output=output,
        channels=model.channels,
        size=model.side,
        root=root,
        feature_side=spaces.side(features, config.model.name, config.size),
        model_hash=loading.fingerprint(model, config.model),
        conditioning=model.conditioning,
        classes=() if source else tuple(class_names.carried_classes(config.input, found or [root])),
    )


def identity(task: Task, found: list[str], source: Folder | None = None) -> Json:
    """What the output depends on: the config, the model's weights, the input and its class names."""
    from noiseweave.cluster import shards

    if source:
        read: Json = {"pictures": source.pictures, "content": source.content}
    elif found:
        content = shards.digest(found, task.root, task.config.skip_failed)
        read = {"shards": len(found), "content": content}
    else:
        read = {"follow": task.config.input}
    known = {"job": "augment", "input": read, "model_hash": task.model_hash, "class_names": task.classes}
    return identity_of(task.config, **known)
