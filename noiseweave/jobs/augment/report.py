"""How augment ends: report.json, quarantine.jsonl, contact_sheet.png and a table on the screen."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from noiseweave import __version__
from noiseweave.cluster import storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.session import Session
from noiseweave.engine.records import Json
from noiseweave.jobs import outputs
from noiseweave.jobs.augment import index, packing, paired, pool, sheet, skipping, subject, writing
from noiseweave.jobs.augment.task import Task
from noiseweave.jobs.outputs import GUESSED, ORIGINALS
from noiseweave.jobs.reading import loras
from noiseweave.jobs.report.job import finish_page

OWNED = (
    "shards",
    outputs.PICTURES,
    ORIGINALS,
    GUESSED,
    "rejected",
    "report.html",
    "report.json",
    "quarantine.jsonl",
    sheet.NAME,
    "classes.json",
)
SHOWN = 10  # ends of prompts that were truncated


def failed(outcomes: dict[str, Outcome]) -> int:
    """How many units failed, of all phases."""
    return sum(len(o.failed) for o in outcomes.values())


def finish(task: Task, book: Ledger, outcomes: dict[str, Outcome], s: Session) -> int:
    """Write the report's files and say where they are. Returns the exit code: 1 when units failed."""
    bad = _quarantined(task, book, outcomes)
    quarantined = outputs.write_quarantine(task.output, bad)
    report = summary(task, book, outcomes, quarantined, s)
    report |= subject.report(book)
    if index.POOLED in outcomes:
        report["pool"] = pool.report(outcomes[index.POOLED])
    storage.write_json(storage.join(task.output, "report.json"), report)
    writing.finish(task)
    _show(task, report, sheet.write(task, book, "window" if "window" in outcomes else "generate"))
    for row in bad:
        if row["reason"] == skipping.REASON:
            print(f"left out: shard {row['shard']}: {row['detail']}")
    finish_page(task.output)
    return 1 if report["failed"] else 0


def _paired(book: Ledger, outcomes: dict[str, Outcome]) -> paired.Paired | None:
    """What is counted of the plan of pairs; None where a run did not come so far."""
    plan = book.path("groups.json")
    if "window" in outcomes:
        return paired.of_windows(outcomes["window"])
    return paired.Paired(**storage.read_json(plan)["paired"]) if storage.exists(plan) else None


def _planned(task: Task, about: paired.Paired | None, made: Outcome) -> Json:
    """Pairs, and what became of the pictures that were asked for: those are the sum of ``samples``, ``rejected``,
    ``forgotten`` and ``not_made``."""
    if about is None:
        return {"pairs": 0, "asked": 0, "not_made": 0}
    pairs = sum(about.pairs.values())
    asked = pairs * task.config.fusion.per_pair
    settled = made.produced + sum(made.tallies["rejected"].values()) + int(made.extra["forgotten"])
    fields = paired.fields(about, task.config.pairing, task.classes)
    return {"pairs": pairs, "asked": asked, "not_made": asked - settled, **fields}


def _quarantined(task: Task, book: Ledger, outcomes: dict[str, Outcome]) -> list[Json]:
    """One row for each quarantined piece of input, gathered from the done-markers."""

    def named(shard: str) -> str:
        roots = tuple(filter(None, (task.root, task.pool_root)))
        return task.name_of(shard) if shard.startswith(roots) else shard

    books = {
        phase: (pool.book_of(book), "embed") if phase == pool.EMBED else (book, phase) for phase in outcomes
    }
    rows = ((phase, bad) for phase, where in books.items() for bad in outputs.quarantined(*where))
    named_rows = [{"phase": phase, **bad, "shard": named(bad["shard"])} for phase, bad in rows]
    return [*packing.quarantined(book), *named_rows]


def summary(
    task: Task, book: Ledger, outcomes: dict[str, Outcome], quarantined: Counter[str], s: Session
) -> Json:
    """The content of report.json."""
    last = outcomes.get("generate") or outcomes.get("window")
    last = last or Outcome(units=0)
    embedded = outcomes["embed"].produced if "embed" in outcomes else int(last.extra["images_read"])
    return {
        "noiseweave": __version__,
        "config": asdict(task.config),
        "read_from": {"root": task.root},
        "model_hash": task.model_hash,
        "lora": loras.record(task.config.model),
        "images": embedded,
        "broken_profiles": int(sum(o.extra["broken_profiles"] for o in outcomes.values())),
        **_planned(task, _paired(book, outcomes), last),
        **figures(last),
        **_truncated(last),
        "quarantined": dict(sorted(quarantined.items())),
        "failed": {phase: o.failed for phase, o in outcomes.items() if o.failed},
        "workers": s.workers,
        "phases": {
            p: {
                "units": o.units,
                "earlier": o.earlier,
                "produced": o.produced,
                "seconds": round(o.seconds, 2),
            }
            for p, o in outcomes.items()
        },
    }


