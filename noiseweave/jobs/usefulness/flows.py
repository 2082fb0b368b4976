"""The flows of ``evaluate usefulness``: encode, prior, see, guess, tune, make, score. Only score reads the test set."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from noiseweave.cluster import pipeline, stages, storage
from noiseweave.cluster.arrays import array, npy
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Committed
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine.records import Json, JsonMapping, Quarantined
from noiseweave.engine.usefulness import comparison, generators, guesses, making
from noiseweave.engine.usefulness.data import Added, Pictures, Setup, few_of
from noiseweave.engine.usefulness.recipes import Method
from noiseweave.jobs.reading import shard_pictures
from noiseweave.jobs.usefulness.config import Config, made_tag
from noiseweave.jobs.usefulness.task import Task

SEEN = 512  # pictures of the pool that one unit takes features of
DAY = 86400.0  # seconds: a prior is one unit, and no part of it ends before the whole


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a unit of a flow came to.

    Attributes:
        files: name in the run's folder -> bytes.
        extra: numbers for the report.
        rejected: verdict -> pictures that the gate did not let pass.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    extra: Mapping[str, float] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)


def load(config: Config, sides: Mapping[str, Sequence[str]]) -> tuple[Json, list[Quarantined]]:
    """Both sides in memory, with keys; what was bad.

    Raises:
        ValueError: a side has no labelled picture, or a picture lies on both.
    """
    data: Json = {}
    bad: list[Quarantined] = []
    seen: dict[str, set[bytes]] = {}
    for side, found in sides.items():
        read = [shard_pictures.read_shard(s, config.size, config.channels, config.max_pixels) for s in found]
        places = [p for where, _, _ in read for p in where]
        bad += [b for _, _, worse in read for b in worse]
        image_NHWC = np.concatenate([x for _, x, _ in read])
        label_N = np.array([-1 if p.label is None else p.label for p in places], np.int64)
        if side == "test":
            image_NHWC, label_N = image_NHWC[label_N >= 0], label_N[label_N >= 0]
        if not (label_N >= 0).any():
            raise ValueError(f"{side}: no labelled picture in it")
        data[side] = Pictures(image_NHWC=image_NHWC, label_N=label_N)
        data[f"{side}_keys"] = [p.key for p in places]
        seen[side] = {hashlib.sha256(x.tobytes()).digest() for x in image_NHWC}
    both = seen["input"] & seen["test"]
    if both:
        raise ValueError(f"test: {len(both)} of its pictures are in input too, pixel for pixel")
    return data, bad


def choose(config: Config, data: JsonMapping, per_class: int, subset: int) -> Pictures:
    """The few of a subset."""
    pool = data["input"]
    rows = few_of(pool.label_N, data["input_keys"], per_class, config.seed + subset)
    return Pictures(image_NHWC=pool.image_NHWC[rows], label_N=pool.label_N[rows])


# the flows


def run(task: Task, book: Ledger, s: Session) -> dict[str, Outcome]:
    """Each flow after the one before; none after one that failed."""
    config = task.config
    steps: list[tuple[str, Sequence[tuple]]] = []
    if task.drawing and config.protocol == "prior":
        if config.generator.vae is not None:
            steps.append(("encode", [(start,) for start in _starts(task)]))
        steps.append(("prior", [("prior",)]))
    places = sorted(task.few)
    if task.guessing:
        if config.guess.features is not None:
            steps.append(("see", [(start,) for start in _starts(task)]))
        steps.append(("guess", places))
    if task.drawing:
        steps.append(("tune", places))
    steps.append(("make", [(*place, tagged) for place in places for tagged in task.making]))
    steps.append(
        (
            "score",
            [
                task.scored(*place, name, classifier, seed)
                for place in places
                for name in config.methods
                for classifier in config.classifiers
                for seed in range(config.seeds)
            ],
        )
    )
    outcomes: dict[str, Outcome] = {}
    for name, units in steps:
        if units and not any(o.failed for o in outcomes.values()):
            outcomes[name] = _flow(name, units, task, book, s)
    return outcomes


def _flow(name: str, units: Sequence[tuple], task: Task, book: Ledger, s: Session) -> Outcome:
    phase = stages.Phase(
        name=name,
        fetch=stages.payload,
        make_compute=partial(_maker, name, task, book),
        commit=partial(_commit, book, name),
        noun="classifiers" if name == "score" else "sets",
        patience=DAY,
    )
    return pipeline.run(Plan.of(units, [id_of(unit) for unit in units]), phase, book, s)


def id_of(unit: tuple) -> str:
    """The name of a unit in the ledger."""
    return "-".join(map(str, unit))


def _maker(name: str, task: Task, book: Ledger) -> Callable[[tuple], Done]:
    from noiseweave.engine.networks.tuning import pick_device

    return partial(COMPUTE[name], task, book, pick_device(task.config.cluster.gpus_per_worker))


def _setup(task: Task, device: str) -> Setup:
    c = task.config
    return Setup(classes=task.classes, seed=c.seed, flip=c.flip, device=device)


def _encode(task: Task, book: Ledger, device: str, unit: tuple) -> Done:
    image_NHWC = task.data["input"].image_NHWC[unit[0] : unit[0] + SEEN]
    x_VNCHW = generators.views(task.config.generator, image_NHWC, _setup(task, device))
    return Done(files={f"latents-{unit[0]}.npy": npy(x_VNCHW.numpy())})


def _latents(task: Task, book: Ledger) -> Tensor | None:
    """The pool's latents; None of a generator of pixels."""
    if task.config.generator.vae is None:
        return None
    parts = [array(storage.read(book.path(f"latents-{start}.npy"))) for start in _starts(task)]
    return torch.from_numpy(np.concatenate(parts, 1))


