"""How unpack ends: classes.json, metadata.jsonl, quarantine.jsonl, report.json, and lines on the screen."""

from __future__ import annotations

from collections.abc import Mapping

from noiseweave.cluster import storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.engine.records import Json, JsonMapping
from noiseweave.jobs import class_folders, outputs
from noiseweave.jobs.reading import class_names, looks
from noiseweave.jobs.unpack import copying, listing
from noiseweave.jobs.unpack.task import Task

Folders = Mapping[int | None, str]
"""Label -> the name of its folder, None -> that of pictures without one."""
WHY = {
    "plain": "had what no file's name may have",
    "long": f"had over {class_folders.LONGEST} bytes",
    "twice": "are there several times in a class",
}


def failed(outcome: Outcome) -> int:
    """Say which units failed; the exit code."""
    for unit, error in outcome.failed.items():
        print(f"failed: unit {unit}: {error}")
    print("run the same command again to try the failed units once more")
    return 1


def finish(task: Task, book: Ledger, outcome: Outcome, folders: Folders) -> int:
    """Write the files beside the class folders. Returns the exit code: 1 when there is no picture."""
    class_folders.join_rows(task.output, book.path(copying.ROWS))
    class_names.write(task.output, task.classes)
    bad = [
        {**row, "shard": task.name_of(row["shard"])}
        for phase in (listing.NAME, copying.NAME)
        for row in outputs.quarantined(book, phase)
    ]
    quarantined = outputs.write_quarantine(task.output, bad)
    report = {
        "job": "unpack",
        "pictures": outcome.produced,
        "classes": copying.counts(outcome, folders),
        "renamed_classes": _renamed(task, folders),
        "renamed": _sorted(outcome.tallies["renamed"]),
        "left_out": _sorted(outcome.tallies["left_out"]),
        "quarantined": _sorted(quarantined),
    }
    storage.write_json(storage.join(task.output, "report.json"), report)
    show(task.output, report)
    return 0 if outcome.produced else 1


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _renamed(task: Task, folders: Folders) -> Json:
    """Folder -> the class's name, where that is not the folder's."""
    named = {n: folder for n, folder in folders.items() if n is not None and n < len(task.classes)}
    return {folder: task.classes[n] for n, folder in named.items() if folder != task.classes[n]}


def show(output: str, report: JsonMapping) -> None:
    """What was written, in a few lines."""
    classes = {name: n for name, n in report["classes"].items() if name != class_folders.UNLABELLED}
    loose = report["classes"].get(class_folders.UNLABELLED, 0)
    rest = f", {loose} in {class_folders.UNLABELLED}" if loose else ""
    print(f"unpacked {report['pictures']} pictures in {len(classes)} class folders{rest} -> {output}")
    for folder, name in report["renamed_classes"].items():
        print(f"class {name[:80]!r} is in the folder {folder}")
    for why, n in report["renamed"].items():
        print(f"{n} files renamed: their keys {WHY[why]} (key and file_name are in metadata.jsonl)")
    if report["left_out"]:
        kinds = (f"{n} .{kind}" for kind, n in report["left_out"].items())
        print(f"left in the shards: {outputs.some(kinds)} (members: all writes them too)")
    looks.warn(class_folders.renumbered(output, class_names.classes_in(output)))
    outputs.say_quarantined(output)
