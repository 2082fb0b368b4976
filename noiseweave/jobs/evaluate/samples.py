"""evaluate, mode ``samples``: each generated picture beside its parents and beside all that it was made from.

Three phases, with the code of ``augment --gate``: the reference's features, the judge that is trained on it, and
the figures of each shard of samples. The verdicts are made of the figures in the end.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from noiseweave.cluster import ledger, pipeline, shards, storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.session import Session, session
from noiseweave.cluster.stages import Committed, Phase
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine.judging.quality import FIGURES, VERDICTS
from noiseweave.engine.pictures import images
from noiseweave.engine.records import Json, JsonMapping, Quarantined
from noiseweave.jobs import outputs
from noiseweave.jobs.augment import dataset, index, worker
from noiseweave.jobs.augment import judge as judging
from noiseweave.jobs.augment.reference import Reference
from noiseweave.jobs.evaluate import lineage, originals, pair_figures, pictures
from noiseweave.jobs.evaluate import report as evaluate_report
from noiseweave.jobs.evaluate.config import OWNED, Config
from noiseweave.jobs.evaluate.lineage import Loaded
from noiseweave.jobs.evaluate.pictures import PictureSet
from noiseweave.jobs.reading import class_names
from noiseweave.jobs.reading.places import common_root

if TYPE_CHECKING:
    from noiseweave.engine.judging.quality import Figures
    from noiseweave.engine.judging.recipes import QualityRecipe

QUANTILES = {"5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95}
Row = Json


def run(config: Config) -> int:
    """Score each generated sample beside its parents and the whole reference. Returns the exit code."""
    sides = {name: _side(config, name) for name in ("input", "reference")}
    if sides["input"].payloads == sides["reference"].payloads:
        raise ValueError(
            f"reference={config.reference!r}: other shards than input's: those that it was made from"
        )
    class_names.check_alike({name: list(map(str, side.payloads)) for name, side in sides.items()})
    reference = reference_of(config, sides)
    output = storage.absolute(config.output)
    with ledger.held_run(output, identity(config, reference, sides), config.overwrite, OWNED) as book:
        storage.write_json(book.path("reference.json"), list(sides["reference"].payloads))
        with session(config.cluster) as s:
            outcomes = phases(config, reference, sides, book, s)
        return finish(config, reference, sides, book, outcomes)


def _side(config: Config, name: str) -> PictureSet:
    given = getattr(config, name)
    side = pictures.find(name, given, config.unit_pictures)
    if side.root:
        raise ValueError(
            f"{name}={given!r}: a folder of pictures; mode samples needs shards, which pack makes"
        )
    return side


def reference_of(config: Config, sides: Mapping[str, PictureSet]) -> Reference:
    """The reference, with the judge that we take.

    Pictures have the channels and, where config.size is null, the side of the first sample that opens.

    Raises:
        ValueError: no sample does, or the feature space lacks something.
    """
    from noiseweave.engine.features import choice, spaces

    spaces.check_here(config.features)
    own = config.size if config.features.name == "unet" else None
    channels, side = _kind(config, sides["input"])
    return Reference(
        root=common_root([str(p) for p in sides["reference"].payloads]),
        channels=channels,
        size=config.size or side,
        features=config.features,
        feature_side=spaces.side(config.features, config.model.name, own),
        model=config.model,
        model_size=own,
        quality=config.quality.settled(choice.of_photos(channels, config.size or side), config.features.name),
        seed=config.seed,
        max_pixels=config.max_pixels,
        gpus_per_worker=config.cluster.gpus_per_worker,
    )


def _kind(config: Config, side: PictureSet) -> tuple[int, int]:
    bad: list[Quarantined] = []
    for url in side.payloads:
        assert isinstance(url, str)
        places, worse = shards.locate(url)
        bad += worse
        for place in places:
            [data] = storage.read_ranges(url, [(place.offset, place.size)])
            try:
                return images.kind_of(data, config.max_pixels)
            except ValueError as e:
                bad.append(Quarantined.of(e, shard=url, key=place.key))
    said = outputs.said_of([asdict(b) for b in bad])
    raise ValueError(f"input={config.input!r}: no picture could be read: {said}")


def identity(config: Config, reference: Reference, sides: Mapping[str, PictureSet]) -> JsonMapping:
    """What the figures depend on: verdicts are made anew from them, so a run goes on with other limits."""
    from noiseweave.engine.features import spaces

    quality = {name: asdict(reference.quality)[name] for name in ("judge", "classifier", "pool")}
    return {
        "job": "evaluate",
        "mode": "samples",
        **{f"{n}.content": s.digest for n, s in sides.items()},
        "quality": quality,
        "space": spaces.identity(config.features, config.model, reference.model_size),
        "seed": config.seed,
        "size": reference.size,
        "channels": reference.channels,
        "max_pixels": config.max_pixels,
    }


def phases(
    config: Config, reference: Reference, sides: Mapping[str, PictureSet], book: Ledger, s: Session
) -> dict[str, Outcome]:
    """Every phase, as far as the one before had no failed units.

    Raises:
        ValueError: nothing of the reference can be read.
    """
    found = [str(url) for url in sides["reference"].payloads]
    outcomes = {"embed": dataset.embed(reference, found, book, s)}
    if outcomes["embed"].failed:
        return outcomes
    if not outcomes["embed"].produced:
        evaluate_report.write_quarantine(book.output, book, "samples", [], {"embed": "reference"})
        why = evaluate_report.why(book.output)
        raise ValueError(f"reference={config.reference!r}: no picture could be read{why}")
    outcomes["judge"] = judging.make(
        reference, book, s, partial(index.spread_places, book), partial(index.spread_features, book)
    )
    if not outcomes["judge"].failed:
        units = [Unit(index=i, id=f"input-{i:06d}", payload=u) for i, u in enumerate(sides["input"].payloads)]
        phase = Phase(
            name="samples",
            fetch=partial(_fetch, reference, book),
            make_compute=partial(_make_rows, reference, book),
            commit=partial(_commit, book),
            noun="samples",
        )
        plan = Plan(length=len(units), unit=units.__getitem__)
        outcomes["samples"] = pipeline.run(plan, phase, book, s)
    return outcomes


# a shard of samples -> a row for each


def _fetch(reference: Reference, book: Ledger, unit: Unit) -> Loaded:
    return lineage.read(reference, book, unit.payload)


def _make_rows(
    reference: Reference, book: Ledger
) -> Callable[[Loaded], tuple[list[Row], list[Quarantined], int]]:
    from noiseweave.engine.judging import quality

    extract = worker.load_extractor(reference)
    f_ND = index.spread_features(book, reference.quality.pool)
    learnt = judging.load(book, worker.device(reference))
    judge = judging.judge(reference, extract, f_ND, learnt)
    pool = [reference.key_of(p.shard, p.key) for p in index.spread_places(book, len(f_ND))]

    def compute(data: Loaded) -> tuple[list[Row], list[Quarantined], int]:
        typical = [quality.sharpness(x) for x in data.typical_THWC]
        found = quality.measure(
            judge,
            data.image_PHWC,
            data.parents,
            data.parent_BHWC,
            [line.labels for line in data.lineages],
            float(np.mean(typical)) if typical else quality.FLAT,
        )
        return [_row(data, i, f, pool) for i, f in enumerate(found)], data.bad, data.differ

    return compute


def _row(data: Loaded, i: int, found: Figures, pool: Sequence[str]) -> Row:
    line = data.lineages[i]
    near = pool[found.row] if found.row is not None else None
    near = data.names[found.closest] if near is None and found.closest is not None else near
    return {
        "key": data.where[i].key,
        "shard": os.path.basename(data.where[i].shard),
        "mode": line.mode,
        "parents": len(line.parents),
        "found": len(data.parents[i]),
        "nearest_key": near,
        **{name: getattr(found, name) for name in FIGURES},
    }


def _commit(book: Ledger, unit: Unit, result: tuple[list[Row], list[Quarantined], int]) -> Committed:
    rows, bad, differ = result
    storage.write_json(book.path("scores", f"{unit.id}.json"), rows)
    return UnitReport(id=unit.id, produced=len(rows), extra={"differ": differ}), bad


# the end


def finish(
    config: Config,
    reference: Reference,
    sides: Mapping[str, PictureSet],
    book: Ledger,
    outcomes: Mapping[str, Outcome],
) -> int:
    """samples.jsonl, quarantine.jsonl, report.json and two tables. Returns the exit code: 1 when units failed.

    Raises:
        ValueError: no sample could be read.
    """
    failed = {f"{name} {unit}": e for name, o in outcomes.items() for unit, e in o.failed.items()}
    counts = evaluate_report.write_quarantine(book.output, book, "samples", [], {"embed": "reference"})
    rows = [_judged(reference.quality, row) for row in pair_figures.all_rows(book, "samples")]
    if not rows and not failed:
        raise ValueError(
            f"input={config.input!r}: no picture could be read{evaluate_report.why(book.output)}"
        )
    storage.write(storage.join(book.output, "samples.jsonl"), outputs.json_lines(rows))
    by_mode = _by_mode(rows)
    unseen = warnings(rows, int(outcomes["samples"].extra["differ"])) if rows else []
    report = {
        "mode": "samples",
        "quarantined": counts,
        "failed": failed,
        "seconds": round(sum(o.seconds for o in outcomes.values()), 2),
        "size": reference.size,
        "channels": reference.channels,
        "sets": {"input": {"pictures": len(rows)}, "reference": {"pictures": outcomes["embed"].produced}},
        "verdicts": {mode: dict(_verdicts(some)) for mode, some in by_mode.items()},
        "figures": figures(by_mode) if rows else {},
        "warnings": [*filter(None, [originals.warning(sides["input"])]), *unseen],
    }
    if rows:
        _show(by_mode)
    return evaluate_report.finish(config, book.output, report)


def _judged(recipe: QualityRecipe, row: Row) -> Row:
    """The row with its verdict, and four digits of each figure, as a lineage has them."""
    from noiseweave.engine.judging import quality

    found = quality.Figures(**{name: row[name] for name in FIGURES})
    few = {name: row[name] if row[name] is None else round(row[name], 4) for name in FIGURES}
    head = {"key": row["key"], "shard": row["shard"], "verdict": quality.judge_figures(found, True, recipe)}
    return head | row | few


def _by_mode(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """All rows, and those of each fusion mode where there are several."""
    modes: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        modes[row["mode"] or "no mode"].append(row)
    return {"all": list(rows)} | (dict(sorted(modes.items())) if len(modes) > 1 else {})


def _verdicts(rows: Sequence[Row]) -> Counter[str]:
    return Counter(dict.fromkeys(VERDICTS, 0)) + Counter(row["verdict"] for row in rows)


def figures(by_mode: Mapping[str, Sequence[Row]]) -> Json:
    """Mean and quantiles of each figure, of all samples and of each mode's; of those that have it."""
    out: Json = {}
    for name in FIGURES:
        for mode, rows in by_mode.items():
            values = np.array([row[name] for row in rows if row[name] is not None], np.float64)
            if not len(values):
                continue
            quantiles = np.quantile(values, list(QUANTILES.values())).tolist()
            out[name if mode == "all" else f"{name}: {mode}"] = {
                "value": float(values.mean()),
                **dict(zip(QUANTILES, quantiles, strict=True)),
                "samples": len(values),
            }
    return out


def warnings(rows: Sequence[Row], differ: int) -> list[str]:
    """What of the samples could not be looked at."""
    said = {
        "no parent of them is known: sharpness is over that of pictures of the reference": [
            not r["found"] for r in rows
        ],
        "a parent that the lineage names is not in the reference": [r["found"] < r["parents"] for r in rows],
        "no drift, as no class is known of them, or of two classes of the reference": [
            r["drift"] is None for r in rows
        ],
    }
    out = [f"{sum(which)} of {len(rows)} samples: {text}" for text, which in said.items() if any(which)]
    if differ:
        out.append(f"{differ} parents have other files in the reference than those that the lineage hashed")
    return out


def _show(by_mode: Mapping[str, Sequence[Row]]) -> None:
    """Verdicts, a row for each mode."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for head in ("verdicts", "samples", *VERDICTS):
        table.add_column(head, justify="left" if head == "verdicts" else "right", no_wrap=True)
    for mode, rows in by_mode.items():
        counts = _verdicts(rows)
        table.add_row(escape(mode), str(len(rows)), *(str(counts[name]) for name in VERDICTS))
    console = Console()
    console.width = max(console.width, 120)
    console.print(table)