def _prior(task: Task, book: Ledger, device: str, unit: tuple) -> Done:
    seen_VNCHW = _latents(task, book)
    data = generators.train_prior(task.data["input"], task.config.generator, _setup(task, device), seen_VNCHW)
    return Done(files={"prior.safetensors": data})


def _starts(task: Task) -> range:
    return range(0, len(task.data["input"].image_NHWC), SEEN)


def _see(task: Task, book: Ledger, device: str, unit: tuple) -> Done:
    recipe = task.config.guess.features
    assert recipe is not None
    f_ND = guesses.seen(recipe, task.data["input"].image_NHWC[unit[0] : unit[0] + SEEN], device)
    return Done(files={f"seen-{unit[0]}.npy": npy(f_ND)})


def _guess(task: Task, book: Ledger, device: str, unit: tuple) -> Done:
    c, few, pool = task.config, task.few[unit], task.data["input"]
    seen_ND = None
    if c.guess.features is not None:
        seen_ND = np.concatenate(
            [array(storage.read(book.path(f"seen-{start}.npy"))) for start in _starts(task)]
        )
    guessed = guesses.guess_labels(few, pool.image_NHWC, c.guess, _setup(task, device), seen_ND)
    right = (
        (guessed.label_N == pool.label_N) & (guessed.label_N >= 0) & (pool.label_N >= 0)
    )  # for the report alone
    counts = {"guessed": float((guessed.label_N >= 0).sum()), "right": float(right.sum())}
    return Done(files={f"guess-{unit[0]}-{unit[1]}.npy": npy(guessed.label_N)}, extra=counts)


def _guessed_pool(task: Task, book: Ledger, place: tuple) -> Pictures:
    """The pool with its guesses."""
    label_N = array(storage.read(book.path(f"guess-{place[0]}-{place[1]}.npy")))
    return Pictures(image_NHWC=task.data["input"].image_NHWC, label_N=label_N)


def _tune(task: Task, book: Ledger, device: str, unit: tuple) -> Done:
    c, few = task.config, task.few[unit]
    pool, start, seen_VNCHW = None, None, None
    if c.protocol == "prior":
        pool, start = _guessed_pool(task, book, unit), storage.read(book.path("prior.safetensors"))
        seen_VNCHW = _latents(task, book)
    data = generators.tune_generator(few, pool, start, c.generator, _setup(task, device), seen_VNCHW)
    return Done(files={f"tuned-{unit[0]}-{unit[1]}.safetensors": data})


def _make(task: Task, book: Ledger, device: str, unit: tuple) -> Done:
    k, subset, tagged = unit
    c, method, few = task.config, task.making[tagged], task.few[k, subset]
    guessed = _guessed_pool(task, book, (k, subset)) if method.guesses else None
    setup = _setup(task, device)
    of = making.sources(method, few, guessed, c.guess, setup)
    weights = storage.read(book.path(f"tuned-{k}-{subset}.safetensors")) if method.drawn else None
    added = making.make(method, of, (c.generator, weights), setup)
    buffer = io.BytesIO()
    np.savez(buffer, image=added.image_MHWC, p=added.p_MK)
    files = {f"made/{k}-{subset}-{tagged}.npz": buffer.getvalue()}
    return Done(files=files, extra={"made": len(added.p_MK)}, rejected=added.rejected)


def _score(task: Task, book: Ledger, device: str, unit: tuple) -> Done:
    k, subset, tagged, classifier, _, seed = unit
    method, few = task.method(tagged), task.few[k, subset]
    added = None if method.made == "none" else read_made(book, k, subset, method)
    right = comparison.score_method(
        method,
        few,
        added,
        task.data["test"],
        task.classifier(classifier),
        replace(_setup(task, device), seed=seed),
    )
    return Done(extra={"accuracy": right})


def read_made(book: Ledger, per_class: int, subset: int, method: Method) -> Added:
    """What a method added."""
    data = storage.read(book.path("made", f"{per_class}-{subset}-{made_tag(method)}.npz"))
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return Added(image_MHWC=arrays["image"], p_MK=arrays["p"], rejected={})


COMPUTE = {
    "encode": _encode,
    "prior": _prior,
    "see": _see,
    "guess": _guess,
    "tune": _tune,
    "make": _make,
    "score": _score,
}


def _commit(book: Ledger, name: str, unit: Unit, done: Done) -> Committed:
    for file, data in done.files.items():
        storage.write(book.path(file), data)
    tallies = {"rejected": done.rejected} if done.rejected else {}
    return UnitReport(id=unit.id, produced=1, extra=done.extra, tallies=tallies), []
