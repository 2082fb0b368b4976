"""Samples in class folders, as augment writes them (files: folder): their lines, and the files that go.

The lines lie in the run's working folder, a file for each unit, and metadata.jsonl is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from noiseweave.cluster import shards, storage
from noiseweave.engine.records import Json
from noiseweave.jobs import class_folders, outputs

Sample = tuple[str, Callable[[], bytes | None]]
"""A key, and what reads the .json."""
Files = list[tuple[str, bytes | None]]
"""path -> new content, None to delete it."""


def found_in(folder: str) -> list[str]:
    """The files with lines of an augment run."""
    rows = storage.join(folder, "_run", outputs.ROWS)
    parts = [storage.join(rows, place) for place in storage.folders_in(rows)]
    return [storage.join(part, name) for part in parts for name in storage.names_in(part)]


def are_in(url: str) -> bool:
    """Whether a file holds lines of samples, and is no shard."""
    return url.endswith(".jsonl")


def _base_of(url: str) -> str:
    """The folder that the file names of a file of lines are below."""
    folder = url.rpartition("/")[0]
    before, _, place = folder.rpartition(f"/_run/{outputs.ROWS}/")
    return storage.join(before, place)


def samples(url: str) -> Iterator[Sample]:
    """Each sample's key and its .json.

    Raises:
        Damaged: a line is none.
    """
    for row in _rows(url):
        said = row["json"]
        yield str(row["key"]), partial(_bytes_of, said)


def _bytes_of(said: object) -> bytes | None:
    return None if said is None else str(said).encode(errors="replace")


def _rows(url: str) -> list[Json]:
    rows = []
    for line in storage.read(url).splitlines():
        value = storage.json_of(url, line)
        if not isinstance(value, dict) or not {"key", "json", "file_name"} <= value.keys():
            raise storage.Damaged(f"{url}: a line that is none of {class_folders.METADATA}")
        rows.append(value)
    return rows


def without(url: str, keys: Sequence[str]) -> tuple[int, Files]:
    """How many samples go, and the files that change: their pictures first."""
    rows, gone, files = [], 0, Files()
    for row in _rows(url):
        name = str(row["file_name"])
        if row["key"] not in keys:
            rows.append(row)
            continue
        gone += 1
        if not shards.unsafe(name):  # what a stranger wrote names no file elsewhere
            files += [(storage.join(_base_of(url), name), None)]
    return gone, [*files, (url, outputs.json_lines(rows))] if gone else []


def close(folder: str) -> None:
    """metadata.jsonl of what is left, of each folder of an augment run that has one."""
    rows = storage.join(folder, "_run", outputs.ROWS)
    for place in storage.folders_in(rows):
        if storage.exists(storage.join(folder, place, class_folders.METADATA)):
            class_folders.join_rows(storage.join(folder, place), storage.join(rows, place))
