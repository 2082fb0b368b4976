"""What the frozen encoders make of pictures and words, written once by the batch flow and read by every epoch and run.

    <cache>/latents/<what they depend on>/<unit>.tar   <id>.z.npy float16 [V, C, h, w], and where there are
                                                       masks <id>.around.npy, <id>.hole.npy (np.packbits)
    <cache>/words/<text encoders' hash>/<unit>.tar     <id>.prompt_embeds.npy float16 [L, D], ...

An id is a hash of all that its arrays depend on, of the pictures' and masks' bytes above all: what has changed is
encoded anew, what has not is found, whatever run wrote it. V views, as in lora_data.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from noiseweave.cluster import pipeline, shards, stages, storage
from noiseweave.cluster.arrays import npy
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Committed
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine import spans
from noiseweave.engine.lora.pipelines import ENCODERS, NETWORKS, open_pipeline, open_readers
from noiseweave.engine.records import Quarantined
from noiseweave.jobs.lora.config import Config, state
from noiseweave.jobs.lora.input import Item, Source, unseen
from noiseweave.jobs.reading.places import Place
from noiseweave.jobs.reading.shard_pictures import InputChanged

if TYPE_CHECKING:
    from torch import Tensor

EACH = 16  # pictures in a unit
TEXTS = 256  # captions in a unit


Views = tuple[Item, np.ndarray, np.ndarray | None]
"""A picture, its views, and the views of its hole where the model sees holes."""
Encoded = tuple[list[tuple[Item, dict[str, np.ndarray]]], list[Quarantined]]
Spoken = list[tuple[str, dict[str, np.ndarray]]]


def folder(config: Config) -> str | None:
    """Where the cache lies, or None for --cache off."""
    if config.cache == "off":
        return None
    return state(config, "cache") if config.cache is None else storage.absolute(config.cache)


def filled(config: Config, source: Source, s: Session) -> Source:
    """Encode all that the cache lacks.

    Returns:
        The source with the places of all arrays, and without what could not be encoded.

    Raises:
        ValueError: units failed, one line; or nothing is left.
    """
    where = folder(config)
    if where is None:
        return _checked(config, source)
    found, bad = _latents(config, source, storage.join(where, "latents", _space(config, source)), s)
    source = _without(source, set(found), bad)
    if config.lora.text_encoder:
        return replace(source, encoded=found)
    spoken = _words(config, source, storage.join(where, "words", source.model.words), s)
    return replace(source, encoded=found, spoken=spoken)


def _without(source: Source, good: set[str], bad: Sequence[Quarantined]) -> Source:
    """The source without the pictures that could not be encoded."""
    items, held, prior = (
        tuple(i for i in some if i.key in good) for some in (source.items, source.held, source.prior)
    )
    if not items or (source.prior and not prior):
        first = f"{bad[0].key}: {bad[0].reason} ({bad[0].detail})" if bad else "nothing was encoded"
        raise ValueError(f"no picture that can be read is left; the first: {first}")
    return replace(source, bad=(*source.bad, *bad), items=items, held=held, prior=prior)


def _checked(config: Config, source: Source) -> Source:
    """Without a cache: each picture decoded once, so that training meets no bad one."""
    from noiseweave.jobs.lora.batches import pixels

    def look(item: Item) -> Quarantined | None:
        try:
            pixels(config, item, [0])
        except InputChanged as e:
            raise ValueError(str(e)) from None
        except ValueError as e:
            return _bad(item, e)
        return None

    with ThreadPoolExecutor(16) as pool:
        bad = [b for b in pool.map(look, source.all) if b is not None]
    wrong = {b.key for b in bad}
    return _without(source, {i.key for i in source.all if i.key not in wrong}, bad)


def _bad(item: Item, error: ValueError) -> Quarantined:
    return Quarantined.of(
        error, shard=item.picture.path if item.picture.size is not None else "", key=item.key
    )


# what there is


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _space(config: Config, source: Source) -> str:
    """A hash of what all latents depend on, beside the pictures."""
    d = config.data
    chance = (config.seed, d.crops, d.zoom) if d.crops > 1 else None
    return _hash("latents 1", source.model.encoder, source.masked, d.flip, d.max_pixels, chance)


def id_of(config: Config, item: Item) -> str:
    """A unit's id."""
    return _hash(
        item.content, item.bucket, item.mask and item.mode, item.key if config.data.crops > 1 else ""
    )


