"""augment with ``pairing.scope: window``: one flow whose unit is a run of consecutive shards.

Window w holds the shards [w (W - O), w (W - O) + W): one actor embeds, pairs and fuses it, so the first fused
shard is written while the input is still arriving. A pair whose images both lie in the O shards that a window
shares with the one before belongs to that one alone. max_pairs and max_uses count within a window.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from noiseweave.cluster import pipeline, shards, storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Committed, Phase
from noiseweave.cluster.units import Plan, Unit
from noiseweave.engine import spans
from noiseweave.engine.pairing.recipes import PairingRecipe
from noiseweave.engine.pictures import hashing
from noiseweave.engine.records import Group, Location, Quarantined
from noiseweave.jobs.augment import fusing, grouping, paired, reading, subject, worker, writing
from noiseweave.jobs.augment import judge as judging
from noiseweave.jobs.augment.judge import Extract
from noiseweave.jobs.augment.skipping import skip_failed
from noiseweave.jobs.augment.task import Task

if TYPE_CHECKING:
    from noiseweave.engine.judging.quality import Judge
    from noiseweave.engine.networks.backbone import Backbone

POLL = 1.0  # seconds between two looks at a growing folder


Window = tuple[np.ndarray, reading.Loaded, list[Quarantined], int]
"""Pictures for the extractor and for the model, what was quarantined, rows that the window before has as well."""
Done = tuple[list[fusing.Made], paired.Paired, list[Location], list[Quarantined], int]
"""Groups, pairing, pictures that were read, what was quarantined, rows that the window before has as well."""


def run(task: Task, found: list[str], book: Ledger, s: Session) -> dict[str, Outcome]:
    """Do every window; a growing input is done in rounds, each with the windows that are whole by then."""
    recipe = task.config.pairing
    if not task.config.follow:
        subject.look(task, book, found)
        outcome = do(task, found, windows(len(found), recipe, ended=True), book, s)
    else:
        outcome = _follow(task, book, s)
    return {"window": outcome}


def windows(shard_count: int, recipe: PairingRecipe, ended: bool) -> int:
    """How many windows there are in ``shard_count`` shards; the last may be short once the input has ended."""
    stride = recipe.window - recipe.overlap
    whole = max(0, (shard_count - recipe.window) // stride + 1)
    covered = whole * stride + recipe.overlap if whole else 0
    return whole + (ended and shard_count > covered)


def do(task: Task, found: Sequence[str], count: int, book: Ledger, s: Session) -> Outcome:
    """Pair and generate within each of the first ``count`` windows."""
    phase = Phase(
        name="window",
        fetch=partial(_fetch, task),
        make_compute=partial(_make, task),
        commit=partial(_commit, task),
    )
    plan = Plan(length=count, unit=partial(_unit, list(found), task.config.pairing))
    outcome = pipeline.run(plan, phase, book, s)
    skip_failed(task, book, phase.name, outcome, lambda unit: plan.unit(int(unit)).payload)
    return outcome


def _unit(found: Sequence[str], recipe: PairingRecipe, w: int) -> Unit:
    start = w * (recipe.window - recipe.overlap)
    return Unit(index=w, id=f"{w:06d}", payload=tuple(found[start : start + recipe.window]))


# a growing input


def _follow(task: Task, book: Ledger, s: Session) -> Outcome:
    """Rounds of whole windows until the input has ended, then the rest."""
    seen = _remembered(book)
    outcome: Outcome | None = None
    sizes: dict[str, int] = {}
    last = time.monotonic()
    while True:
        ended = _ended(task, last)
        new = _arrived(task, seen, sizes, ended)
        if new:
            last, ended = time.monotonic(), False
            seen += new
            storage.write_json(book.path("input.json"), seen)
        count = windows(len(seen), task.config.pairing, ended)
        if ended or count > (outcome.units if outcome else 0):
            outcome = do(task, seen, count, book, s)
            if ended or outcome.failed:
                return outcome
        time.sleep(POLL)


def _remembered(book: Ledger) -> list[str]:
    path = book.path("input.json")
    return list(storage.read_json(path)) if storage.exists(path) else []


def _ended(task: Task, last: float) -> bool:
    marker = storage.join(storage.absolute(task.config.input), task.config.follow_marker)
    return storage.exists(marker) or time.monotonic() - last > task.config.follow_quiet


def _arrived(task: Task, seen: list[str], sizes: dict[str, int], ended: bool) -> list[str]:
    """New shards, in the order of their names: those whose size stayed the same between two looks.

    Raises:
        ValueError: one arrived whose name sorts before a shard that is already taken.
    """
    known = set(seen)
    new = []
    for shard in _listing(task.config.input):
        if shard in known:
            continue
        if seen and shard < seen[-1]:
            raise ValueError(
                f"input: {shard} arrived after {seen[-1]}; shards must arrive in the order of names"
            )
        size = storage.size_of(shard)
        if not ended and sizes.get(shard) != size:
            sizes[shard] = size
            break  # still being written: what comes after it waits
        new.append(shard)
    return new


def _listing(folder: str) -> list[str]:
    try:
        return shards.find(folder)
    except ValueError:  # nothing there yet
        return []


# a window


def _fetch(task: Task, unit: Unit) -> Window:
    """Locations, pictures for the extractor, pictures for the model, bad ones, rows of the shared shards."""
    every: list[Location] = []
    seen, bad, shared = [], [], 0
    for number, shard in enumerate(unit.payload):
        where, image_NHWC, bad_here = reading.read_shard(task.reference, Unit(index=0, id="", payload=shard))
        every += where
        seen.append(image_NHWC)
        overlaps = unit.index > 0 and number < task.config.pairing.overlap
        shared += len(where) if overlaps else 0
        bad += [] if overlaps else bad_here  # the window before has counted them
    whole = Group(id=unit.id, images=tuple(every), pairs=())
    loaded = reading.read_group(task, whole, range(len(every)))
    assert len(loaded.group.images) == len(every)  # decoded once above, so they decode again
    return np.concatenate(seen), loaded, bad, shared


def _make(task: Task) -> Callable[[Window], Done]:
    extract = worker.load_extractor(task.reference)
    backbone = worker.load_backbone(task.reference)
    return partial(_compute, task, extract, backbone)


def _compute(task: Task, extract: Extract, backbone: Backbone, data: Window) -> Done:
    seen_NHWC, loaded, bad, shared = data
    where, done = loaded.group.images, []
    f_ND = extract(seen_NHWC) if where else np.zeros((0, 0), np.float32)
    judge = _judge(task, extract, backbone, f_ND, loaded) if task.config.gate and where else None
    about = paired.Paired()
    groups: list[tuple[Group, np.ndarray]] = []
    if where:
        groups, about = plan(task, where, f_ND, hashing.perceptual_hashes(seen_NHWC), shared)
    for group, rows in spans.steps(groups):
        masks, hashes = [loaded.masks[r] for r in rows], [loaded.hashes[r] for r in rows]
        part = reading.Loaded(
            group=group, image_BHWC=loaded.image_BHWC[rows], hashes=hashes, masks=masks, bad=[]
        )
        done.append(fusing.augment_group(task, backbone, judge, part))
    return done, about, list(where), bad + [b for made in done for b in made.bad], shared


def _judge(
    task: Task, extract: Extract, backbone: Backbone, f_ND: np.ndarray, loaded: reading.Loaded
) -> Judge:
    from noiseweave.engine.judging import judge

    labels = [p.label for p in loaded.group.images]
    label_N = np.array([-1 if y is None else y for y in labels], np.int64)
    config = task.config
    learnt = judge.learn(
        config.quality, loaded.image_BHWC, f_ND, label_N, config.seed, worker.device(task.reference)
    )
    return judging.judge(task.reference, extract, f_ND, learnt, backbone)


def plan(
    task: Task, where: Sequence[Location], f_ND: np.ndarray, hash_N: np.ndarray, shared: int
) -> tuple[list[tuple[Group, np.ndarray]], paired.Paired]:
    """A window's groups, each with the row numbers of its images, and what is counted of its pairs."""
    from noiseweave.engine.pairing import nearest, selection

    recipe, seed, device = task.config.pairing, task.config.seed, worker.device(task.reference)
    label_N = np.array([-1 if p.label is None else p.label for p in where], np.int64)
    found = []
    for start in range(0, len(f_ND), recipe.block):
        rows = slice(start, start + recipe.block)
        blocks = (
            (c, f_ND[c : c + recipe.block], label_N[c : c + recipe.block])
            for c in range(0, len(f_ND), recipe.block)
        )
        found.append(nearest.nearest(start, f_ND[rows], label_N[rows], blocks, recipe, device, seed))
    a, b, similarity = (np.concatenate(part) for part in zip(*found, strict=True))
    ours = np.maximum(a, b) >= shared
    known = selection.Known(label_N=label_N, hash_N=hash_N)
    selected = selection.select((a[ours], b[ours], similarity[ours]), known, recipe, seed)
    groups = list(grouping.make_groups(task, selected, lambda rows: [where[r] for r in rows]))
    return groups, paired.count(label_N, selected, shared)


def _commit(task: Task, unit: Unit, result: Done) -> Committed:
    done, about, where, bad, shared = result
    for number, made in enumerate(done):
        writing.write_shard(task, unit.id, made, f"{number:03d}")
    report = paired.added(fusing.report(unit.id, done, len(where)), about)
    broken = float(sum(p.broken_profile for p in where[shared:]))
    return replace(report, extra={**report.extra, "broken_profiles": broken}), bad
