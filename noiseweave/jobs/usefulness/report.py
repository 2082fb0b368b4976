"""How ``evaluate usefulness`` ends: a table, a plot, sheets of what was made, and the figures as JSON."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from noiseweave import __version__
from noiseweave.cluster import storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.engine.pictures import collage
from noiseweave.engine.records import Json, Quarantined
from noiseweave.engine.usefulness.comparison import mean_interval
from noiseweave.jobs import outputs
from noiseweave.jobs.usefulness.config import made_tag
from noiseweave.jobs.usefulness.flows import id_of, read_made
from noiseweave.jobs.usefulness.task import Task

ROWS, COLUMNS = 4, 10  # of a sheet
INSTANT = 2.0  # seconds below which pictures cost nothing that a gain could be divided by


def finish(
    task: Task, book: Ledger, outcomes: Mapping[str, Outcome], bad: Sequence[Quarantined], output: str
) -> None:
    """Write all of it and say where it is."""
    outputs.write_quarantine(output, map(asdict, bad))
    outputs.say_quarantined(output)
    failed = {name: o.failed for name, o in outcomes.items() if o.failed}
    for name, units in failed.items():
        for unit, error in units.items():
            print(f"failed: {name} {unit}: {error}")
    if failed:
        return
    tables = {
        classifier: {k: table(task, book, k, classifier) for k in task.config.per_class}
        for classifier in task.config.classifiers
    }
    guesses = {k: _guessed(book, k) for k in task.config.per_class}
    figures = {
        "noiseweave": __version__,
        "config": asdict(task.config),
        "quarantined": len(bad),
        "seconds": {name: round(o.seconds, 1) for name, o in outcomes.items()},
        "tables": tables,
    }
    storage.write_json(storage.join(output, "usefulness.json"), figures)
    text = "\n".join(page(task, tables, guesses))
    storage.write(storage.join(output, "usefulness.md"), text.encode())
    storage.write(storage.join(output, "usefulness.png"), plot(tables))
    _sheets(task, book, output)
    print(text)
    print(f"wrote {storage.join(output, 'usefulness.md')}, .json, .png and sheets/")


def table(task: Task, book: Ledger, per_class: int, classifier: str) -> list[Json]:
    """A row for each method: accuracy and what it is over the best method without made pictures, in per cent."""
    scores = {name: 100 * a_SN for name, a_SN in _accuracies(task, book, per_class, classifier).items()}
    plain = [name for name, m in task.config.methods.items() if m.made == "none"]
    best = max(plain, key=lambda name: float(np.mean(scores[name])))
    rows = []
    for name, value_SN in scores.items():
        mean, half = mean_interval(value_SN.tolist())
        gain, gain_half = mean_interval((value_SN - scores[best]).tolist())
        seconds = _seconds(task, book, per_class, name)
        rows.append(
            {
                "method": name,
                "accuracy": round(mean, 2),
                "half": _number(half),
                "gain": round(gain, 2),
                "gain_half": _number(gain_half),
                "reference": name == best,
                **_counts(task, book, per_class, name),
                "hours": round(seconds / 3600, 4),
                "gain_per_hour": None if seconds < INSTANT else round(gain / (seconds / 3600), 1),
            }
        )
    return rows


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 2)


def _accuracies(task: Task, book: Ledger, per_class: int, classifier: str) -> dict[str, np.ndarray]:
    """Method -> the accuracy of each subset's classifier of each seed, [subsets, seeds]."""
    found = {r["id"]: r["extra"]["accuracy"] for r in book.records("score")}
    c = task.config

    def accuracy(name: str, subset: int, seed: int) -> float:
        return found[id_of(task.scored(per_class, subset, name, classifier, seed))]

    return {
        name: np.array([[accuracy(name, n, seed) for seed in range(c.seeds)] for n in range(c.subsets)])
        for name in c.methods
    }


def _seconds(task: Task, book: Ledger, per_class: int, name: str) -> float:
    """Worker time that a method's pictures cost, of all subsets: guesses (with the features that they were made by,
    in full) and the labels' learning in, the prior not."""
    method = task.config.methods[name]
    phases = ["guess", "tune"] if method.drawn else ["guess"] if method.guesses else []
    spent = {phase: {r["id"]: r["seconds"] for r in book.records(phase)} for phase in (*phases, "make")}
    total = sum(r["seconds"] for r in book.records("see")) if phases else 0.0
    for n in range(task.config.subsets):
        place = f"{per_class}-{n}"
        total += spent["make"].get(f"{place}-{made_tag(method)}", 0.0)
        total += sum(spent[phase].get(place, 0.0) for phase in phases)
    return total


