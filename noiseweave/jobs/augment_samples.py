"""What the phases of augment share: pictures in, fused pictures and their lineage out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from noiseweave import __version__
from noiseweave.cluster import shards, storage
from noiseweave.engine import images, spans
from noiseweave.engine.provenance import CREATED, Mark
from noiseweave.engine.records import Bad, Group, Location, Pair, Unit
from noiseweave.jobs import augment_gate, augment_masks, feature_cache, shard_pictures
from noiseweave.jobs.augment import Task

if TYPE_CHECKING:
    from noiseweave.engine.augmentation import Fused
    from noiseweave.engine.backbone import Backbone
    from noiseweave.engine.gate import Drawn
    from noiseweave.engine.quality import Check, Judge


CUT = 100  # characters of a prompt's end that the report shows


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A group that was read.

    Attributes:
        image_BHWC: uint8 [B, size, size, C].
        hashes: SHA-256 of each picture's file.
        masks: of each picture, for a region's.
    """

    group: Group
    image_BHWC: np.ndarray
    hashes: Sequence[str]
    masks: list[augment_masks.Mask]
    bad: list[Bad]


@dataclass(frozen=True, kw_only=True)
class Made:
    """What became of a group: only pictures of a pair are in it.

    Attributes:
        image_PHWC: uint8 [pairs, size, size, C].
        hashes: SHA-256 of the file of each picture of the group.
        areas: mean of each pair's region, 1 where there is none.
        cut: texts that the text encoder cuts -> the ends that it does not read.
        checks: of each pair's picture; None without a gate.
        rejected: pairs that the gate did not let pass, as another Made; None where there are none.
        sums: more of the report's.
    """

    group: Group
    image_PHWC: np.ndarray
    hashes: Sequence[str]
    areas: list[float]
    bad: list[Bad]
    cut: Mapping[str, str]
    checks: Sequence[Check] | None = None
    rejected: Made | None = None
    sums: Mapping[str, float] = field(default_factory=dict)


