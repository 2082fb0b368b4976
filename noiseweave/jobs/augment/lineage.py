"""Names of fused pictures, and where they came from."""

from __future__ import annotations

import hashlib
from dataclasses import asdict

from noiseweave import __version__
from noiseweave.engine.pictures.provenance import CREATED, Mark
from noiseweave.engine.records import Json, JsonMapping, Location, Pair
from noiseweave.jobs.augment.task import Task
from noiseweave.jobs.reading import loras


def mark(known: JsonMapping) -> Mark:
    """What a fused picture's file says, of its lineage."""
    return Mark(
        source=CREATED,
        model=known["model"],
        model_hash=known["model_hash"],
        seed=known["seed"],
        parents=[parent["sha256"] for parent in known["parents"]],
        how={name: known[name] for name in ("pair_seed", "mode", "ratio")},
    )


def key_of(task: Task, first: Location, second: Location, number: int = 0) -> str:
    """The new sample's key: the same for a pair wherever and whenever it is fused, dot-free."""
    ends = sorted(task.key_of(p.shard, p.key) for p in (first, second))
    several = [f"{number}"] if number else []
    return "fused-" + hashlib.blake2b("\n".join(ends + several).encode(), digest_size=10).hexdigest()


def lineage(
    task: Task, first: Location, second: Location, pair: Pair, area: float, hashes: tuple[str, str]
) -> Json:
    """Where a fused picture came from, enough to make it again; hashes are the SHA-256 of its parents' files.

    The second's weight, so its share of a soft label, is ratio * area: the mean over the picture of what a
    region's mask lets it have (CutMix, arXiv 1905.04899). Without a region area is 1.
    """
    config, labels, region = task.config, (first.label, second.label), task.config.fusion.region
    weights = round(1 - pair.ratio * area, 6), round(pair.ratio * area, 6)
    value: Json = {
        "parents": [
            {"shard": task.name_of(p.shard), "key": p.key, "sha256": h, "label": p.label, "weight": w}
            | ({} if p.guess is None else {"guess": p.guess})
            for p, w, h in zip((first, second), weights, hashes, strict=True)
        ],
        "similarity": round(pair.similarity, 6),
        "mode": pair.mode,
        "ratio": pair.ratio,
        "num_steps": config.inversion.num_steps,
        "skip": config.inversion.skip,
        "noise": config.inversion.noise,
        "sampler": config.inversion.sampler,
        "eta": config.inversion.eta,
        "noise_shift": config.inversion.noise_shift,
        "keep_spread": config.fusion.keep_spread,
        "seed": config.seed,
        "pair_seed": pair.seed,
        "model": config.model.name,
        "model_hash": task.model_hash,
        "lora": loras.record(config.model),
        "precision": config.model.precision,
        "noiseweave": __version__,
    }
    prompts = task.prompts_of((first, second))
    if prompts is not None:
        value["prompt"] = asdict(prompts)
    if config.fusion.variation:
        value["variation"] = config.fusion.variation
    if pair.number or pair.attempt:
        value |= {"number": pair.number, "attempt": pair.attempt}
    if region.source != "everywhere":
        smooth = {"smooth": region.smooth} if region.source == "saliency" else {}
        value["region"] = {"source": region.source, **smooth, "area": area}
    if None not in labels and labels[0] != labels[1]:
        value["soft_label"] = dict(zip(map(str, labels), weights, strict=True))
    return value
