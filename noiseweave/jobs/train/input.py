"""What train reads: the tables of the shards, one picture made into a shard, latents made once."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

from noiseweave.cluster import shards, storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Committed
from noiseweave.cluster.streams import Shard, table
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine.checks import check
from noiseweave.engine.records import Json, Location, Quarantined
from noiseweave.jobs.reading import shard_pictures
from noiseweave.jobs.reading.class_names import carried_classes
from noiseweave.jobs.reading.shard_pictures import ShardPictures
from noiseweave.jobs.train import start
from noiseweave.jobs.train.config import Config, state
from noiseweave.jobs.train.task import Source

LATENT = ("npy",)


def survey(config: Config) -> Source:
    """The tables of all shards.

    Raises:
        ValueError: no picture, or labels that the model has no class for.
    """
    if config.single:
        return _single(config)
    found = shards.find(config.input)
    tables, bad, labels = _tables(found, shards.PICTURES)
    names = tuple(carried_classes(config.input, found))
    source = _source(config, tables, bad, labels)
    return replace(source, names=names, identity={**source.identity, "class_names": names})


def _source(
    config: Config, tables: tuple[Shard, ...], bad: list[Quarantined], labels: Counter[int | None]
) -> Source:
    from noiseweave.engine.networks import base_models

    classes = _classes(config, labels)
    content = hashlib.sha256(b"".join(part for t in tables for part in t.parts)).hexdigest()[:16]
    identity: Json = {"samples": sum(t.count for t in tables), "classes": classes, "content": content}
    source = Source(shards=tables, payload=shards.PICTURES, classes=classes, bad=bad)
    if config.init is not None:
        identity["init_hash"] = start.fingerprint(config)
    elif config.model.vae is not None:
        start.build(config, source)  # VAE, latents and network fit each other, or this says what does not
        identity["model.vae_hash"] = base_models.encoder_hash(config.model.vae)
    return replace(source, identity=identity)


def _tables(
    found: list[str], payload: tuple[str, ...]
) -> tuple[tuple[Shard, ...], list[Quarantined], Counter[int | None]]:
    with ThreadPoolExecutor(16) as pool:
        parts = list(pool.map(partial(table, payload=payload), found))
    if not sum(shard.count for shard, _, _ in parts):
        raise ValueError(f"input: no pictures in {len(found)} shards")
    labels: Counter[int | None] = Counter()
    for _, _, counts in parts:
        labels.update(counts)
    return tuple(s for s, _, _ in parts if s.count), [b for _, bad, _ in parts for b in bad], labels


def _single(config: Config) -> Source:
    """One picture as a shard that will lie in the run's own folder."""
    path = storage.absolute(config.input)
    if not storage.exists(path):
        raise ValueError(f"input {config.input!r}: no such picture")
    _, extension = os.path.splitext(os.path.basename(path))
    picture, target = storage.read(path), state(config, "input", "one.tar")
    packed = shards.pack([("one", {extension[1:].lower(): picture})])
    with tempfile.TemporaryDirectory() as temporary:
        trial = storage.join(temporary, "one.tar")
        storage.write(trial, packed)
        (table_of_one,), bad, labels = _tables([trial], shards.PICTURES)
    source = _source(config, (replace(table_of_one, url=target),), bad, labels)
    identity = {**source.identity, "content": hashlib.sha256(picture).hexdigest()[:16]}
    return replace(source, identity=identity, own={target: packed})


def write_own(source: Source) -> Source:
    """Write the shards that are the run's own."""
    for url, packed in source.own.items():
        storage.write(url, packed)
    return replace(source, own={})


def _classes(config: Config, labels: Counter[int | None]) -> int:
    """How many classes the network is conditioned on."""
    highest = max((n for n in labels if n is not None), default=-1)
    if config.model.classes == -1:
        check(highest >= 0, "model.classes", -1, "0, as no picture has a label")
        return highest + 1
    ok = config.model.classes == 0 or highest < config.model.classes
    check(ok, "model.classes", config.model.classes, f"more than {highest}, the highest label in the input")
    return config.model.classes


# latents: a shard of pictures -> a shard of their latents, once for all epochs


def latents(config: Config, source: Source, s: Session) -> Source:
    """Encode all shards that are not encoded yet, by the batch flow.

    Raises:
        ValueError: units failed; the first error is named.
    """
    from noiseweave.cluster import pipeline, stages

    book = Ledger(output=config.output)
    phase = stages.Phase(
        name="latents",
        fetch=partial(_fetch, config),
        make_compute=partial(_make_encode, config, s.gpus_per_worker > 0),
        commit=partial(_commit, config),
        noun="latents",
        size=stages.length_of_first,
    )
    plan = Plan.of([shard.url for shard in source.shards])
    outcome = pipeline.run(plan, phase, book, s)
    if outcome.failed:
        unit, error = next(iter(outcome.failed.items()))
        raise ValueError(f"latents of {len(outcome.failed)} shards failed; {unit}: {error}")
    from noiseweave.jobs.train import report

    report.quarantine(config, [Quarantined(**b) for r in book.records("latents") for b in r["bad"]])
    made = [_latent_shard(config, i) for i in range(len(source.shards))]
    tables, _, _ = _tables([m for m in made if storage.exists(m)], LATENT)
    return Source(shards=tables, payload=LATENT, classes=source.classes)


def _latent_shard(config: Config, index: int) -> str:
    return state(config, "latents", f"{index:06d}.tar")


def _fetch(config: Config, unit: Unit) -> ShardPictures:
    """The pictures of a shard, uint8 [N, size, size, 3]."""
    return shard_pictures.read_shard(unit.payload, config.data.size, 3)


def _make_encode(config: Config, gpu: bool) -> Callable[[ShardPictures], ShardPictures]:
    import torch

    from noiseweave.engine import spans
    from noiseweave.engine.networks import base_models
    from noiseweave.engine.networks.latents import encode, to_pixels
    from noiseweave.engine.networks.micro_batch import MicroBatch

    assert config.model.vae is not None
    vae = base_models.load_encoder(config.model.vae, "cuda" if gpu else "cpu")
    parts = MicroBatch(partial(encode, vae), 16, "cpu")

    def compute(data: ShardPictures) -> ShardPictures:
        locations, image_NHWC, bad = data
        if not locations:
            return locations, np.zeros(0, np.float16), bad
        x = to_pixels(image_NHWC)
        views = [x, x.flip(3)] if config.data.flip else [x]
        z_NVCHW = torch.stack([parts(view).cpu() for view in spans.steps(views)], 1)
        return locations, z_NVCHW.half().numpy(), bad

    return compute


def _commit(config: Config, unit: Unit, result: ShardPictures) -> Committed:
    locations, z_NVCHW, bad = result
    if locations:
        rows = [(p.key, _files(p, z)) for p, z in zip(locations, z_NVCHW, strict=True)]
        storage.write(_latent_shard(config, unit.index), shards.pack(rows))
    return UnitReport(id=unit.id, produced=len(locations)), bad


def _files(place: Location, z_VCHW: np.ndarray) -> dict[str, bytes]:
    buffer = io.BytesIO()
    np.save(buffer, z_VCHW, allow_pickle=False)
    files = {"npy": buffer.getvalue()}
    if place.label is not None:
        files["cls"] = str(place.label).encode()
    return files
