"""evaluate, mode ``reconstruction``: what is left of a picture after inversion and replay, for each recipe.

What the model saw (fitted to its size) is compared with what it gives back. ``model space`` is the same before a
latent model's decoder and before rounding to 8 bits: the error of inversion and replay alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

from noiseweave.cluster import ledger, pipeline, storage
from noiseweave.cluster.session import session
from noiseweave.cluster.stages import Phase
from noiseweave.cluster.units import Plan, Unit
from noiseweave.engine import spans
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion.reconstruction import reconstruct
from noiseweave.engine.identity import identity_of
from noiseweave.engine.networks import loading
from noiseweave.engine.records import Json, JsonMapping
from noiseweave.jobs.evaluate import pair_figures, pairs, pictures
from noiseweave.jobs.evaluate import report as evaluate_report
from noiseweave.jobs.evaluate.config import OWNED, Config
from noiseweave.jobs.evaluate.pairs import Scored
from noiseweave.jobs.evaluate.pictures import Read
from noiseweave.jobs.reading import looks, loras
from noiseweave.jobs.reading.contents import Contents

if TYPE_CHECKING:
    from noiseweave.engine.networks.facts import ModelFacts

TOGETHER = 16  # pictures inverted at once: their chains are in memory


def recipes(config: Config) -> list[InversionRecipe]:
    """Each sampler with each number of steps."""
    steps = config.compare_steps or (config.inversion.num_steps,)
    samplers = config.compare_samplers or (config.inversion.sampler,)
    return [replace(config.inversion, num_steps=n, sampler=name) for name in samplers for n in steps]


def name_of(recipe: InversionRecipe) -> str:
    """A recipe as the figures name it."""
    noise = "" if recipe.noise == "independent" else f", {recipe.noise} noise"
    eta = "" if recipe.eta == 1 else f", eta {recipe.eta:g}"
    shift = f", noise shift {recipe.noise_shift:g}" if recipe.noise_shift else ""
    return f"{recipe.sampler} {recipe.num_steps} steps, skip {recipe.skip}{eta}{shift}{noise}"


def run(config: Config) -> int:
    """Score inversion and replay of each picture, by recipe. Returns the exit code."""
    from noiseweave.engine.judging import picture_metrics

    model = loading.describe(config.model.name, config.size)
    config = replace(config, inversion=loading.settled_chain(model, config.inversion))
    several = recipes(config)
    for recipe in several:
        loading.settled_chain(model, recipe)
    if "lpips" in config.wanted:
        picture_metrics.alexnet_weights(config.lpips_weights)
    output, model_hash = storage.absolute(config.output), loading.fingerprint(model, config.model)
    contents = Contents(output)
    found = pictures.find("input", config.input, config.unit_pictures, contents)
    about = identity(config, several, found.digest, model_hash)
    with ledger.held_run(output, about, config.overwrite, OWNED) as book:
        contents.keep()
        return _scored(config, model, found, book)


def _scored(config: Config, model: ModelFacts, found: pictures.PictureSet, book: ledger.Ledger) -> int:
    output = book.output
    seen = pictures.look(found, config.max_pixels)
    unlike = looks.warning(seen, f"model {config.model.name}", model.side, model.channels)
    units = [Unit(index=i, id=f"input-{i:06d}", payload=p) for i, p in enumerate(found.payloads)]
    phase = Phase(
        name="reconstruction",
        fetch=partial(_fetch, config, model.side, model.channels),
        make_compute=partial(_make_rows, config),
        commit=partial(pairs.commit, book),
        size=partial(_rows, config),
    )
    with session(config.cluster) as s:
        outcome = pipeline.run(Plan(length=len(units), unit=units.__getitem__), phase, book, s)
    by_recipe: dict[str, list[Json]] = defaultdict(list)
    for row in pair_figures.all_rows(book, "reconstruction"):
        by_recipe[row["recipe"]].append(row)
    counts = evaluate_report.write_quarantine(output, book, "reconstruction", [found])
    if not by_recipe and not outcome.failed:
        raise ValueError(f"input={config.input!r}: no picture could be read{evaluate_report.why(output)}")
    pair_figures.write_rows(output, [row for rows in by_recipe.values() for row in rows])
    warnings = [f"{n}: {w}" for n, rows in by_recipe.items() for w in pair_figures.warnings(rows)]
    report = {
        "mode": "reconstruction",
        "model_hash": loading.fingerprint(model, config.model),
        "quarantined": counts,
        "failed": outcome.failed,
        "seconds": round(outcome.seconds, 2),
        "sets": {"input": {"pictures": max((len(rows) for rows in by_recipe.values()), default=0)}},
        "figures": {} if outcome.failed else figures(config, by_recipe),
        "warnings": [*filter(None, [unlike]), *warnings],
    }
    return evaluate_report.finish(config, output, report)


def figures(config: Config, by_recipe: Mapping[str, list[Json]]) -> Json:
    """The figures of matched pairs, for each recipe."""
    return {
        f"{recipe}: {name}": about
        for recipe, rows in by_recipe.items()
        for name, about in pair_figures.figures(config, rows).items()
    }


def identity(config: Config, several: Sequence[InversionRecipe], digest: str, model_hash: str) -> JsonMapping:
    """What the scores depend on."""
    model = identity_of(config.model, hash=model_hash)
    about = {name: getattr(config, name) for name in ("seed", "size", "max_pixels", "unit_pictures")}
    return {
        "job": "evaluate",
        "mode": "reconstruction",
        "input.content": digest,
        "model": model,
        "metrics": list(config.wanted),
        "recipes": {name_of(r): asdict(r) for r in several},
        **about,
    }


def _fetch(config: Config, side: int, channels: int, unit: Unit) -> Read:
    return pictures.read(unit.payload, side, config.max_pixels, channels)


def _rows(config: Config, data: Read) -> int:
    return len(data.keys) * len(recipes(config))


def _make_rows(config: Config) -> Callable[[Read], Scored]:
    add = loras.adding(config.model)
    model = loading.load(config.model, evaluate_report.device(config), config.size, add)
    words = loading.describe(config.model.name).conditioning == "text"
    score = pairs.scorer(config)

    def compute(data: Read) -> Scored:
        rows: list[Json] = []
        bad = list(data.bad)
        for places, image_NHWC in spans.steps(data.groups):
            for start in spans.steps(range(0, len(places), TOGETHER)):
                keys = [data.keys[i] for i in places[start : start + TOGETHER]]
                for recipe in spans.steps(recipes(config)):
                    trios, decibels = reconstruct(
                        model, image_NHWC[start : start + TOGETHER], keys, recipe, config.seed, words
                    )
                    good, worse = score(trios)
                    rows += [
                        {"recipe": name_of(recipe)} | r | {"model space": decibels[r["key"]]} for r in good
                    ]
                    bad += worse
        return rows, list(dict.fromkeys(bad))

    return compute
