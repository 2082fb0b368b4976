"""The ``augment`` job: shards -> features -> similar pairs -> groups -> fused, labelled shards.

A folder of pictures becomes shards first (packing.py).

Three flows with a barrier between them: embed (a shard), pair (a block of rows), generate (a group). With
``pairing.scope: window`` one flow does all three for a run of consecutive shards (window.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from noiseweave.engine.identity import identity_of
from noiseweave.engine.records import Json
from noiseweave.jobs.augment import packing
from noiseweave.jobs.augment.config import Config
from noiseweave.jobs.augment.packing import Folder
from noiseweave.jobs.augment.reference import FORGOTTEN
from noiseweave.jobs.augment.task import Task
from noiseweave.jobs.reading import class_names, looks, loras, running
from noiseweave.jobs.reading.places import common_root


def run(config: Config) -> int:
    """Do the job. Returns 0, or 1 when units failed.

    Raises:
        ValueError: what a user can put right, in one line.
    """
    from noiseweave.cluster import ledger, storage
    from noiseweave.cluster.session import session

    output = storage.absolute(config.output)
    source = None if config.follow else packing.look(config)
    found = [] if config.follow or source else _find("input", config.input)
    unlabelled = _pool(config)
    from noiseweave.jobs.augment import dataset, originals, report, subject, window  # torch: seconds

    task = _task(config, output, found, source)
    subject.known(config.model.name)  # refused now where it is damaged
    task = replace(task, pool_root=_root_of(unlabelled))
    if source is None:
        _check_apart(task, found, unlabelled.found)
    held = ledger.held_run(output, identity(task, found, source, unlabelled), config.overwrite, report.OWNED)
    with held as book, session(config.cluster) as s:
        if source:
            found = packing.packed(source, book)
            names = tuple(class_names.carried_classes(config.input, found))
            task = replace(task, root=common_root(found), classes=names)
        if unlabelled.folder:
            unlabelled = replace(unlabelled, found=packing.packed(unlabelled.folder, book))
            task = replace(task, pool_root=_root_of(unlabelled))
        if found:
            seen = looks.look_at_shards(found, config.max_pixels)
            looks.warn(looks.warning(seen, f"model {config.model.name}", task.size, task.channels))
        looks.warn(class_names.unknown(task.classes, task.rows, task.known, task.known_classes))
        class_names.write(output, task.classes)
        path = book.path(FORGOTTEN)
        task = replace(task, forgotten=frozenset(storage.read_json(path) if storage.exists(path) else ()))
        if config.pairing.scope == "window":
            outcomes = window.run(task, found, book, s)
        else:
            outcomes = dataset.run(task, found, book, s, unlabelled.found)
        every = [*found, *unlabelled.found]
        for place in originals.wanted(config.samples):
            if not report.failed(outcomes):
                outcomes[place.phase] = originals.copy(task, place, every, book, s)
        return report.finish(task, book, outcomes, s)


@dataclass(frozen=True, kw_only=True)
class Unlabelled:
    """The pool: its shards, or the folder of pictures that they will be made of; neither without one."""

    found: list[str] = field(default_factory=list)
    folder: Folder | None = None


def _pool(config: Config) -> Unlabelled:
    if config.pool is None:
        return Unlabelled()
    folder = packing.look(config, "pool")
    return Unlabelled(folder=folder, found=[] if folder else _find("pool", config.pool))


def _root_of(unlabelled: Unlabelled) -> str:
    return common_root(unlabelled.found) if unlabelled.found else ""


def _check_apart(task: Task, found: list[str], unlabelled: list[str]) -> None:
    """Raise ValueError where a shard of the pool is one of the input, or is called as one."""
    names = {task.name_of(shard): shard for shard in found}
    same = next((shard for shard in unlabelled if task.name_of(shard) in names), None)
    if same is not None:
        other = names[task.name_of(same)]
        raise ValueError(f"pool: its shard {same} has the name of {other} of the input; give another folder")


def _find(name: str, given: str) -> list[str]:
    from noiseweave.cluster import shards

    try:
        return shards.find(given)
    except ValueError as e:
        raise ValueError(str(e) if name == "input" else f"{name}: {e}") from None


def _task(config: Config, output: str, found: list[str], source: Folder | None = None) -> Task:
    from noiseweave.cluster import storage
    from noiseweave.engine.features import choice, spaces
    from noiseweave.engine.networks import loading

    config = replace(config, model=loras.settled(config.model))
    model = loading.describe(config.model.name, config.size)
    inversion = loading.settled_chain(model, config.inversion)
    features = choice.settled(config.features, model)
    spaces.check_here(features)
    if features != config.features:
        print(f"features: {features.name}, which pictures are compared in (features.name auto)", flush=True)
    photos = choice.of_photos(model.channels, model.side)
    gate = photos if config.gate is None else config.gate
    quality = config.quality.settled(photos, features.name)
    prompt = loading.settled_prompt(model, config.prompt)
    looks.warn(loading.long_chain(model, inversion))
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
        known=tuple(class_names.classes_in(str(model.folder))) if model.classes else (),
        known_classes=model.classes,
    )


def identity(
    task: Task, found: list[str], source: Folder | None = None, unlabelled: Unlabelled | None = None
) -> Json:
    """What the output depends on: the config, the model's weights, the input and its class names, the pool."""
    from noiseweave.cluster import shards

    if source:
        read: Json = {"pictures": source.pictures, "content": source.content}
    elif found:
        content = shards.digest(found, task.root, task.config.skip_failed)
        read = {"shards": len(found), "content": content}
    else:
        read = {"follow": task.config.input}
    known = {"job": "augment", "input": read, "model_hash": task.model_hash, "class_names": task.classes}
    known["model_classes"] = task.known
    if unlabelled and unlabelled.folder:
        folder = unlabelled.folder
        known["pool"] = {"pictures": folder.pictures, "content": folder.content}
    elif unlabelled and unlabelled.found:
        content = shards.digest(unlabelled.found, task.pool_root, task.config.skip_failed)
        known["pool"] = {"shards": len(unlabelled.found), "content": content}
    return identity_of(task.config, **known)