def there(where: str) -> dict[str, dict[str, Place]]:
    """Everything in a folder of the cache: id -> array's name -> its bytes."""
    urls = [storage.join(where, n) for n in storage.names_in(where) if n.endswith(".tar")]
    found: dict[str, dict[str, Place]] = {}
    with ThreadPoolExecutor(16) as pool:
        for url, (entries, _) in zip(urls, pool.map(shards.index, urls), strict=True):
            for entry in entries:
                found[entry.key] = {
                    name.removesuffix(".npy"): Place(path=url, offset=m.offset, size=m.size)
                    for name, m in entry.members.items()
                }
    return found


def _fill(where: str, name: str, runs: Sequence[tuple[str, Any]], phase: stages.Phase, s: Session) -> None:
    """Do the units (id, payload) by the batch flow."""
    book = Ledger(output=where)
    for unit, _ in runs:  # it is asked for, so what it wrote is gone
        storage.remove(book.path("done", name, f"{unit}.json"))
    outcome = pipeline.run(Plan.of([data for _, data in runs], [name for name, _ in runs]), phase, book, s)
    if outcome.failed:
        unit, error = next(iter(outcome.failed.items()))
        raise ValueError(f"cache of {name}: {len(outcome.failed)} units failed; {unit}: {error}")


# latents


def _latents(
    config: Config, source: Source, where: str, s: Session
) -> tuple[dict[str, dict[str, Place]], list[Quarantined]]:
    """The places of each picture's arrays by its key, and the pictures that have none."""
    known = there(where)
    missing = {id_of(config, i): i for i in source.all if id_of(config, i) not in known}
    ordered = sorted(missing.values(), key=lambda i: (i.bucket, i.key))
    runs = []
    for bucket in sorted({i.bucket for i in ordered}):
        alike = [i for i in ordered if i.bucket == bucket]
        for start in range(0, len(alike), EACH):
            items = tuple(alike[start : start + EACH])
            runs.append((_hash([id_of(config, i) for i in items]), items))
    if runs:
        phase = stages.Phase(
            name="latents",
            fetch=partial(_fetch, config, source.folders),
            make_compute=partial(_make_encode, config.model.name, s.gpus_per_worker > 0),
            commit=partial(_commit, where, config),
            noun="latents",
            size=stages.length_of_first,
        )
        _fill(where, "latents", runs, phase, s)
        known = there(where)
    found = {i.key: known[id_of(config, i)] for i in source.all if id_of(config, i) in known}
    return found, _lost(where, [i for i in source.all if i.key not in found])


def _lost(where: str, items: Sequence[Item]) -> list[Quarantined]:
    if not items:
        return []
    book = Ledger(output=where)
    why = {b["key"]: Quarantined(**b) for record in book.records("latents") for b in record["bad"]}
    return [why.get(i.key) or Quarantined(shard="", key=i.key, reason="not_encoded") for i in items]


def here() -> str:
    """What this node is called."""
    return socket.gethostname()


def check_seen(paths: Iterable[str]) -> None:
    """Raise ValueError, one line, where this node does not see a folder."""
    path = unseen(paths)
    if path is not None:
        raise ValueError(f"{path!r} is not to be seen on node {here()}; every node must reach it")


def _fetch(config: Config, seen: Sequence[str], unit: Unit) -> tuple[list[Views], list[Quarantined]]:
    """The views of a run of pictures of one size, and what was bad."""
    from noiseweave.jobs.lora.batches import pixels, views

    check_seen(seen)
    good, bad = [], []
    for item in unit.payload:
        try:
            good.append((item, *pixels(config, item, range(views(config)))))
        except ValueError as e:
            bad.append(_bad(item, e))
    return good, bad