def _guessed(book: Ledger, per_class: int) -> str:
    """What the guesses of the pool came to, of all choices of the few; empty without any."""
    found = [r["extra"] for r in book.records("guess") if r["id"].startswith(f"{per_class}-")]
    guessed, right = (int(sum(e[n] for e in found)) for n in ("guessed", "right"))
    return (
        f" Guesses of the pool's labels: {guessed}, {100 * right / guessed:.1f} % of them right."
        if guessed
        else ""
    )


def _counts(task: Task, book: Ledger, per_class: int, name: str) -> Json:
    """Pictures added and rejected, of the first subset."""
    for record in book.records("make"):
        if record["id"] == f"{per_class}-0-{made_tag(task.config.methods[name])}":
            extra = record["extra"]
            return {"added": int(extra["made"]), "rejected": record["tallies"].get("rejected", {})}
    return {"added": 0, "rejected": {}}


Tables = Mapping[str, Mapping[int, list[Json]]]
"""Classifier -> labelled pictures a class -> rows."""


def page(task: Task, tables: Tables, guesses: Mapping[int, str]) -> Iterator[str]:
    """The tables as Markdown."""
    c = task.config
    over = "choices" if c.subsets > 1 else "classifiers"
    yield (
        f"Protocol {c.protocol}; {len(task.data['test'].label_N)} test pictures of {c.size} x {c.size}; "
        f"{c.subsets} choice(s) of the few x {c.seeds} classifiers; accuracy in per cent with 95 % intervals over the "
        f"{over}; gain is paired, over the best method without made pictures (bold)."
    )
    for classifier, k, rows in _each(tables):
        what = "from nothing" if c.classifiers[classifier].pretrained is None else "fine-tuned"
        yield (
            f"\n{classifier} ({what}, {c.classifiers[classifier].steps} steps), {k} labelled pictures a class."
            f"{guesses[k]}\n"
        )
        yield "| Method | Added | Rejected | Accuracy | Gain | Hours | Gain an hour |"
        yield "| --- " * 7 + "|"
        for r in sorted(rows, key=lambda r: -r["accuracy"]):
            name = f"**{r['method']}**" if r["reference"] else r["method"]
            why = ", ".join(f"{n} {reason}" for reason, n in r["rejected"].items()) or "-"
            gain = "-" if r["reference"] else f"{r['gain']:+.2f}{_within(r['gain_half'])}"
            hour = "-" if r["gain_per_hour"] is None else f"{r['gain_per_hour']:+.1f}"
            yield (
                f"| {name} | {r['added'] or '-'} | {why} | {r['accuracy']:.2f}{_within(r['half'])} | {gain} | "
                f"{r['hours'] or '-'} | {hour} |"
            )
    yield ""


def _within(half: float | None) -> str:
    return "" if half is None else f" +- {half:.2f}"


def _each(tables: Tables) -> Iterator[tuple[str, int, list[Json]]]:
    """(classifier, labelled pictures a class, rows) of each table."""
    for classifier, of in tables.items():
        for k, rows in of.items():
            yield classifier, k, rows


def plot(tables: Tables) -> bytes:
    """Accuracies with their intervals, a row of panels for each classifier, one for each number of pictures: PNG."""
    from matplotlib.figure import Figure

    wide = max(len(of) for of in tables.values())
    most = max(len(rows) for _, _, rows in _each(tables))
    size = 5.2 * wide, len(tables) * (1.2 + 0.32 * most)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(tables), wide, squeeze=False)
    for axes, (classifier, k, rows) in zip(panels.flat, _each(tables), strict=True):
        ordered = sorted(rows, key=lambda r: r["accuracy"])
        best = next(r for r in rows if r["reference"])
        half = best["half"] or 0.0
        axes.axvspan(best["accuracy"] - half, best["accuracy"] + half, color="0.9")
        for y, r in enumerate(ordered):
            colour = "tab:blue" if r["added"] else "0.35"
            axes.errorbar(r["accuracy"], y, xerr=r["half"] or 0.0, fmt="o", color=colour, capsize=3)
        axes.set_yticks(range(len(ordered)), [r["method"] for r in ordered])
        axes.set_title(f"{classifier}, {k} a class")
        axes.set_xlabel("test accuracy, %")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _sheets(task: Task, book: Ledger, output: str) -> None:
    """Some of what each method added, of the first subset: sheets/<per_class>-<method>.png."""
    for k in task.config.per_class:
        for name, method in task.config.methods.items():
            if method.made == "none":
                continue
            image_MHWC = read_made(book, k, 0, method).image_MHWC
            if not len(image_MHWC):
                continue
            places = (
                np.linspace(0, len(image_MHWC) - 1, min(ROWS * COLUMNS, len(image_MHWC))).round().astype(int)
            )
            picked = [image_MHWC[i] for i in places]
            rows = [picked[i : i + COLUMNS] for i in range(0, len(picked), COLUMNS)]
            page = collage.sheet(rows, tile=max(32, task.config.size))
            storage.write(storage.join(output, "sheets", f"{k}-{name}.png"), collage.png(page))
