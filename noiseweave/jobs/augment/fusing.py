"""The pairs of a group, fused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from noiseweave.cluster.units import UnitReport
from noiseweave.engine import spans
from noiseweave.engine.records import Group, Pair, Quarantined
from noiseweave.jobs.augment import judge as judging
from noiseweave.jobs.augment import masks as augment_masks
from noiseweave.jobs.augment import paired
from noiseweave.jobs.augment.reading import Loaded, without
from noiseweave.jobs.augment.task import Task

if TYPE_CHECKING:
    from noiseweave.engine.fusion.groups import Fused
    from noiseweave.engine.fusion.redraw import Redrawn
    from noiseweave.engine.judging.quality import Judge, QualityCheck
    from noiseweave.engine.networks.backbone import Backbone


CUT = 100  # characters of a prompt's end that the report shows


@dataclass(frozen=True, kw_only=True)
class Made:
    """What became of a group: only pictures of a pair are in it.

    Attributes:
        image_PHWC: uint8 [pairs, size, size, C].
        hashes: SHA-256 of the file of each picture of the group.
        areas: mean of each pair's region, 1 where there is none.
        truncated: texts that the text encoder truncates -> the ends that it does not read.
        checks: of each pair's picture; None without a gate.
        rejected: pairs that the gate did not let pass, as another Made; None where there are none.
        rejections: verdict -> pictures that stayed rejected.
        drawn: pictures that were drawn, each once, whatever became of them.
        redrawn: pictures that were drawn again.
    """

    group: Group
    image_PHWC: np.ndarray
    hashes: Sequence[str]
    areas: list[float]
    bad: list[Quarantined]
    truncated: Mapping[str, str]
    checks: Sequence[QualityCheck] | None = None
    rejected: Made | None = None
    rejections: Counter[str] = field(default_factory=Counter)
    drawn: int = 0
    redrawn: int = 0


def augment_group(task: Task, backbone: Backbone, judge: Judge | None, loaded: Loaded) -> Made:
    """Fuse the pairs of a group; with a judge, draw again what it rejects."""
    from noiseweave.engine.fusion import groups, redraw

    group, bad = augment_masks.with_masks(task, loaded.group, loaded.masks)
    used = sorted({i for p in group.pairs for i in (p.a, p.b)})
    group, prompts = without(group, used), task.prompts_of([group.images[i] for i in used])
    config, keys = task.config, [task.key_of(p.shard, p.key) for p in group.images]
    image_BHWC, truncated = loaded.image_BHWC[used], groups.truncated_prompts(backbone, prompts)
    if not group.pairs:
        return Made(
            group=group,
            image_PHWC=image_BHWC[:0],
            hashes=[loaded.hashes[i] for i in used],
            areas=[],
            bad=loaded.bad + bad,
            truncated=truncated,
        )
    masks = {new: mask for new, i in enumerate(used) if not isinstance(mask := loaded.masks[i], str)}
    rows = len(image_BHWC) + len(group.pairs)  # each step has one of each
    with spans.span(0, len(image_BHWC) / rows):
        parents = groups.Parents(image_BHWC=image_BHWC, keys=keys, prompts=prompts, masks=masks)
        seconds = {p.b for p in group.pairs}
        maps = groups.invert_group(backbone, parents, seconds, config.inversion, config.fusion, config.seed)
    fuse = partial(groups.fuse_group, backbone, maps, solver=config.inversion.sampler, fusion=config.fusion)
    with spans.span(len(image_BHWC) / rows, 1):
        done = redraw.redraw_rejected(
            group.pairs,
            fuse,
            partial(judging.redrawn, task, keys),
            partial(_checks, task, judge, group, image_BHWC) if judge else None,
            config.quality.redraw,
        )
    return _sorted(task, group, [loaded.hashes[i] for i in used], done, loaded.bad + bad, truncated)


def _checks(
    task: Task, judge: Judge, group: Group, image_BHWC: np.ndarray, pairs: Sequence[Pair], fused: Fused
) -> list[QualityCheck]:
    from noiseweave.engine.judging import quality

    return quality.checks(
        judge,
        fused.image_PHWC,
        fused.finite_P,
        [(p.a, p.b) for p in pairs],
        image_BHWC,
        [p.label for p in group.images],
        task.config.quality,
    )


def _sorted(
    task: Task,
    group: Group,
    hashes: Sequence[str],
    done: Redrawn,
    bad: list[Quarantined],
    truncated: Mapping[str, str],
) -> Made:
    """What was drawn, parted into what is kept and what is not; what is not finite, or flagged, is quarantined."""
    fused, checks = done.fused, done.checks
    passed = (
        np.ones(len(done.pairs), bool) if checks is None else np.array([c.verdict == "kept" for c in checks])
    )
    shown_P = fused.finite_P & ~fused.flagged_P
    lost = [(done.pairs[i], bool(fused.flagged_P[i])) for i in np.flatnonzero(~shown_P).tolist()]
    bad = bad + [_lost(group, pair, flagged) for pair, flagged in lost]

    def part(places: np.ndarray, **more: Any) -> Made:
        pairs = tuple(done.pairs[i] for i in places)
        return Made(
            group=replace(group, pairs=pairs),
            image_PHWC=fused.image_PHWC[places],
            hashes=list(hashes),
            areas=[round(fused.areas[i], 4) for i in places],
            truncated=truncated,
            checks=None if checks is None else [checks[i] for i in places],
            **more,
        )

    out = np.flatnonzero(shown_P & ~passed)
    rejected = part(out, bad=[]) if len(out) and task.config.quality.keep_rejected else None
    return part(
        np.flatnonzero(shown_P & passed),
        bad=bad,
        rejected=rejected,
        rejections=done.rejected,
        drawn=len(done.pairs),
        redrawn=done.attempts,
    )


def _lost(group: Group, pair: Pair, flagged: bool) -> Quarantined:
    """The record of a pair without a picture."""
    first, second = group.images[pair.a], group.images[pair.b]
    why = f"not_finite: the model gave no finite picture of it with {first.key}, in float32 neither"
    if flagged:
        why = (
            f"flagged: by the model's safety checker, its picture with {first.key}, and once more drawn anew"
        )
    return Quarantined.of(why, shard=second.shard, key=second.key)


def report(unit: str, several: Sequence[Made], images_read: int = 0) -> UnitReport:
    """What is recorded of a unit's groups: pictures inverted, parents of what was drawn, modes, classes, verdicts of
    rejected pictures, prompts that were truncated and, of each group with any, one end that was not read."""
    groups = [made.group for made in several]
    extra = {
        "images_read": images_read,
        "images_inverted": sum(len(g.images) for g in groups),
        "pair_ends": 2 * sum(made.drawn for made in several),
        "redrawn": sum(made.redrawn for made in several),
        "prompts_truncated": sum(len(made.truncated) for made in several),
    }
    tallies = {
        "modes": Counter(p.mode for g in groups for p in g.pairs),
        "classes": Counter(
            paired.class_of(g.images[p.a].label, g.images[p.b].label) for g in groups for p in g.pairs
        ),
        "rejected": sum((made.rejections for made in several), Counter[str]()),
        "truncated": Counter(end[:CUT] for made in several for end in list(made.truncated.values())[:1]),
    }
    return UnitReport(
        id=unit,
        produced=sum(len(g.pairs) for g in groups),
        extra={name: float(n) for name, n in extra.items() if n},
        tallies={name: dict(counts) for name, counts in tallies.items() if counts},
    )