def device(task: Task) -> str:
    """cuda in a worker that holds a GPU, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() and task.config.cluster.gpus_per_worker != 0 else "cpu"


def load_backbone(task: Task) -> Backbone:
    from noiseweave.engine import backbone

    return backbone.load(task.config.model, device(task), task.config.size)


def load_extractor(task: Task) -> Callable[[np.ndarray], np.ndarray]:
    from noiseweave.engine import features

    config = task.config
    extract = feature_cache.extractor(
        config.features, lambda: features.space(config.features, lambda: load_backbone(task), device(task)),
        lambda: features.identity(config.features, config.model, config.size),
    )  # fmt: skip
    return lambda image_BHWC: features.similarity(config.features, extract(image_BHWC))


def read_shard(task: Task, side: int, unit: Unit) -> tuple[list[Location], np.ndarray, list[Bad]]:
    """Every good picture of a shard: locations, uint8 [N, side, side, 3], and what was bad."""
    where, image_NHWC, bad = shard_pictures.read_shard(unit.payload, side, 3, task.config.max_pixels)
    if not task.forgotten:
        return where, image_NHWC, bad
    kept = [i for i, p in enumerate(where) if not task.forgets(p.shard, p.key)]
    bad += [Bad(shard=unit.payload, key="", reason="forgotten")] * (len(where) - len(kept))
    return [where[i] for i in kept], image_NHWC[kept], bad


def make_groups(
    task: Task, a: np.ndarray, b: np.ndarray, similarity: np.ndarray,
    locate: Callable[[np.ndarray], Sequence[Location]],
) -> Iterator[tuple[Group, np.ndarray]]:  # fmt: skip
    """Selected pairs of rows (int64 [M], int64 [M], float64 [M]) -> groups, each with its images' row numbers.

    ``locate`` gives the Locations of the rows of one group, so that no more of the index is held as records.
    """
    from noiseweave.engine import augmentation, pairing

    config = task.config
    for n, members in enumerate(pairing.group(a, b, config.pairing)):
        rows, places = np.unique(np.stack([a[members], b[members]]), return_inverse=True)
        where = locate(rows)
        keys = [task.key_of(p.shard, p.key) for p in where]
        pairs = [
            augmentation.draw_pair(
                i,
                j,
                keys[i],
                keys[j],
                float(sim),
                config.fusion,
                config.seed,
                config.pairing.threshold,
                number,
            )
            for (i, j), sim in zip(places.reshape(2, -1).T.tolist(), similarity[members], strict=True)
            for number in range(config.fusion.per_pair)
        ]
        yield Group(id=f"{n:06d}", images=tuple(where), pairs=tuple(pairs)), rows


def read_group(task: Task, group: Group, seconds: Collection[int]) -> Loaded:
    """A group's pictures by range reads; those that went bad leave with their pairs.

    Args:
        seconds: positions of the pictures that are, or may be, the second of a pair.
    """
    bad: list[Bad] = []
    found: dict[int, np.ndarray] = {}
    hashes: dict[int, str] = {}
    for places in augment_masks.by_shard(group.images, range(len(group.images))):
        whole = [group.images[i] for i in places]
        data = shard_pictures.encoded(whole)
        good, worse = shard_pictures.decoded(whole, data, task.size, task.channels, task.config.max_pixels)
        found |= {places[n]: picture for n, picture in good.items()}
        hashes |= {places[n]: hashlib.sha256(data[n]).hexdigest() for n in good}
        bad += worse
    masks = augment_masks.read(task, group.images, found.keys() & set(seconds))
    return Loaded(
        group=without(group, found), image_BHWC=shard_pictures.stacked(found, task.size, task.channels),
        hashes=[hashes[i] for i in sorted(found)], masks=[masks[i] for i in sorted(found)], bad=bad,
    )  # fmt: skip


def without(group: Group, good: Collection[int]) -> Group:
    """The group with only its good images, renumbered, and the pairs among them."""
    place = {old: new for new, old in enumerate(sorted(good))}
    pairs = [replace(p, a=place[p.a], b=place[p.b]) for p in group.pairs if p.a in good and p.b in good]
    return replace(group, images=tuple(group.images[i] for i in sorted(good)), pairs=tuple(pairs))


def augment_group(task: Task, backbone: Backbone, judge: Judge | None, loaded: Loaded) -> Made:
    """Fuse the pairs of a group; with a judge, draw again what it rejects."""
    from noiseweave.engine import augmentation, gate

    group, bad = augment_masks.with_masks(task, loaded.group, loaded.masks)
    used = sorted({i for p in group.pairs for i in (p.a, p.b)})
    group, prompts = without(group, used), task.prompts_of([group.images[i] for i in used])
    config, keys = task.config, [task.key_of(p.shard, p.key) for p in group.images]
    image_BHWC, cut = loaded.image_BHWC[used], augmentation.cut_off(backbone, prompts)
    if not group.pairs:
        return Made(
            group=group, image_PHWC=image_BHWC[:0], hashes=[loaded.hashes[i] for i in used], areas=[],
            bad=loaded.bad + bad, cut=cut,
        )  # fmt: skip
    masks = {new: mask for new, i in enumerate(used) if not isinstance(mask := loaded.masks[i], str)}
    rows = len(image_BHWC) + len(group.pairs)  # each step has one of each
    with spans.span(0, len(image_BHWC) / rows):
        maps = augmentation.inverted(
            backbone, image_BHWC, keys, {p.b for p in group.pairs}, config.inversion, config.fusion, config.seed,
            prompts, masks,
        )  # fmt: skip
    fuse = partial(augmentation.fused, backbone, maps, sampler=config.inversion.sampler, fusion=config.fusion)
    with spans.span(len(image_BHWC) / rows, 1):
        done = gate.drawn(
            group.pairs, fuse,
            partial(augment_gate.redrawn, task, keys),
            partial(_checks, task, judge, group, image_BHWC) if judge else None,
            config.quality.redraw,
        )  # fmt: skip
    return _sorted(task, group, [loaded.hashes[i] for i in used], done, loaded.bad + bad, cut)


def _checks(
    task: Task, judge: Judge, group: Group, image_BHWC: np.ndarray, pairs: Sequence[Pair], fused: Fused
) -> list[Check]:
    from noiseweave.engine import quality

    return quality.checks(
        judge, fused.image_PHWC, fused.finite_P, [(p.a, p.b) for p in pairs], image_BHWC,
        [p.label for p in group.images], task.config.quality,
    )  # fmt: skip


def _sorted(
    task: Task, group: Group, hashes: Sequence[str], done: Drawn, bad: list[Bad], cut: Mapping[str, str]
) -> Made:
    """What was drawn, parted into what is kept and what is not; what is not finite is quarantined."""
    from noiseweave.engine import gate

    fused, checks = done.fused, done.checks
    passed = (
        np.ones(len(done.pairs), bool) if checks is None else np.array([c.verdict == "kept" for c in checks])
    )
    bad = bad + [_not_finite(group, p) for p, ok in zip(done.pairs, fused.finite_P, strict=True) if not ok]

    def part(places: np.ndarray, **more: Any) -> Made:
        pairs = tuple(done.pairs[i] for i in places)
        return Made(
            group=replace(group, pairs=pairs), image_PHWC=fused.image_PHWC[places], hashes=list(hashes),
            areas=[round(fused.areas[i], 4) for i in places], cut=cut,
            checks=None if checks is None else [checks[i] for i in places], **more,
        )  # fmt: skip

    out = np.flatnonzero(fused.finite_P & ~passed)
    rejected = part(out, bad=[]) if len(out) and task.config.quality.keep_rejected else None
    return part(np.flatnonzero(fused.finite_P & passed), bad=bad, rejected=rejected, sums=gate.counts(done))


def _not_finite(group: Group, pair: Pair) -> Bad:
    first, second = group.images[pair.a], group.images[pair.b]
    detail = f"the model gave no finite picture of it with {first.key}, in float32 neither"
    return Bad(shard=second.shard, key=second.key, reason="not_finite", detail=detail)


def counts(made: Made) -> dict[str, float]:
    """The sums that the report shows: inversions, pair ends, modes; prompts that were cut, with one such end."""
    group = made.group
    modes = Counter(f"mode:{p.mode}" for p in group.pairs)
    return {
        "images_inverted": len(group.images),
        "pair_ends": 2 * len(group.pairs),
        **modes,
        **made.sums,
        **({"prompts_cut": len(made.cut)} if made.cut else {}),
        **{f"cut:{end[:CUT]}": 1 for end in list(made.cut.values())[:1]},
    }


def write_shard(task: Task, number: str, made: Made) -> None:
    """The fused samples of a group as one shard, and those that the gate rejected as another; none that is empty."""
    for folder, prefix, some in (("shards", "augmented", made), ("rejected", "rejected", made.rejected)):
        rows = samples_of(task, some) if some is not None else []
        if rows:
            storage.write(storage.join(task.output, folder, f"{prefix}-{number}.tar"), shards.pack(rows))


def samples_of(task: Task, made: Made) -> list[tuple[str, dict[str, bytes]]]:
    """The samples of a group: key and files."""
    checks: Sequence[Check | None] = made.checks or [None] * len(made.group.pairs)
    return [
        sample(task, made, pair, picture, area, check)
        for pair, picture, area, check in zip(
            made.group.pairs, made.image_PHWC, made.areas, checks, strict=True
        )
    ]


def sample(
    task: Task, made: Made, pair: Pair, picture: np.ndarray, area: float, check: Check | None = None
) -> tuple[str, dict[str, bytes]]:
    """One new sample: its key and its files."""
    first, second = made.group.images[pair.a], made.group.images[pair.b]
    files: dict[str, bytes] = {}
    if first.label is not None and first.label == second.label:
        files["cls"] = str(first.label).encode()
    prompts = task.prompts_of((first, second))
    aims = prompts is not None and task.config.prompt.target is not None
    texts = prompts.target if prompts and aims else (first.caption, second.caption)
    caption = "; ".join(dict.fromkeys(text for text in texts if text))
    if caption:
        files["txt"] = caption.encode()
    known = lineage(task, first, second, pair, area, (made.hashes[pair.a], made.hashes[pair.b]))
    if prompts and (
        ends := [made.cut[t] for t in dict.fromkeys(prompts.source + prompts.target) if t in made.cut]
    ):
        known["prompt_cut"] = ends
    if check is not None:
        known["check"] = asdict(augment_gate.rounded(check))
    files["json"] = json.dumps(known, ensure_ascii=False).encode()
    kind, marked = task.config.samples.image_format, mark(known) if task.config.samples.provenance else None
    return key_of(task, first, second, pair.number), {kind: images.encode(picture, kind, mark=marked)} | files


def mark(known: Mapping[str, Any]) -> Mark:
    """What a fused picture's file says, of its lineage."""
    return Mark(
        source=CREATED, model=known["model"], model_hash=known["model_hash"], seed=known["seed"],
        parents=[parent["sha256"] for parent in known["parents"]],
        how={name: known[name] for name in ("pair_seed", "mode", "ratio")},
    )  # fmt: skip


