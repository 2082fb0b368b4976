"""The second flow of forget: what is to go leaves its shard and augment's working folder; then what counted it.

Each step may be done twice: a shard that was rewritten has nothing left to remove, and a marker or report that was
corrected carries the plan's digest.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

from noiseweave import __version__
from noiseweave.cluster import pipeline, shards, stages, storage
from noiseweave.cluster.arrays import array, npy, table
from noiseweave.cluster.blanking import blanked
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Committed, Phase
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine.records import Group, Json, Location, Pair
from noiseweave.jobs import outputs
from noiseweave.jobs.augment.index import INDEX
from noiseweave.jobs.augment.reference import FORGOTTEN, digest_of
from noiseweave.jobs.forget import class_folders
from noiseweave.jobs.forget.class_folders import Files
from noiseweave.jobs.forget.config import Config
from noiseweave.jobs.forget.search import Tally, index_files
from noiseweave.jobs.forget.source import is_packed
from noiseweave.jobs.forget.trace import Hits, Targets
from noiseweave.jobs.report.job import PAGE, finish_page

REPORT = "forget.json"
SHOWING = ("contact_sheet.png", PAGE)  # may show what was removed
SHOWN = 20  # shards that the screen lists


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a unit changes: a shard, a file of augment's plan, or an index with its features; keys of a shard."""

    kind: Literal["shard", "groups", "index"]
    url: str
    keys: tuple[str, ...] = ()


def run(plan: Json, folders: Sequence[str], book: Ledger, s: Session) -> Outcome:
    """Rewrite the shards with hits, and what augment keeps of the pictures."""
    targets = Targets(names=plan["targets"])
    work = [Part(kind="shard", url=url, keys=tuple(keys)) for url, keys in plan["hits"].items()]
    for folder in folders:
        work += [Part(kind="index", url=url) for url in index_files(folder)]
        groups = storage.join(folder, "_run", "groups")
        work += [Part(kind="groups", url=storage.join(groups, name)) for name in storage.names_in(groups)]
    phase = Phase(
        name="remove",
        fetch=partial(_fetch, targets),
        make_compute=stages.unchanged,
        commit=_commit,
        noun="samples",
    )
    return pipeline.run(Plan.of(work), phase, book, s)


def _fetch(targets: Targets, unit: Unit) -> tuple[int, Files]:
    """Samples that go, and the files that change."""
    part: Part = unit.payload
    if not storage.exists(part.url):  # a shard that was left empty, by a run that was killed
        return 0, []
    if part.kind == "groups":
        return 0, _groups(part.url, targets)
    if part.kind == "index":
        return 0, _index(part.url, targets)
    if class_folders.are_in(part.url):
        return class_folders.without(part.url, part.keys)
    data = storage.read(part.url)
    content, gone = (blanked if is_packed(part.url) else shards.without)(data, part.keys)
    return gone, [(part.url, content)] if gone else []


def _commit(unit: Unit, result: tuple[int, Files]) -> Committed:
    gone, files = result
    for path, content in files:
        if content is None:
            storage.remove(path)
        else:
            storage.write(path, content)
    return UnitReport(id=unit.id, produced=gone), []


# what augment keeps


def _groups(path: str, targets: Targets) -> Files:
    """A file of augment's plan without the pictures, and the pairs that they are in; the numbering stays."""
    from noiseweave.jobs.augment.reading import without

    lines = [json.loads(line) for line in storage.read(path).splitlines()]
    groups = [
        Group(
            id=value["id"],
            images=tuple(Location(**p) for p in value["images"]),
            pairs=tuple(Pair(**p) for p in value["pairs"]),
        )
        for value in lines
    ]
    left = [[i for i, p in enumerate(g.images) if not targets.has(p.key, p.shard)] for g in groups]
    kept = [without(group, places) for group, places in zip(groups, left, strict=True)]
    if kept == groups:
        return []
    return [(path, "\n".join(json.dumps(asdict(group)) for group in kept).encode())]


