"""augment with ``pairing.scope: dataset``: exact over the whole input, in three phases."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from noiseweave.cluster import pipeline, stages, storage
from noiseweave.cluster.arrays import load_npy, npy
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Committed, Phase
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine.pictures import hashing
from noiseweave.engine.records import Group, Location, Pair, Quarantined
from noiseweave.jobs.augment import fusing, grouping, index, paired, pool, reading, subject, worker, writing
from noiseweave.jobs.augment import judge as judging
from noiseweave.jobs.augment.reference import Reference
from noiseweave.jobs.augment.skipping import skip_failed
from noiseweave.jobs.augment.task import Task
from noiseweave.jobs.reading import running
from noiseweave.jobs.reading.shard_pictures import ShardPictures

if TYPE_CHECKING:
    from noiseweave.engine.pairing import selection

CHUNK = 16  # groups in one file of the plan
CANDIDATE = [("a", "<i8"), ("b", "<i8"), ("similarity", "<f8")]


Embedded = tuple[list[Location], np.ndarray, np.ndarray, list[Quarantined]]
"""Locations, features and perceptual hashes of the good pictures of a shard, and what was quarantined."""


def run(
    task: Task, found: list[str], book: Ledger, s: Session, unlabelled: Sequence[str] = ()
) -> dict[str, Outcome]:
    """Embed, pair and generate; stops after a phase with failed units unless they are to be skipped.

    Args:
        unlabelled: shards of the pool.
    """
    every = [*found, *unlabelled]
    outcomes = {"embed": embed(task.reference, found, book, s)}
    skip_failed(task, book, "embed", outcomes["embed"], lambda unit: [found[int(unit)]])
    if outcomes["embed"].failed:
        return outcomes
    subject.look(task, book, found)
    if unlabelled:
        outcomes |= _with_pool(task, len(found), list(unlabelled), book, s)
        if any(outcome.failed for outcome in outcomes.values()):
            return outcomes
    outcomes["pair"] = pair(task, book, s)
    skip_failed(task, book, "pair", outcomes["pair"], partial(_shards_of_block, task, book, every))
    if outcomes["pair"].failed:
        return outcomes
    plan_groups(task, book)
    if task.config.gate:
        places = partial(index.spread_places, book, own=True)
        features = partial(index.spread_features, book, own=True)
        outcomes["judge"] = judging.make(task.reference, book, s, places, features)
        if outcomes["judge"].failed:
            return outcomes
    outcomes["generate"] = generate(task, book, s)
    skip_failed(task, book, "generate", outcomes["generate"], partial(_shards_of_group, book))
    return outcomes


def _with_pool(task: Task, first: int, unlabelled: list[str], book: Ledger, s: Session) -> dict[str, Outcome]:
    """Embed the pool, and take in what is new and sure of it."""
    own = pool.book_of(book)
    outcome = embed(task.reference, unlabelled, own, s)
    skip_failed(task, own, "embed", outcome, lambda unit: [unlabelled[int(unit)]])
    if outcome.failed:
        return {pool.EMBED: outcome}
    pool.check(task, book, outcome.produced)
    return {pool.EMBED: outcome, **pool.run(task, first, book, s)}


# embed: a shard -> features + an index of byte ranges


def embed(reference: Reference, found: list[str], book: Ledger, s: Session) -> Outcome:
    """Features of every shard, and an index of its pictures."""
    plan = Plan.of(found)
    phase = Phase(
        name="embed",
        fetch=partial(reading.read_shard, reference),
        make_compute=partial(_make_embed, reference),
        commit=partial(_commit_embed, book),
        size=stages.length_of_first,
    )
    return pipeline.run(plan, phase, book, s)


def _make_embed(reference: Reference) -> Callable[[ShardPictures], Embedded]:
    extract = worker.load_extractor(reference)

    def compute(data: ShardPictures) -> Embedded:
        locations, image_NHWC, bad = data
        f_ND = extract(image_NHWC) if locations else np.zeros((0, 0), np.float32)
        return locations, f_ND, hashing.perceptual_hashes(image_NHWC), bad

    return compute


def _commit_embed(book: Ledger, unit: Unit, result: Embedded) -> Committed:
    locations, f_ND, hash_N, bad = result
    labels = np.array([-1 if p.label is None else p.label for p in locations], np.int64)
    storage.write(book.path("index", f"{unit.id}.parquet"), index.parquet(locations))
    storage.write(book.path("features", f"{unit.id}.label.npy"), npy(labels))
    storage.write(book.path("features", f"{unit.id}.hash.npy"), npy(hash_N))
    storage.write(book.path("features", f"{unit.id}.npy"), npy(f_ND))
    extra = {"broken_profiles": float(sum(p.broken_profile for p in locations))}
    return UnitReport(id=unit.id, produced=len(locations), extra=extra), bad


# pair: a block of rows against all columns


def pair(task: Task, book: Ledger, s: Session) -> Outcome:
    """The most similar partners of each block of pictures."""
    rows, block = index.rows_of(book), task.config.pairing.block
    total = sum(n for _, n in rows)
    phase = Phase(
        name="pair",
        fetch=stages.payload,
        make_compute=partial(_make_pair, task, book, rows),
        commit=partial(_commit_pair, book),
        noun="candidates",
    )
    plan = Plan(length=math.ceil(total / block), unit=partial(_block_unit, total, block))
    return pipeline.run(plan, phase, book, s)


def _block_unit(total: int, block: int, i: int) -> Unit:
    return Unit(index=i, id=f"{i:06d}", payload=(i * block, min((i + 1) * block, total)))


def _shards_of_block(task: Task, book: Ledger, found: list[str], unit: str) -> list[str]:
    """The shards with the rows of a block."""
    block, position, names = task.config.pairing.block, 0, []
    first = int(unit) * block
    for embedded, n in index.rows_of(book):
        if position < first + block and first < position + n:
            names.append(found[int(embedded)])
        position += n
    return names


def _make_pair(
    task: Task, book: Ledger, rows: list[tuple[str, int]]
) -> Callable[[tuple[int, int]], selection.Candidates]:
    from noiseweave.engine import spans
    from noiseweave.engine.pairing import nearest

    config = task.config

    def compute(span: tuple[int, int]) -> selection.Candidates:
        first, end = span
        blocks = list(columns(book, rows, config.pairing.block, first, end))
        f_RD = np.concatenate([f for _, f, _ in blocks])
        label_R = np.concatenate([label for _, _, label in blocks])
        blocks_in_all = math.ceil(sum(n for _, n in rows) / config.pairing.block)
        every = spans.steps(columns(book, rows, config.pairing.block), blocks_in_all)
        device = worker.device(task.reference)
        return nearest.nearest(first, f_RD, label_R, every, config.pairing, device, config.seed)

    return compute


def columns(
    book: Ledger, rows: list[tuple[str, int]], block: int, first: int = 0, end: int | None = None
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first row, features, labels) of rows [first, end), streamed from the files in pieces of ``block`` rows.

    Small shards are joined, large ones cut: a piece never depends on how the data set was sharded.
    """
    position, start, have = 0, first, 0
    f_parts: list[np.ndarray] = []
    label_parts: list[np.ndarray] = []
    end = sum(n for _, n in rows) if end is None else end
    for unit, n in rows:
        low, high = max(first - position, 0), min(end - position, n)
        position += n
        if low >= high:
            continue
        f_ND = load_npy(book.path("features", f"{unit}.npy"))
        label_N = load_npy(book.path("features", f"{unit}.label.npy"))
        while low < high:
            take = min(high - low, block - have)
            f_parts.append(f_ND[low : low + take])
            label_parts.append(label_N[low : low + take])
            low, have = low + take, have + take
            if have == block:
                yield start, np.concatenate(f_parts), np.concatenate(label_parts)
                start, have, f_parts, label_parts = start + have, 0, [], []
    if have:
        yield start, np.concatenate(f_parts), np.concatenate(label_parts)