def figures(outcome: Outcome) -> Json:
    """What report.json says of the pictures, from the markers' sums: kept ones by mode, those that the gate rejected
    by verdict, those that were drawn again, and inversions."""
    extra = outcome.extra
    inverted, ends = int(extra["images_inverted"]), int(extra["pair_ends"])
    return {
        "samples": outcome.produced,
        "kept_per_class": _tally(outcome, "classes"),
        "modes": _tally(outcome, "modes"),
        "rejected": _tally(outcome, "rejected"),
        "drawn_again": int(extra["redrawn"]),
        "images_inverted": inverted,
        "pair_ends": ends,
        "inversions_saved": ends - inverted,
        "inversions_per_pair_end": round(inverted / ends, 4) if ends else None,
        **({"forgotten": int(extra["forgotten"])} if "forgotten" in extra else {}),
    }


def _tally(outcome: Outcome, name: str) -> dict[str, int]:
    return {one: n for one, n in sorted(outcome.tallies[name].items()) if n}


def _truncated(outcome: Outcome) -> Json:
    """How many prompts the text encoder did not read to the end, with some of those ends."""
    count = int(outcome.extra["prompts_truncated"])
    return (
        {"prompts_truncated": count, "truncated": sorted(outcome.tallies["truncated"])[:SHOWN]}
        if count
        else {}
    )


def _why_none(report: Json) -> str:
    if report["failed"]:
        return "units failed"
    lost = report["quarantined"].get("not_finite")
    if report["quarantined"].get("flagged"):
        return "the model's safety checker flagged all"
    if report.get("rejected"):
        return "the gate rejected all (see quality)"
    return "no picture was finite" if lost else paired.why_none(report)


def _folders(task: Task) -> list[str]:
    """The folders that pictures lie in."""
    made = "shards" if task.config.files == "shards" else outputs.PICTURES
    more = {ORIGINALS: task.config.samples.copy_original, GUESSED: task.config.samples.keep_pool}
    return [made, *(name for name, asked in more.items() if asked)]


def _pairs_and_pictures(task: Task, report: Json) -> Iterator[tuple[str, str]]:
    """What the screen says of pairs, and of the pictures that were asked for, so that they add up."""
    if "pictures_used" in report:
        yield from paired.rows(report, task.config.pairing, task.classes)
    each = task.config.fusion.per_pair
    yield "pictures asked for", f"{report['asked']}, {each} of each pair (fusion.per_pair)"
    yield "kept", paired.by_class(report["samples"], report["kept_per_class"], task.classes)
    if report["modes"]:
        yield "by mode", _counted(report["modes"])
    again = f"{report['drawn_again']} drawn again"
    if task.config.gate:
        rejected = f"{sum(report['rejected'].values())}: {_counted(report['rejected'])}".removesuffix(": ")
        yield "rejected by the gate", f"{rejected}; {again}"
    elif report["drawn_again"]:
        yield "flagged", again
    if report["not_made"]:
        yield (
            "not made",
            f"{report['not_made']}, of pairs or pictures that are quarantined, forgotten or failed",
        )
    if report.get("forgotten"):
        yield "forgotten", f"{report['forgotten']}, removed by noiseweave forget"
    if report["pair_ends"]:
        saved = report["inversions_saved"] / report["pair_ends"]
        yield (
            "inversions",
            f"{report['images_inverted']}, a picture once a unit, of {report['pair_ends']} parents ({saved:.0%} saved)",
        )


def _counted(counts: Json) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items())


def _took(phase: Json) -> str:
    """What a phase made, and how long this run took for its part of it."""
    before = f", {phase['earlier']} of {phase['units']} units before it" if phase["earlier"] else ""
    return f"{phase['produced']}; this run {phase['seconds']:.1f} s{before}"


def _show(task: Task, report: Json, sheet_path: str | None) -> None:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_row("images read", str(report["images"]))
    for name, text in subject.rows(report["subject"]) if "subject" in report else ():
        table.add_row(name, text)
    if report["broken_profiles"]:
        table.add_row("broken colour profiles", f"{report['broken_profiles']} ignored")
    for name, text in pool.rows(report["pool"], task.classes) if "pool" in report else ():
        table.add_row(name, escape(text))
    for name, text in _pairs_and_pictures(task, report):
        table.add_row(name, escape(text))
    if "prompts_truncated" in report:
        table.add_row(
            "prompts truncated", f"{report['prompts_truncated']}, longer than the text encoder reads"
        )
        for end in report["truncated"]:
            table.add_row("", escape(f"...{end}"))
    if not report["quarantined"]:
        table.add_row("quarantined", "none")
    for phase, figures in report["phases"].items():
        table.add_row(phase, _took(figures))
    console = Console()
    console.print(table, soft_wrap=True)
    # not in the table, which would cut paths
    for folder in _folders(task):
        print(f"{folder}: {storage.join(task.output, folder)}")
    print(f"report: {storage.join(task.output, 'report.json')}")
    print(f"contact sheet: {sheet_path or f'none: {_why_none(report)}'}")
    outputs.say_quarantined(task.output)
    for phase, units in report["failed"].items():
        by_error: dict[str, list[str]] = defaultdict(list)
        for unit, error in units.items():
            by_error[error].append(unit)
        for error, ids in by_error.items():
            more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
            console.print(
                f"failed: {phase} {', '.join(ids[:5])}{more}: {error}", soft_wrap=True, markup=False
            )
    if report["failed"]:
        console.print("run the same command again to try the failed units once more")