def _make_encode(name: str, gpu: bool) -> Callable[[tuple[list[Views], list[Quarantined]]], Encoded]:
    from noiseweave.jobs.lora.batches import Encoders

    encoders = Encoders(open_pipeline(name, "cuda" if gpu else "cpu", *NETWORKS, *ENCODERS))

    def compute(data: tuple[list[Views], list[Quarantined]]) -> Encoded:
        good, bad = data
        made = []
        for item, image_VHWC, hole_VHW in spans.steps(good):
            arrays = {"z": _half(encoders.latents(image_VHWC))}
            if hole_VHW is not None:
                arrays["around"] = _half(encoders.around(image_VHWC, hole_VHW))
                arrays["hole"] = np.packbits(hole_VHW, axis=-1)
            made.append((item, arrays))
        return made, bad

    return compute


def truncated_captions(config: Config, source: Source) -> tuple[str, ...]:
    """The ends of captions that are too long for the model's text encoder, which no step learns from."""
    from noiseweave.engine.networks import text_encoding
    from noiseweave.engine.networks.prompts import Prompt

    pipe = open_pipeline(config.model.name, "cpu", "vae", *NETWORKS, *ENCODERS, "safety_checker")
    texts = sorted({item.words for item in source.all})
    return tuple(text_encoding.truncated_ends(pipe, [Prompt(text=t, key="") for t in texts]).values())


def _half(x: Tensor) -> np.ndarray:
    return x.cpu().half().numpy()


def _packed(arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    return {f"{name}.npy": npy(array) for name, array in arrays.items()}


def _commit(where: str, config: Config, unit: Unit, result: Encoded) -> Committed:
    made, bad = result
    finite = [(item, arrays) for item, arrays in made if np.isfinite(arrays["z"]).all()]
    lost = [item for item, arrays in made if not np.isfinite(arrays["z"]).all()]
    bad = [*bad, *(_bad(i, ValueError("not_finite: its latents")) for i in lost)]
    if finite:
        rows = [(id_of(config, item), _packed(arrays)) for item, arrays in finite]
        storage.write(storage.join(where, f"{unit.id}.tar"), shards.pack(rows))
    return UnitReport(id=unit.id, produced=len(finite)), bad


# words


def _words(config: Config, source: Source, where: str, s: Session) -> dict[str, dict[str, Place]]:
    """The places of each caption's embeddings."""
    texts = sorted({i.words for i in source.all} | {""})
    known = there(where)
    missing = [t for t in texts if _hash(t) not in known]
    if missing:
        parts = [tuple(missing[i : i + TEXTS]) for i in range(0, len(missing), TEXTS)]
        phase = stages.Phase(
            name="words",
            fetch=stages.payload,
            noun="captions",
            size=len,
            commit=partial(_commit_words, where),
            make_compute=partial(_make_say, config.model.name, s.gpus_per_worker > 0),
        )
        _fill(where, "words", [(_hash(part), part) for part in parts], phase, s)
        known = there(where)
    return {text: known[_hash(text)] for text in texts}


def _make_say(name: str, gpu: bool) -> Callable[[Sequence[str]], Spoken]:
    from noiseweave.jobs.lora.batches import Encoders

    encoders = Encoders(open_readers(name, "cuda" if gpu else "cpu"))
    return lambda texts: [
        (_hash(t), {n: _half(x) for n, x in encoders.said(t).items()}) for t in spans.steps(texts)
    ]


def _commit_words(where: str, unit: Unit, result: Spoken) -> Committed:
    rows = [(key, _packed(arrays)) for key, arrays in result]
    storage.write(storage.join(where, f"{unit.id}.tar"), shards.pack(rows))
    return UnitReport(id=unit.id, produced=len(rows)), []
