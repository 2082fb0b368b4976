"""What sample will draw: the model's kind looked at, the labels or the words of each picture."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from noiseweave.cluster import folders, shards, storage
from noiseweave.engine.checks import check, check_steps
from noiseweave.engine.networks import classes as model_classes
from noiseweave.engine.networks import text_pipeline
from noiseweave.engine.networks.facts import ModelFacts, fingerprint, read_facts
from noiseweave.engine.networks.recipes import TextRecipe
from noiseweave.engine.sampling.recipes import sampler_name
from noiseweave.jobs.reading import class_names, looks, loras
from noiseweave.jobs.reading.places import check_alone
from noiseweave.jobs.sample.config import Config
from noiseweave.jobs.sample.prompts import PromptValues, class_names_of, prompts_of
from noiseweave.jobs.sample.task import Task

WORDS = ("prompts", "prompts_file", "classes", "captions", "negative_prompt", "interpolate", "styles")
FOR_BASE = ("match", "labels", "panel", "reconstruct", "walk")


def plan(config: Config, output: str) -> Task:
    """Look at the model and at what is to be matched.

    Raises:
        ValueError: they do not fit the options.
    """
    config = replace(config, model=loras.settled(config.model))
    model = read_facts(config.model.name)
    task = of_model(config, output, model)
    return replace(task, model_hash=fingerprint(model, config.model))


def of_model(config: Config, output: str, model: ModelFacts) -> Task:
    """What is drawn of a model that is known; its fingerprint is left out.

    Raises:
        ValueError: as of ``plan``.
    """
    if model.conditioning == "text":
        return _plan_text(config, output, model)
    return _plan_base(config, output, model)


def _plan_base(config: Config, output: str, model: ModelFacts) -> Task:
    asked = [name for name in WORDS if getattr(config, name) not in ((), None, "")]
    if asked:
        raise ValueError(f"{asked[0]}: for a text-to-image model; {config.model.name!r} is none")
    kind, classes = model.kind, model.classes
    name = sampler_name(kind, config.sampler)
    guidance = model.guidance if config.sampler.guidance is None else config.sampler.guidance
    check(guidance == 1 or classes > 0, "sampler.guidance", guidance, "1, as the model knows no classes")
    config = replace(config, sampler=replace(config.sampler, guidance=guidance))
    check(
        config.labels is None or classes > 0, "labels", config.labels, "null, as the model knows no classes"
    )
    ok = config.trajectory == 0 or name != "none"
    check(ok, "trajectory", config.trajectory, f"0, as a {kind} draws in one step")
    if kind == "ddpm":
        check_steps("sampler.steps", config.sampler.steps, model.trained_steps)
    names = class_names.classes_in(str(model.folder)) if classes else []
    counts, matched_names = _matched(config)
    cycle = _cycle(config, classes)
    runs: tuple[tuple[int, int], ...] = ()
    if counts and classes and config.labels is None and None not in counts:
        if names and not matched_names:
            looks.warn(class_names.numbers_taken(names, f"match {config.match!r}"))
        runs, cycle = _runs(config, counts, matched_names, classes, names), ()
    return Task(
        config=config,
        output=output,
        about={"kind": kind, "classes": classes, "size": model.side, "channels": model.channels},
        model_hash="",
        sampler=name,
        total=sum(counts.values()) if counts else config.count or 16,
        runs=runs,
        cycle=cycle,
        names=tuple(names),
    )


def _runs(
    config: Config,
    counts: Mapping[int | None, int],
    names: Sequence[str],
    known: int,
    known_names: Sequence[str],
) -> tuple[tuple[int, int], ...]:
    """(class of the model, pictures), of a set whose every picture has a label.

    Raises:
        ValueError: the model does not know one of its classes.
    """
    labels = sorted(label for label in counts if label is not None)
    rows = model_classes.rows(labels[-1] + 1, names, known, known_names)
    strange = [class_names.shown(label, names) for label in labels if rows[label] == known]
    there = f"its classes ({', '.join(known_names)[:300]})" if known_names else f"labels below {known}"
    check(
        not strange, "match", config.match, f"{there}, as the model knows; it has {', '.join(strange)[:300]}"
    )
    runs: dict[int, int] = {}
    for label in labels:
        runs[rows[label]] = runs.get(rows[label], 0) + counts[label]
    return tuple(sorted(runs.items()))


def _recipe(config: Config, model: ModelFacts) -> TextRecipe:
    """How the model draws, where it can draw so."""
    text_pipeline.check_text_to_image(model)
    text = config.text.of(model.usual)
    text_pipeline.check_recipe(model, text)
    guided = model.reader.guidance(model.unet) == "classifier-free"
    negative = config.negative_prompt
    check(guided or not negative, "negative_prompt", negative, f"empty, as a {model.pipeline} takes none")
    kind, solver = model.scheduler.get("_class_name"), model.scheduler.get("algorithm_type", "")
    reports = kind in text_pipeline.X0_SCHEDULERS or solver in ("dpmsolver++", "sde-dpmsolver++")
    ok = config.trajectory == 0 or text.sampler != "pipeline" or reports or model.path == "straight"
    check(ok, "trajectory", config.trajectory, f"0, as {kind} does not report its predictions of x_0")
    return text


def _cycle(config: Config, classes: int) -> tuple[int, ...]:
    """The labels in turn, () for a model without classes."""
    if not classes or config.labels in (None, "balanced"):
        return tuple(range(classes))
    labels = tuple(map(int, str(config.labels).split(",")))
    check(max(labels) < classes, "labels", config.labels, f"0 to {classes - 1}")
    return labels


def _matched(config: Config) -> tuple[dict[int | None, int], list[str]]:
    """label -> pictures of the set to match, {} when there is none, and its classes' names; a job's output folder means
    its pictures."""
    if config.match is None:
        return {}, []
    root = storage.absolute(config.match)
    if storage.exists(storage.join(root, "report.json")):
        inside = (storage.join(root, name) for name in ("shards", "images"))
        root = next((folder for folder in inside if os.path.isdir(folder)), root)
    check_alone("match", root)
    tars = not os.path.isdir(root) or any(n.endswith(".tar") for n in storage.names_in(root))
    counts: dict[int | None, int] = {}
    if tars:
        found = shards.find(root)
        names = class_names.carried_classes(config.match, found)
        for shard in found:
            for location in shards.locate(shard)[0]:
                counts[location.label] = counts.get(location.label, 0) + 1
    else:
        below = {name: len(folders.listing(root, name).items) for name in folders.inside(root)}
        names = [name for name, n in below.items() if n]
        sizes = [below[name] for name in names]
        loose = len(folders.listing(root, "", deep=False).items)
        counts = {**dict(enumerate(sizes)), **({None: loose} if loose else {})}
    check(sum(counts.values()) > 0, "match", config.match, "shards or a folder with pictures; none is there")
    return counts, names


def _plan_text(config: Config, output: str, model: ModelFacts) -> Task:
    for name in FOR_BASE:
        value = getattr(config, name)
        check(not value, name, value, "null for a text-to-image model")
    text = _recipe(config, model)
    names = class_names_of(config.classes) if config.classes is not None else ()
    values = PromptValues(
        prompts=config.prompts,
        prompts_file=config.prompts_file,
        captions=config.captions,
        negative=config.negative_prompt,
        interpolate=config.interpolate,
        frames=config.frames,
        styles=config.styles,
        count=config.count,
        classes=names,
    )
    words = prompts_of(values)
    if words.skipped:
        print(f"captions left out: {words.skipped}", file=sys.stderr)
    return Task(
        config=config,
        output=output,
        about={"kind": "text", "classes": 0, "size": 128, "channels": 3},
        model_hash="",
        sampler=text.sampler,
        text=text,
        total=len(words),
        words=tuple(zip(words.prompts, words.labels, strict=True)),
        across=words.across,
        cycle=words.classes,
        names=names,
    )