def _index(path: str, targets: Targets) -> Files:
    """An index and its features with the pictures' rows emptied: pairs count rows, so that these stay where they are.

    The index comes last, as it says which rows are meant.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    index = table(path, INDEX)
    rows = index.to_pylist()
    gone = [i for i, row in enumerate(rows) if targets.has(row["key"], row["shard"])]
    if not gone:
        return []
    for i in gone:
        rows[i] = {**dict.fromkeys(rows[i]), "shard": rows[i]["shard"], "key": "", "offset": 0, "size": 0}
    files: Files = []
    stem = path.removesuffix(".parquet").replace("/_run/index/", "/_run/features/")
    for name, value in ((f"{stem}.npy", 0), (f"{stem}.label.npy", -1)):
        if storage.exists(name):
            held = array(storage.read(name))
            held[gone] = value
            files.append((name, npy(held)))
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=INDEX), buffer)
    return [*files, (path, buffer.getvalue())]


# what counted them


def tidy(config: Config, plan: Json, folders: Sequence[str]) -> None:
    """Correct the markers and reports of each output, write forget.json, and build report.html of what is left.

    A contact sheet that may show what was removed is deleted: augment makes it again.
    """
    digest = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]
    for folder in folders:
        hits = {url: keys for url, keys in plan["hits"].items() if url.startswith(storage.join(folder, ""))}
        book = Ledger(output=folder)
        job = _job(book)
        if job == "augment":
            _remember(book, plan["targets"])
        _write_report(config, plan, folder, hits, digest)
        if not hits:
            continue
        for phase, unit, counted in _units(hits):
            _correct_marker(book.path("done", phase, f"{unit}.json"), counted, digest)
        class_folders.close(folder)
        if job is not None:
            _correct_report(book, job)
        for name in SHOWING:
            storage.remove(storage.join(folder, name))
        if job is not None:
            finish_page(folder)


def _job(book: Ledger) -> str | None:
    path = book.path("config.json")
    return storage.read_object(path).get("job") if storage.exists(path) else None


def _remember(book: Ledger, targets: dict[str, list[list[str]]]) -> None:
    """Record for a run that is not finished yet which pictures it must not use."""
    path = book.path(FORGOTTEN)
    known = set(storage.read_json(path) if storage.exists(path) else ())
    new = {digest_of(name, key) for key, several in targets.items() for names in several for name in names}
    if not new <= known:
        storage.write_json(path, sorted(known | new))


def _units(hits: Hits) -> Iterator[tuple[str, str, list[Tally | None]]]:
    """(phase, unit, what the samples that went were counted in) of each unit that wrote a shard with hits."""
    gone: dict[tuple[str, str], list[Tally | None]] = defaultdict(list)
    for url, keys in hits.items():
        if name := outputs.ShardName.of(url):
            gone[name.phase, name.unit] += keys.values()
    for (phase, unit), counted in gone.items():
        yield phase, unit, counted


def _correct_marker(path: str, counted: list[Tally | None], digest: str) -> None:
    """A finished unit counts what is left of its samples; its marker stays, so that nothing is made again."""
    if not storage.exists(path):
        return
    record = storage.read_json(path)
    if digest in record.get("forgets", ()):
        return
    record["forgets"] = [*record.get("forgets", ()), digest]
    record["produced"] -= sum(tally is None or tally[0] != "rejected" for tally in counted)
    record["extra"]["forgotten"] = record["extra"].get("forgotten", 0) + len(counted)
    for name, key in filter(None, counted):
        counts = record["tallies"].get(name, {})
        if key in counts:
            counts[key] -= 1
    storage.write_json(path, record)


def _correct_report(book: Ledger, job: str) -> None:
    path = storage.join(book.output, "report.json")
    if not storage.exists(path):
        return
    report = storage.read_object(path)
    sums = {phase: _sums(book, phase) for phase in ("generate", "window", "copy", "keep", "inpaint")}
    if job == "augment":
        from noiseweave.jobs.augment.report import figures

        made = sums["window"] if sums["window"].units else sums["generate"]
        report |= figures(made)
        for phase, counted in report.get("phases", {}).items():
            if phase in sums:
                counted["produced"] = sums[phase].produced
    elif job == "inpaint":
        report |= {"restored": sums["inpaint"].produced, "forgotten": int(sums["inpaint"].extra["forgotten"])}
    storage.write_json(path, report)


def _sums(book: Ledger, phase: str) -> Outcome:
    outcome = Outcome(units=0)
    for record in book.records(phase):
        outcome.units += 1
        outcome.add(record)
    return outcome


def _write_report(config: Config, plan: Json, folder: str, hits: Hits, digest: str) -> None:
    """forget.json: every request that removed something here, with a hash in place of the key."""
    path = storage.join(folder, REPORT)
    earlier = storage.read_json(path)["requests"] if storage.exists(path) else []
    if any(request["plan"] == digest for request in earlier):
        return
    counts = {url.removeprefix(storage.join(folder, "")): len(keys) for url, keys in hits.items()}
    request = config.request | {
        "plan": digest,
        "samples": sum(counts.values()),
        "shards": counts,
        "deleted": sorted(name for name in counts if not storage.exists(storage.join(folder, name))),
        "searched": plan["searched"],
        "unsearched": plan["unsearched"],
        "noiseweave": __version__,
    }
    storage.write_json(path, {"requests": [*earlier, request]})


def before(config: Config, folders: Sequence[str]) -> bool:
    """Whether the same was forgotten here earlier."""
    paths = [storage.join(folder, REPORT) for folder in folders]
    requests = [r for path in paths if storage.exists(path) for r in storage.read_json(path)["requests"]]
    return any(r["key_sha256"] == config.request["key_sha256"] for r in requests)


# what is said


def print_summary(config: Config, plan: Json) -> None:
    """What was found, shard by shard."""
    searched = plan["searched"]
    print(f"searched {searched['shards']} shards; {config.key!r} is in {', '.join(plan['key_in'])}")
    if plan["hits"]:
        apart = plan["descendants"] - plan["direct"]
        through = f", {apart} of them through other samples" if apart else ""
        itself = f", and it lies there itself {plan['itself']} times" if plan["itself"] else ""
        print(f"{plan['descendants']} samples descend from it{through}{itself}:")
    else:
        print("no sample descends from it")
    rows = [f"  {url}: {len(keys)}" for url, keys in plan["hits"].items()]
    more = [f"  and {len(rows) - SHOWN} more shards"] if len(rows) > SHOWN else []
    print("\n".join([*rows[:SHOWN], *more]), end="\n" if rows else "")
    for url in plan["input_pictures"]:
        print(f"the picture itself is in {url}: it is input, and stays")
    for bad in plan["unsearched"]:
        print(
            f"not searched whole: {bad['shard']} ({bad['reason']}); it stays as it is where nothing was found"
        )
    if plan["odd"]:
        print(f"other odd members: {plan['odd']}")
    if config.dry_run:
        print("dry run: nothing was changed")
    else:
        print(f"{'removed' if plan['hits'] else 'noted'}; counts in {REPORT} in each folder")
        if plan["hits"]:
            print(
                "folders that unpack made of these shards still have the pictures: unpack again with --overwrite"
            )
