"""A group's fused pictures as samples of a shard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from noiseweave.cluster import shards, storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.pictures import images
from noiseweave.engine.records import Pair
from noiseweave.jobs import class_folders
from noiseweave.jobs.augment import judge as judging
from noiseweave.jobs.augment.fusing import Made
from noiseweave.jobs.augment.lineage import key_of, lineage, mark
from noiseweave.jobs.augment.task import Task
from noiseweave.jobs.outputs import PICTURES, ROWS, ShardName
from noiseweave.jobs.reading import class_names, looks

if TYPE_CHECKING:
    from noiseweave.engine.judging.quality import QualityCheck


def write_shard(task: Task, unit: str, made: Made, group: str | None = None) -> None:
    """The fused samples of a group as one shard, and those that the gate rejected as another; none that is empty."""
    fused, rejected = (ShardName(kind=kind, unit=unit, group=group) for kind in ("augmented", "rejected"))
    put(task, "shards", fused, samples_of(task, made))
    if made.rejected is not None and (rows := samples_of(task, made.rejected)):
        storage.write(storage.join(task.output, "rejected", str(rejected)), shards.pack(rows))


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where copies come from: the name of their shard, and the names that several have, as 64 bits each."""

    shard: str
    twice: frozenset[int]


Samples = list[tuple[str, dict[str, bytes]]]
"""Key and files of each, by extension."""


def put(task: Task, place: str, name: ShardName, samples: Samples, source: Source | None = None) -> None:
    """Samples as a shard of a folder of the output, or as files of its class folders; nothing where there are none.

    Args:
        place: the folder; for files pictures/ takes the place of shards/.
        source: of copies of the input's samples.
    """
    if not samples:
        return
    if task.config.files == "shards":
        storage.write(storage.join(task.output, place, str(name)), shards.pack(samples))
        return
    place = PICTURES if place == "shards" else place
    folder, more = storage.join(task.output, place), () if source is None else (source.shard, source.twice)
    rows = [class_folders.line_of(task.classes, sample, *more) for sample in samples]
    # first, so that no picture is there that forget would not find
    class_folders.write_rows(Ledger(output=task.output).path(ROWS, place, f"{name.stem}.jsonl"), rows)
    for row, (_, files) in zip(rows, samples, strict=True):
        storage.write(storage.join(folder, row["file_name"]), files[class_folders.picture_of(files)])


def finish(task: Task) -> None:
    """metadata.jsonl and classes.json of the folders of files, where the run wrote any."""
    book = Ledger(output=task.output)
    for place in storage.folders_in(book.path(ROWS)):
        folder = storage.join(task.output, place)
        class_folders.join_rows(folder, book.path(ROWS, place))
        class_names.write(folder, task.classes)
        looks.warn(class_folders.renumbered(folder, task.classes))


def samples_of(task: Task, made: Made) -> Samples:
    """The samples of a group: key and files."""
    checks: Sequence[QualityCheck | None] = made.checks or [None] * len(made.group.pairs)
    return [
        sample(task, made, pair, picture, area, check)
        for pair, picture, area, check in zip(
            made.group.pairs, made.image_PHWC, made.areas, checks, strict=True
        )
    ]


def sample(
    task: Task, made: Made, pair: Pair, picture: np.ndarray, area: float, check: QualityCheck | None = None
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
        ends := [
            made.truncated[t] for t in dict.fromkeys(prompts.source + prompts.target) if t in made.truncated
        ]
    ):
        known["prompt_truncated"] = ends
    if check is not None:
        known["check"] = asdict(judging.rounded(check))
    files["json"] = json.dumps(known, ensure_ascii=False).encode()
    kind, marked = task.config.samples.image_format, mark(known) if task.config.samples.provenance else None
    return key_of(task, first, second, pair.number), {kind: images.encode(picture, kind, mark=marked)} | files