def _commit_pair(book: Ledger, unit: Unit, result: selection.Candidates) -> Committed:
    table = np.zeros(len(result[0]), CANDIDATE)
    table["a"], table["b"], table["similarity"] = result
    storage.write(book.path("pairs", f"{unit.id}.npy"), npy(table))
    return UnitReport(id=unit.id, produced=len(table)), []


# groups: the plan of the last phase, made once


def plan_groups(task: Task, book: Ledger) -> None:
    """Pairs -> groups, written as files of CHUNK groups; the summary written last says that they are whole."""
    from noiseweave.engine.pairing import selection

    if storage.exists(book.path("groups.json")):
        return
    tables = [
        np.asarray(load_npy(book.path("pairs", f"{r['id']}.npy")))
        for r in book.records("pair")
        if r["produced"]
    ]
    table = np.concatenate(tables) if tables else np.zeros(0, CANDIDATE)
    label_N, hash_N = index.numbers(book, "label", np.int64), index.numbers(book, "hash", np.uint64)
    known = selection.Known(label_N=label_N, hash_N=hash_N)
    found = table["a"], table["b"], table["similarity"]
    selected = selection.select(found, known, task.config.pairing, task.config.seed)
    every, count = index.whole(book), 0
    groups = grouping.make_groups(
        task, selected, lambda rows: [Location(**row) for row in every.take(pa.array(rows)).to_pylist()]
    )
    while lines := [json.dumps(asdict(group)) for group, _ in islice(groups, CHUNK)]:
        storage.write(book.path("groups", f"{count // CHUNK:06d}.jsonl"), "\n".join(lines).encode())
        count += len(lines)
    about = asdict(paired.count(known.label_N, selected))
    storage.write_json(book.path("groups.json"), {"groups": count, "pairs": len(selected.a), "paired": about})


