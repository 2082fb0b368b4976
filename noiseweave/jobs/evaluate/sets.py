"""evaluate, mode ``sets``: one flow, pictures -> features, for both sides; the figures are made of them in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from noiseweave.cluster import ledger, pipeline, storage
from noiseweave.cluster.arrays import npy
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.session import session
from noiseweave.cluster.stages import Committed, Phase
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine import spans
from noiseweave.engine.networks import loading
from noiseweave.engine.records import Json, JsonMapping, Quarantined
from noiseweave.jobs.evaluate import originals, pictures, set_figures
from noiseweave.jobs.evaluate import report as evaluate_report
from noiseweave.jobs.evaluate import side as evaluate_side
from noiseweave.jobs.evaluate import statistics as evaluate_statistics
from noiseweave.jobs.evaluate.config import OWNED, Config
from noiseweave.jobs.evaluate.pictures import PictureSet, Read
from noiseweave.jobs.evaluate.set_task import Task
from noiseweave.jobs.reading import feature_cache, loras
from noiseweave.jobs.reading.contents import Contents

Extracted = tuple[np.ndarray, np.ndarray | None, int, list[Quarantined]]
"""Features, class probabilities where the space has classes, pictures with colour, what was quarantined."""


def run(config: Config) -> int:
    """Compare sets of pictures in a feature space. Returns the exit code."""
    contents = Contents(storage.absolute(config.output))
    task = plan(config, contents)
    with ledger.held_run(task.output, identity(task), config.overwrite, OWNED) as book:
        contents.keep()
        units = [unit for s in task.sets for unit in _units(s)]
        outcome, workers = Outcome(units=0), 0
        if units:
            with session(config.cluster) as s:
                plan_of_units = Plan(length=len(units), unit=units.__getitem__)
                outcome = pipeline.run(plan_of_units, phase(task, book), book, s)
                workers = s.workers
        return finish(task, book, outcome, workers)


def plan(config: Config, contents: Contents) -> Task:
    """Look at both sides and at the feature space; no picture is decoded.

    Raises:
        ValueError: nothing is there, weights are missing, statistics are of another space.
    """
    from noiseweave.engine.features import spaces

    given = {"input": config.input, "reference": config.reference}
    statistics = {n: evaluate_statistics.read(n, v) for n, v in given.items() if v and v.endswith(".npz")}
    sets = tuple(
        pictures.find(name, value, config.unit_pictures, contents)
        for name, value in given.items()
        if value and name not in statistics
    )
    if sets:
        spaces.check_here(config.features)
    space = spaces.identity(config.features, config.model, config.size) if sets else None
    space, label = evaluate_statistics.agreed(space, statistics)
    classes = "inception_score" in config.wanted
    if classes and not spaces.has_classes(config.features):
        raise ValueError(
            f"metrics=['inception_score']: {config.features.name} gives no class probabilities; take features.name "
            "inception, efficientnet-lite0, resnet50 or a classifier"
        )
    return Task(
        config=config,
        output=storage.absolute(config.output),
        sets=sets,
        statistics=statistics,
        space=space,
        label=label,
        side=None if spaces.takes_whole(config.features) else space.get("side"),
        classes=classes,
    )


def identity(task: Task) -> JsonMapping:
    """What the features depend on: figures are made anew from them, so a run goes on with other metrics."""
    sides = {s.name: s.digest for s in task.sets} | {n: s.digest for n, s in task.statistics.items()}
    return {
        "job": "evaluate",
        "mode": "sets",
        "space": task.space,
        "classes": task.classes,
        **{f"{name}.content": digest for name, digest in sides.items()},
        "max_pixels": task.config.max_pixels,
        "unit_pictures": task.config.unit_pictures,
    }


def _units(side: PictureSet) -> list[Unit]:
    return [
        Unit(index=i, id=f"{side.name}-{i:06d}", payload=payload) for i, payload in enumerate(side.payloads)
    ]


def phase(task: Task, book: Ledger) -> Phase:
    """The features of each unit of each set."""
    return Phase(
        name="features",
        fetch=partial(_fetch, task.side, task.config.max_pixels),
        make_compute=partial(_make_extract, task),
        commit=partial(_commit, book),
        size=_good,
    )


def _good(data: Read) -> int:
    return len(data.keys)


def _fetch(side: int | None, max_pixels: int, unit: Unit) -> Read:
    return pictures.read(unit.payload, side, max_pixels)


def _make_extract(task: Task) -> Callable[[Read], Extracted]:
    from noiseweave.engine.features import spaces

    config, device = task.config, evaluate_report.device(task.config)
    load = partial(
        spaces.load_space,
        config.features,
        lambda: loading.load(config.model, device, config.size, loras.adding(config.model)),
        device,
    )
    extract = feature_cache.extractor(config.features, load, lambda: task.space)
    classify = load().classify if task.classes else None

    def compute(data: Read) -> Extracted:
        parts = [(places, extract(image_NHWC)) for places, image_NHWC in spans.steps(data.groups)]
        f_ND = np.zeros((len(data.keys), parts[0][1].shape[1] if parts else 0), np.float32)
        for places, part in parts:
            f_ND[places] = part
        good = np.asarray(np.isfinite(f_ND).all(axis=1))
        bad = [
            Quarantined(shard="", key=k, reason="not_finite")
            for k, ok in zip(data.keys, good, strict=True)
            if not ok
        ]
        f_ND = f_ND[good]
        return f_ND, classify(f_ND) if classify and len(f_ND) else None, data.colour, data.bad + bad

    return compute


def _commit(book: Ledger, unit: Unit, result: Extracted) -> Committed:
    f_ND, p_NC, colour, bad = result
    if p_NC is not None:
        storage.write(book.path("probabilities", f"{unit.id}.npy"), npy(p_NC))
    storage.write(book.path("features", f"{unit.id}.npy"), npy(f_ND))
    return UnitReport(id=unit.id, produced=len(f_ND), extra={"colour": colour}), bad


def finish(task: Task, book: Ledger, outcome: Outcome, workers: int) -> int:
    """quarantine.jsonl, report.json, statistics and a table. Returns the exit code: 1 when units failed.

    Raises:
        ValueError: sets that cannot be compared.
    """
    quarantined = evaluate_report.write_quarantine(task.output, book, "features", task.sets)
    report: Json = {
        "mode": "sets",
        "space": dict(task.space),
        "quarantined": quarantined,
        "failed": outcome.failed,
        "workers": workers,
        "seconds": round(outcome.seconds, 2),
        "sets": {},
        "figures": {},
        "warnings": [],
    }
    if not outcome.failed:
        sides = {s.name: evaluate_side.Side.of(s.name, book) for s in task.sets}
        _check(task, sides)
        report["figures"], report["warnings"], halves = set_figures.figures(task, sides)
        report["as_many"] = halves or None
        report["warnings"] += filter(None, [originals.warning(s) for s in task.sets if s.name == "input"])
        report["sets"] = {n: {"pictures": s.n, "with_colour": s.colour} for n, s in sides.items()}
        report["sets"] |= {n: {"pictures": s.n, "statistics": True} for n, s in task.statistics.items()}
        if task.config.save_statistics:
            evaluate_statistics.write(task.config.save_statistics, sides["input"], task.space)
    return evaluate_report.finish(task.config, task.output, report)


def _check(task: Task, sides: Mapping[str, evaluate_side.Side]) -> None:
    for side in sides.values():
        if side.n < 2:
            given = getattr(task.config, side.name)
            why = evaluate_report.why(task.output)
            raise ValueError(
                f"{side.name}={given!r}: {side.n} pictures could be read, 2 or more are needed{why}"
            )
    if len(sides) == 2:
        first, second = sides["input"], sides["reference"]
        for grey, other in ((first, second), (second, first)):
            if grey.colour == 0 and 2 * other.colour > other.n:
                raise ValueError(
                    f"{grey.name} has 1 channel (all {grey.n} pictures are grey) and {other.name} 3 "
                    f"({other.colour} of {other.n} have colour): no distance between them means anything"
                )
