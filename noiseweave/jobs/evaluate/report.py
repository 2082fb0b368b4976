"""How evaluate ends in each of its modes: quarantine.jsonl, report.json and a table on the screen."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from noiseweave import __version__
from noiseweave.cluster import storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.records import Json
from noiseweave.jobs import outputs
from noiseweave.jobs.evaluate.config import Config
from noiseweave.jobs.evaluate.pictures import PictureSet
from noiseweave.jobs.reading import loras


def device(config: Config) -> str:
    """cuda in a worker that holds a GPU, else cpu."""
    from noiseweave.engine.networks.tuning import pick_device

    return pick_device(config.cluster.gpus_per_worker)


def write_quarantine(
    output: str,
    book: Ledger,
    phase: str,
    sets: Iterable[PictureSet],
    earlier: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """One line for each piece of input that was left out; the counts by reason.

    Args:
        phase: whose units are named after their set.
        earlier: phases whose units are not -> the set that they read.
    """
    lines: list[Json] = [{"set": s.name, **asdict(bad)} for s in sets for bad in s.left_out]
    named = [(name, record) for p, name in (earlier or {}).items() for record in book.records(p)]
    named += [(record["id"].rpartition("-")[0] or "input", record) for record in book.records(phase)]
    for name, record in named:
        lines += [{"set": name, **bad, "shard": os.path.basename(bad["shard"])} for bad in record["bad"]]
    return dict(sorted(outputs.write_quarantine(output, lines).items()))


def why(output: str) -> str:
    """What an error says of the input that was left out, after ``write_quarantine``; "" for nothing."""
    said = outputs.said_of_quarantine(output)
    return f"; quarantined: {said}" if said else ""


def finish(config: Config, output: str, report: Json) -> int:
    """Write the report and show it. Returns the exit code: 1 when units failed."""
    path = storage.join(output, "report.json")
    about = {"noiseweave": __version__, "config": asdict(config), "lora": loras.record(config.model)}
    storage.write_json(path, about | report)
    console = Console()
    console.width = max(console.width, 120)  # names of figures are not broken
    for name, about in report.get("sets", {}).items():
        console.print(f"{name}: {about['pictures'] or 'some'} pictures", highlight=False)
    if report["figures"]:
        console.print(_table(config, report["figures"]))
    if count := report.get("as_many"):
        console.print(
            f"real: {count} pictures of the reference against {count} others of it; as_many: {count} of the input "
            "against the same",
            soft_wrap=True,
            highlight=False,
        )
    if report["quarantined"]:
        console.print(f"quarantined: {outputs.said_of_quarantine(output)}", soft_wrap=True, markup=False)
    for warning in report["warnings"]:
        console.print(f"warning: {warning}", soft_wrap=True, markup=False)
    for unit, error in report["failed"].items():
        console.print(f"failed: {unit}: {error}", soft_wrap=True, markup=False)
    if report["failed"]:
        console.print("run the same command again to try the failed units once more")
    console.print(f"report: {path}", soft_wrap=True, markup=False, highlight=False)
    return 1 if report["failed"] else 0


def _table(config: Config, figures: Json) -> Table:
    """Figures, a row each: the value, its interval and what else is known of it."""
    rest = list(dict.fromkeys(n for f in figures.values() for n in f if n not in ("value", "interval")))
    table = Table(box=None, padding=(0, 2, 0, 0))
    intervals = any("interval" in f for f in figures.values())
    between = [f"{config.confidence:.0%} interval"] if intervals else []
    for head in ("figure", "value", *between, *rest):
        table.add_column(escape(head), justify="left" if head == "figure" else "right", no_wrap=True)
    for name, about in figures.items():
        low_high = about.get("interval")
        interval = f"{low_high[0]:.5g} to {low_high[1]:.5g}" if low_high else ""
        values = [interval] if intervals else []
        table.add_row(escape(name), _number(about["value"]), *values, *(_number(about.get(n)) for n in rest))
    return table


def _number(value: object) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
