"""A group's fused pictures as samples of a shard."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from noiseweave.cluster import shards, storage
from noiseweave.engine.pictures import images
from noiseweave.engine.records import Pair
from noiseweave.jobs.augment import judge as judging
from noiseweave.jobs.augment.fusing import Made
from noiseweave.jobs.augment.lineage import key_of, lineage, mark
from noiseweave.jobs.augment.task import Task
from noiseweave.jobs.outputs import ShardName

if TYPE_CHECKING:
    from noiseweave.engine.judging.quality import QualityCheck


def write_shard(task: Task, unit: str, made: Made, group: str | None = None) -> None:
    """The fused samples of a group as one shard, and those that the gate rejected as another; none that is empty."""
    fused, rejected = (ShardName(kind=kind, unit=unit, group=group) for kind in ("augmented", "rejected"))
    for folder, name, some in (("shards", fused, made), ("rejected", rejected, made.rejected)):
        rows = samples_of(task, some) if some is not None else []
        if rows:
            storage.write(storage.join(task.output, folder, str(name)), shards.pack(rows))


def samples_of(task: Task, made: Made) -> list[tuple[str, dict[str, bytes]]]:
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
