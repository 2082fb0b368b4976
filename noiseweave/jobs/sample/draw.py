"""The flow of sample: a unit is a run of pictures; one worker draws it, one file of its own keeps it."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from noiseweave import __version__
from noiseweave.cluster import pipeline, shards, storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Committed, Phase
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine.pictures import collage, images
from noiseweave.engine.pictures.provenance import CREATED, Mark, Source, options
from noiseweave.engine.records import Json, Quarantined
from noiseweave.jobs import outputs
from noiseweave.jobs.outputs import ShardName
from noiseweave.jobs.reading import loras, running
from noiseweave.jobs.report.job import finish_page
from noiseweave.jobs.sample.task import Task

if TYPE_CHECKING:
    from noiseweave.engine.networks.base_models import BaseModel
    from noiseweave.engine.networks.text_pipeline import TextModel

FRAME = 200  # milliseconds of an animation's frame


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a unit's pictures came to.

    Attributes:
        first: number of its first picture.
        image_BHWC: uint8 [B, H, W, C].
        beliefs_KBHWC: uint8 [K, B, H, W, C] or None.
        calls: network evaluations of each picture, guided ones counted once.
        seeds: that each was drawn with: another than the config's where the first was flagged.
        flagged: numbers, from first on, of those that were flagged both times; they are not written.
        truncated: ends of prompts that the text encoder does not read.
    """

    first: int
    image_BHWC: np.ndarray
    beliefs_KBHWC: np.ndarray | None
    calls: int
    seeds: Sequence[int]
    flagged: frozenset[int] = frozenset()
    truncated: tuple[str, ...] = ()


def run(task: Task, book: Ledger, s: Session) -> Outcome:
    """Draw every shard of samples."""
    recipe = task.text or task.config.sampler
    rows = task.total * recipe.steps * (1 + ((recipe.guidance or 1) > 1))
    model = running.with_compiling(task.config.model, None, rows, s)
    task = replace(task, config=replace(task.config, model=model))
    return pipeline.run(units(task), phase(task, s.gpus_per_worker > 0), book, s)


