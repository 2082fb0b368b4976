"""Class names that shards carry."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from noiseweave.cluster import storage
from noiseweave.engine.checks import check


def folders_of(found: Sequence[str]) -> list[str]:
    """The folders that shards lie in."""
    return sorted({posixpath.dirname(shard) for shard in found})


def carried_classes(input: str, found: Sequence[str]) -> list[str]:
    """The classes.json beside the folder of shards, or in it; [] where there is none.

    Args:
        input: what a user called them, for an error.
        found: the shards.
    """
    named: dict[str, list[str]] = {}
    for folder in folders_of(found):
        places = (posixpath.dirname(folder), folder)
        path = next(
            (p for p in (storage.join(f, "classes.json") for f in places if f) if storage.exists(p)), None
        )
        if path is not None:
            value = storage.read_json(path)
            whole = isinstance(value, list) and all(isinstance(name, str) for name in value)
            check(whole, "input", input, f"{path} is no list of class names")
            named[path] = value
    distinct = {tuple(names) for names in named.values() if names}
    text = f"its shards number their classes in different ways: {', '.join(named)}"
    check(len(distinct) <= 1, "input", input, text)
    return list(next(iter(distinct), ()))