def read_group(book: Ledger, number: int) -> Group:
    """One group of the plan."""
    lines = storage.read(book.path("groups", f"{number // CHUNK:06d}.jsonl")).splitlines()
    value = json.loads(lines[number % CHUNK])
    return Group(
        id=value["id"],
        images=tuple(Location(**p) for p in value["images"]),
        pairs=tuple(Pair(**p) for p in value["pairs"]),
    )


def _shards_of_group(book: Ledger, unit: str) -> list[str]:
    """The shards with the pictures of a group."""
    return sorted({p.shard for p in read_group(book, int(unit)).images})


# generate: a group -> an augmented shard


def generate(task: Task, book: Ledger, s: Session) -> Outcome:
    """The fused pictures of each group."""
    planned = storage.read_json(book.path("groups.json"))
    config, inputs = task.config, sum(n for _, n in index.rows_of(book))
    guided = task.conditioning != "none" and (config.prompt.guidance_target or 1) > 1
    pictures = min(2 * planned["pairs"], inputs) + (1 + guided) * planned["pairs"]
    model = running.with_compiling(config.model, config.size, config.inversion.kept * pictures, s)
    task = replace(task, config=replace(config, model=model))
    phase = Phase(
        name="generate",
        fetch=partial(_fetch_group, task, book),
        make_compute=partial(_make_generate, task, book),
        commit=partial(_commit_group, task),
        size=_pairs,
    )
    plan = Plan.of(range(planned["groups"]))
    return pipeline.run(plan, phase, book, s)


def _fetch_group(task: Task, book: Ledger, unit: Unit) -> reading.Loaded:
    group = read_group(book, unit.payload)
    return reading.read_group(task, group, {p.b for p in group.pairs})


def _pairs(loaded: reading.Loaded) -> int:
    return len(loaded.group.pairs)


def _make_generate(task: Task, book: Ledger) -> Callable[[reading.Loaded], fusing.Made]:
    backbone, judge = worker.load_backbone(task.reference), None
    if task.config.gate:
        f_ND = index.spread_features(book, task.config.quality.pool)
        learnt = judging.load(book, worker.device(task.reference))
        extract = worker.load_extractor(task.reference)
        judge = judging.judge(task.reference, extract, f_ND, learnt, backbone)
    return partial(fusing.augment_group, task, backbone, judge)


def _commit_group(task: Task, unit: Unit, made: fusing.Made) -> Committed:
    writing.write_shard(task, unit.id, made)
    return fusing.report(unit.id, [made]), made.bad