def units(task: Task) -> Plan:
    """A unit for each shard."""
    return Plan.of(range(-(-task.total // task.config.shard_samples)))


def phase(task: Task, gpu: bool) -> Phase:
    """Numbers of samples -> pictures -> files or shards."""
    return Phase(
        name="sample",
        fetch=partial(_numbers, task),
        make_compute=partial(_make_draw, task, gpu),
        commit=partial(_commit, task),
        size=len,
    )


def _numbers(task: Task, unit: Unit) -> range:
    each = task.config.shard_samples
    return range(unit.index * each, min((unit.index + 1) * each, task.total))


def _make_draw(task: Task, gpu: bool) -> Callable[[range], Result]:
    from noiseweave.engine.networks import base_models, text_pipeline

    device, config = "cuda" if gpu else "cpu", task.config.model
    if task.text is None:
        return drawer(task, base_models.load(config, device))
    return drawer(task, text_pipeline.load(config, task.text, device, add=loras.adding(config)))


def drawer(task: Task, model: BaseModel | TextModel) -> Callable[[range], Result]:
    """What draws the pictures of these numbers with a loaded model, that of the task's config."""
    from noiseweave.engine.networks.base_models import BaseModel

    return _of_base(task, model) if isinstance(model, BaseModel) else _of_text(task, model)


def _of_base(task: Task, model: BaseModel) -> Callable[[range], Result]:
    import torch

    from noiseweave.engine.sampling import samplers

    config = task.config

    def compute(numbers: range) -> Result:
        labels = [task.label(i) for i in numbers]
        label_B = torch.tensor([model.classes if n is None else n for n in labels]) if model.classes else None
        drawn = samplers.draw(model, numbers, label_B, config.sampler, config.seed, config.trajectory)
        return Result(
            first=numbers.start,
            image_BHWC=drawn.image_BHWC,
            beliefs_KBHWC=drawn.beliefs_KBHWC,
            calls=drawn.calls,
            seeds=[config.seed] * len(numbers),
        )

    return compute


def _of_text(task: Task, model: TextModel) -> Callable[[range], Result]:
    from noiseweave.engine.networks import text_encoding, text_pipeline

    config, text = task.config, task.text
    assert text is not None

    def compute(numbers: range) -> Result:
        prompts = [task.words[i][0] for i in numbers]
        done = text_pipeline.checked(model, prompts, text, config.seed, config.trajectory)
        return Result(
            first=numbers.start,
            image_BHWC=done.drawn[:, -1],
            beliefs_KBHWC=done.drawn[:, :-1].swapaxes(0, 1) if config.trajectory else None,
            calls=model.calls(text),
            seeds=done.seeds,
            flagged=frozenset(np.flatnonzero(done.flagged_B).tolist()),
            truncated=tuple(text_encoding.truncated_ends(model.pipeline, prompts).values()),
        )

    return compute


def key_of(i: int) -> str:
    """A sample's key."""
    return f"sample-{i:08d}"


def _commit(task: Task, unit: Unit, result: Result) -> Committed:
    rows = {n: _files(task, result, n) for n in range(len(result.image_BHWC)) if n not in result.flagged}
    for n in rows if result.beliefs_KBHWC is not None else ():
        _write_trajectory(task, result, n)
    if task.config.files == "folder":
        for n, files in rows.items():
            storage.write(picture_path(task, result.first + n), files[task.config.image_format])
    elif rows:
        keyed = [(key_of(result.first + n), files) for n, files in rows.items()]
        storage.write(_shard(task, unit.index), shards.pack(keyed))
    again = sum(result.seeds[n] != task.config.seed for n in rows)
    report = UnitReport(
        id=unit.id,
        produced=len(rows),
        extra={"calls": float(result.calls * len(rows)), "drawn_again": float(again)},
        tallies={"truncated": dict.fromkeys(result.truncated, 1)},
    )
    return report, [_flagged(task, result.first + n) for n in sorted(result.flagged)]


def _flagged(task: Task, i: int) -> Quarantined:
    """The record of a picture that is not written."""
    detail = f"by the model's safety checker, and once more with another seed: {task.words[i][0].text}"
    return Quarantined(shard="", key=key_of(i), reason="flagged", detail=detail)


def _shard(task: Task, index: int) -> str:
    name = ShardName(kind="sample", unit=f"{index:06d}")
    return storage.join(task.output, "shards", str(name))


def picture_path(task: Task, i: int) -> str:
    """Where ``files=folder`` keeps picture i: below its class, if it has one."""
    label = task.label(i)
    folder = [] if label is None else [f"{label:04d}"]
    return storage.join(task.output, "images", *folder, f"{key_of(i)}.{task.config.image_format}")


def _files(task: Task, result: Result, n: int) -> dict[str, bytes]:
    i, kind = result.first + n, task.config.image_format
    label = task.label(i)
    marked = mark(task, i, seed=result.seeds[n])
    files: dict[str, bytes] = {kind: images.encode(result.image_BHWC[n], kind, mark=marked)}
    if label is not None:
        files["cls"] = str(label).encode()
    if task.words:
        files["txt"] = task.words[i][1].encode()
    known = lineage(task, i, label, result.calls) | {"seed": result.seeds[n]}
    files["json"] = json.dumps(known, ensure_ascii=False).encode()
    return files


def mark(task: Task, i: int | None = None, source: Source = CREATED, seed: int | None = None) -> Mark | None:
    """What a picture's file says, or that of several pictures; None where it is not asked for."""
    config = task.config
    if not config.provenance:
        return None
    how = {"sampler": task.sampler} | ({} if i is None else {"number": i})
    seed = config.seed if seed is None else seed
    return Mark(source=source, model=config.model.name, model_hash=task.model_hash, seed=seed, how=how)


def lineage(task: Task, i: int, label: int | None, calls: int) -> Json:
    """Where a picture came from, enough to draw it again."""
    config = task.config
    how = asdict(task.text) | asdict(task.words[i][0]) if task.text else asdict(config.sampler)
    how.pop("name", None)
    return {
        "number": i,
        "label": label,
        "seed": config.seed,
        "model": config.model.name,
        "model_hash": task.model_hash,
        "lora": loras.record(config.model),
        "kind": task.about["kind"],
        **how,
        "sampler": task.sampler,
        "network_evaluations": calls,
        "precision": config.model.precision,
        "noiseweave": __version__,
    }


def _write_trajectory(task: Task, result: Result, n: int) -> None:
    assert result.beliefs_KBHWC is not None
    frames = list(result.beliefs_KBHWC[:, n])
    name = storage.join(task.output, "trajectories", key_of(result.first + n))
    marked = mark(task, result.first + n, seed=result.seeds[n])
    storage.write(f"{name}.png", images.encode(np.concatenate(frames, 1), mark=marked))
    storage.write(f"{name}.webp", animation(frames, marked))


def animation(frames: Sequence[np.ndarray], marked: Mark | None = None) -> bytes:
    """uint8 [H, W, C] pictures -> an endless lossless webp, small ones enlarged; the last stays longer."""
    grow = max(1, 128 // frames[0].shape[0])
    pictures = [
        Image.fromarray(np.kron(f, np.ones((grow, grow, 1), np.uint8)).squeeze()).convert("RGB")
        for f in frames
    ]
    times = [FRAME] * (len(frames) - 1) + [5 * FRAME]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=pictures[1:],
        duration=times,
        loop=0,
        lossless=True,
        **options(marked, "WEBP"),
    )
    return buffer.getvalue()


def finish(task: Task, book: Ledger, outcome: Outcome) -> int:
    """The grid, the report, quarantine.jsonl. Returns the exit code: 1 when units failed or nothing was written."""
    bad = list(outputs.quarantined(book, "sample"))
    if task.config.grid and not outcome.failed and outcome.produced:
        page = grid(task, {b["key"] for b in bad})
        storage.write(storage.join(task.output, "grid.png"), collage.png(page, mark(task)))
    calls = outcome.extra.get("calls", 0.0) / max(1, outcome.produced)
    report = {
        "noiseweave": __version__,
        "config": asdict(task.config),
        "model": task.config.model.name,
        "model_hash": task.model_hash,
        "lora": loras.record(task.config.model),
        "kind": task.about["kind"],
        "sampler": task.sampler,
        "samples": outcome.produced,
        "quarantined": dict(outputs.write_quarantine(task.output, bad)),
        "drawn_again": int(outcome.extra["drawn_again"]),
        "network_evaluations_per_picture": round(calls, 2),
        "seconds": round(outcome.seconds, 2),
        "failed": outcome.failed,
    }
    storage.write_json(storage.join(task.output, "report.json"), report)
    where = storage.join(task.output, "shards" if task.config.files == "shards" else "images")
    print(f"{outcome.produced} pictures in {where}, {calls:g} network evaluations each")
    for end in outcome.tallies["truncated"]:
        print(f"prompt truncated, the text encoder does not read: ...{end[:200]}")
    for unit, error in outcome.failed.items():
        print(f"failed: unit {unit}: {error}")
    finish_page(task.output)
    if bad:
        print(
            f"{len(bad)} flagged by the model's safety checker and not written: {outputs.some(b['key'] for b in bad)}"
        )
    return 1 if outcome.failed or not outcome.produced else 0


def grid(task: Task, missing: Collection[str]) -> Image.Image:
    """The first rows x columns pictures, grey where one is missing."""
    rows, columns = shape_of_grid(task)
    count = min(rows * columns, task.total)
    there = [i for i in range(count) if key_of(i) not in missing]
    decoded = {
        i: images.decode(data, task.about["channels"])
        for i, data in zip(there, _read(task, there), strict=True)
    }
    grey = np.full((8, 8, 1), 128, np.uint8)
    pictures = [decoded.get(i, grey) for i in range(count)]
    starts = range(0, count, columns)
    captions = [" | ".join(dict.fromkeys(w for _, w in task.words[i : i + columns]))[:200] for i in starts]
    tile = min(256, max(48, task.about["size"], *(p.shape[0] for p in pictures)))
    return collage.sheet(
        [pictures[i : i + columns] for i in starts], captions if task.words else (), tile=tile
    )


def shape_of_grid(task: Task) -> tuple[int, int]:
    """Rows and columns; auto keeps what belongs together in one row."""
    if task.config.grid != "auto":
        rows, columns = map(int, str(task.config.grid).split("x"))
        return rows, columns
    columns = task.across if 1 < task.across <= 16 else 8
    return max(1, 32 // columns), columns


def _read(task: Task, numbers: Sequence[int]) -> list[bytes]:
    """The files of some pictures, in the order of their numbers."""
    if task.config.files == "folder":
        return [storage.read(picture_path(task, i)) for i in numbers]
    out: list[bytes] = []
    for unit, inside in itertools.groupby(numbers, lambda i: i // task.config.shard_samples):
        url, keys = _shard(task, unit), {key_of(i) for i in inside}
        found = [p for p in shards.locate(url)[0] if p.key in keys]
        out += storage.read_ranges(url, [(p.offset, p.size) for p in found])
    return out
