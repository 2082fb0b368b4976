"""Copies of an augment run's input among what is judged: they are real pictures, and flatter the made ones."""

from __future__ import annotations

import json

from noiseweave.cluster import shards, storage
from noiseweave.jobs.evaluate.pictures import PictureSet
from noiseweave.jobs.outputs import COPIED_FROM, ShardName
from noiseweave.jobs.reading.looks import SHARDS, spread

SAMPLES = 8  # of a shard, whose .json are read


def warning(side: PictureSet) -> str | None:
    """That a set holds copies of an augment run's input; None where it does not.

    A shard is known by its name, or by the .json of some of its samples.
    """
    tars = [url for url in side.payloads if isinstance(url, str)]
    named = [url for url in tars if (name := ShardName.of(url)) and name.kind == "original"]
    others = [url for url in tars if url not in named]
    marked = [url for url in (others[i] for i in spread(len(others), SHARDS)) if _is_marked(url)]
    if not named and not marked:
        return None
    return (
        f"{side.name} holds originals that augment copied ({(named + marked)[0]}): they are not made pictures, and the "
        "figures are of both"
    )


def _is_marked(url: str) -> bool:
    entries = [entry for entry in shards.index(url)[0] if "json" in entry.members]
    with storage.open_read(url) as f:
        return any(_says_so(shards.small(f, entries[i], "json")) for i in spread(len(entries), SAMPLES))


def _says_so(data: bytes | None) -> bool:
    try:
        known = json.loads(data or b"{}")
    except (ValueError, RecursionError):  # quarantined by the job itself
        return False
    return isinstance(known, dict) and COPIED_FROM in known
