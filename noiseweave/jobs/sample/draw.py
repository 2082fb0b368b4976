"""The flow of sample: a unit is a run of pictures; one worker draws it, one file of its own keeps it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial

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
from noiseweave.engine.records import Json
from noiseweave.jobs.outputs import ShardName
from noiseweave.jobs.report.job import finish_page
from noiseweave.jobs.sample.task import Task

FRAME = 200  # milliseconds of an animation's frame


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a unit's pictures came to.

    Attributes:
        first: number of its first picture.
        image_BHWC: uint8 [B, H, W, C].
        beliefs_KBHWC: uint8 [K, B, H, W, C] or None.
        calls: network evaluations of each picture, guided ones counted once.
        truncated: ends of prompts that the text encoder does not read.
    """

    first: int
    image_BHWC: np.ndarray
    beliefs_KBHWC: np.ndarray | None
    calls: int
    truncated: tuple[str, ...] = ()


def run(task: Task, book: Ledger, s: Session) -> Outcome:
    """Draw every shard of samples."""
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
    device = "cuda" if gpu else "cpu"
    return _make_text(task, device) if task.words else _make_base(task, device)


def _make_base(task: Task, device: str) -> Callable[[range], Result]:
    import torch

    from noiseweave.engine.networks import base_models
    from noiseweave.engine.sampling import samplers

    config = task.config
    model = base_models.load(config.model, device)

    def compute(numbers: range) -> Result:
        labels = [task.label(i) for i in numbers]
        label_B = torch.tensor([model.classes if n is None else n for n in labels]) if model.classes else None
        drawn = samplers.draw(model, numbers, label_B, config.sampler, config.seed, config.trajectory)
        return Result(
            first=numbers.start,
            image_BHWC=drawn.image_BHWC,
            beliefs_KBHWC=drawn.beliefs_KBHWC,
            calls=drawn.calls,
        )

    return compute


def _make_text(task: Task, device: str) -> Callable[[range], Result]:
    from noiseweave.engine.networks import text_pipeline

    config = task.config
    model = text_pipeline.load(config.model, config.text, device)

    def compute(numbers: range) -> Result:
        prompts = [task.words[i][0] for i in numbers]
        image, beliefs = text_pipeline.trajectory(model, prompts, config.text, config.seed, config.trajectory)
        return Result(
            first=numbers.start,
            image_BHWC=image,
            beliefs_KBHWC=beliefs if config.trajectory else None,
            calls=model.calls(config.text),
            truncated=tuple(text_pipeline.truncated_ends(model, prompts).values()),
        )

    return compute


def key_of(i: int) -> str:
    """A sample's key."""
    return f"sample-{i:08d}"


def _commit(task: Task, unit: Unit, result: Result) -> Committed:
    rows = [_files(task, result, n) for n in range(len(result.image_BHWC))]
    for n in range(len(rows) if result.beliefs_KBHWC is not None else 0):
        _write_trajectory(task, result, n)
    if task.config.files == "shards":
        keyed = [(key_of(result.first + n), files) for n, files in enumerate(rows)]
        storage.write(_shard(task, unit.index), shards.pack(keyed))
    else:
        for n, files in enumerate(rows):
            storage.write(picture_path(task, result.first + n), files[task.config.image_format])
    extra, truncated = {"calls": float(result.calls * len(rows))}, dict.fromkeys(result.truncated, 1)
    return UnitReport(id=unit.id, produced=len(rows), extra=extra, tallies={"truncated": truncated}), []


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
    files: dict[str, bytes] = {kind: images.encode(result.image_BHWC[n], kind, mark=mark(task, i))}
    if label is not None:
        files["cls"] = str(label).encode()
    if task.words:
        files["txt"] = task.words[i][1].encode()
    files["json"] = json.dumps(lineage(task, i, label, result.calls), ensure_ascii=False).encode()
    return files


def mark(task: Task, i: int | None = None, source: Source = CREATED) -> Mark | None:
    """What a picture's file says, or that of several pictures; None where it is not asked for."""
    config = task.config
    if not config.provenance:
        return None
    how = {"sampler": task.sampler} | ({} if i is None else {"number": i})
    return Mark(source=source, model=config.model.name, model_hash=task.model_hash, seed=config.seed, how=how)


def lineage(task: Task, i: int, label: int | None, calls: int) -> Json:
    """Where a picture came from, enough to draw it again."""
    config = task.config
    how = asdict(config.text) | asdict(task.words[i][0]) if task.words else asdict(config.sampler)
    how.pop("name", None)
    return {
        "number": i,
        "label": label,
        "seed": config.seed,
        "model": config.model.name,
        "model_hash": task.model_hash,
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
    marked = mark(task, result.first + n)
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
    """The grid and the report. Returns the exit code: 1 when units failed."""
    if task.config.grid and not outcome.failed:
        page = grid(task)
        storage.write(storage.join(task.output, "grid.png"), collage.png(page, mark(task)))
    calls = outcome.extra.get("calls", 0.0) / max(1, outcome.produced)
    report = {
        "noiseweave": __version__,
        "config": asdict(task.config),
        "model": task.config.model.name,
        "model_hash": task.model_hash,
        "kind": task.about["kind"],
        "sampler": task.sampler,
        "samples": outcome.produced,
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
    return 1 if outcome.failed else 0


def grid(task: Task) -> Image.Image:
    """The first rows x columns pictures."""
    rows, columns = shape_of_grid(task)
    count = min(rows * columns, task.total)
    pictures = [images.decode(data, task.about["channels"]) for data in _first(task, count)]
    starts = range(0, count, columns)
    captions = [" | ".join(dict.fromkeys(w for _, w in task.words[i : i + columns]))[:200] for i in starts]
    tile = min(256, max(48, task.about["size"], pictures[0].shape[0]))
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


def _first(task: Task, count: int) -> list[bytes]:
    if task.config.files == "folder":
        return [storage.read(picture_path(task, i)) for i in range(count)]
    out: list[bytes] = []
    for unit in range(-(-count // task.config.shard_samples)):
        url = _shard(task, unit)
        found = shards.locate(url)[0][: count - len(out)]
        out += storage.read_ranges(url, [(p.offset, p.size) for p in found])
    return out