def key_of(task: Task, first: Location, second: Location, number: int = 0) -> str:
    """The new sample's key: the same for a pair wherever and whenever it is fused, dot-free."""
    ends = sorted(task.key_of(p.shard, p.key) for p in (first, second))
    several = [f"{number}"] if number else []
    return "fused-" + hashlib.blake2b("\n".join(ends + several).encode(), digest_size=10).hexdigest()


def lineage(
    task: Task, first: Location, second: Location, pair: Pair, area: float, hashes: tuple[str, str]
) -> dict[str, Any]:
    """Where a fused picture came from, enough to make it again; hashes are the SHA-256 of its parents' files.

    The second's weight, so its share of a soft label, is ratio * area: the mean over the picture of what a
    region's mask lets it have (CutMix, arXiv 1905.04899). Without a region area is 1.
    """
    config, labels, region = task.config, (first.label, second.label), task.config.fusion.region
    weights = round(1 - pair.ratio * area, 6), round(pair.ratio * area, 6)
    value: dict[str, Any] = {
        "parents": [
            {"shard": task.name_of(p.shard), "key": p.key, "sha256": h, "label": p.label, "weight": w}
            for p, w, h in zip((first, second), weights, hashes, strict=True)
        ],
        "similarity": round(pair.similarity, 6), "mode": pair.mode, "ratio": pair.ratio,
        "num_steps": config.inversion.num_steps, "skip": config.inversion.skip, "noise": config.inversion.noise,
        "sampler": config.inversion.sampler,
        "keep_spread": config.fusion.keep_spread, "seed": config.seed, "pair_seed": pair.seed,
        "model": config.model.name, "model_hash": task.model_hash, "precision": config.model.precision,
        "noiseweave": __version__,
    }  # fmt: skip
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
