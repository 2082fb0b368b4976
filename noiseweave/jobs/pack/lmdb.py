"""An LMDB of encoded pictures as a source of ``pack``: LSUN's layout, key -> the bytes of a WebP, JPEG or PNG.

A folder of several LMDBs is one class each, as LSUN's categories come: ``bedroom_train_lmdb``,
``church_outdoor_train_lmdb``. Values are only ever decoded as pictures, never unpickled.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from noiseweave.cluster import folders, storage
from noiseweave.engine.checks import check
from noiseweave.engine.records import Quarantined
from noiseweave.jobs.pack.samples import (
    Packed,
    Source,
    Tally,
    in_order,
    missing_package,
    packed,
    picture,
    wanted,
)

if TYPE_CHECKING:
    from noiseweave.jobs.pack.config import Config

DATA = "data.mdb"
NAME = re.compile(r"(?P<category>.+?)(?:_(?P<split>train|val|test))?(?:_lmdb)?")


def source(config: Config, root: str, tally: Tally) -> Source:
    """One LMDB, or one a class in sub-folders."""
    found = databases(config, root)
    sizes = {folder: size_of(os.path.join(root, folder)) for folder in found.values()}
    check(sum(sizes.values()) > 0, "input", config.input, "the LMDB is empty")
    names = [folders.printable(n) for n in found if n and config.labels == "folders"]
    return Source(
        what=f"LMDB ({len(found)} of them, {sum(sizes.values())} values)",
        classes=names,
        total=sum(sizes.values()),
        results=samples(config, root, found, sizes, tally),
    )


def is_lmdb(root: str) -> bool:
    """Whether a folder is an LMDB or holds some."""
    return os.path.isfile(os.path.join(root, DATA)) or bool(inner(root))


def inner(root: str) -> list[str]:
    """Sub-folders that hold an LMDB."""
    return [name for name in folders.inside(root) if os.path.isfile(os.path.join(root, name, DATA))]


def databases(config: Config, root: str) -> dict[str, str]:
    """Class name -> folder below the root, sorted by folder; {"": ""} for an LMDB without a class."""
    if os.path.isfile(os.path.join(root, DATA)):
        check(config.split is None, "split", config.split, "the input is one LMDB, which has no splits")
        return {"": ""}
    found: dict[str, str] = {}
    for folder in inner(root):
        match = NAME.fullmatch(folder)
        assert match is not None, folder
        if config.split in (None, match["split"]):
            name = match["category"]
            twice = f"{found.get(name)} and {folder} are one class; choose with --split train, val or test"
            check(name not in found, "input", config.input, twice)
            found[name] = folder
    check(bool(found), "input", config.input, f"no LMDB in it (a folder with {DATA}), or none of the split")
    return found


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """An LMDB, read-only and without a lock file, so that read-only disks will do.

    Raises:
        ValueError: no package, no LMDB, or one that was cut short: reading behind its end would kill
            the process (SIGBUS).
    """
    try:
        import lmdb
    except ImportError:
        raise missing_package("lmdb", "lmdb") from None
    try:
        with lmdb.open(path, readonly=True, lock=False, create=False, readahead=False) as env:
            needed = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
            size = os.path.getsize(os.path.join(path, DATA))
            check(size >= needed, "input", path, f"the LMDB is cut short: {size} bytes of {needed}")
            yield env
    except lmdb.Error as e:
        raise ValueError(f"input {path!r}: no readable LMDB ({e})") from None


def size_of(path: str) -> int:
    """How many values an LMDB has."""
    with opened(path) as env:
        return int(env.stat()["entries"])


def samples(
    config: Config, root: str, found: Mapping[str, str], sizes: Mapping[str, int], tally: Tally
) -> Iterator[Packed | Quarantined]:
    """Every value of every LMDB, in the order of its keys."""
    prefixes: Sequence[str] = folders.keys_of(list(found)) if "" not in found else [""]
    for label, (folder, prefix) in enumerate(zip(found.values(), prefixes, strict=True)):
        number = label if prefix else None
        if not wanted(config, number):
            tally.left_out += sizes[folder]
            continue
        values = records(os.path.join(root, folder))
        yield from in_order(config, load, zip(repeat(Part(folder, prefix, number)), values))


def records(path: str) -> Iterator[tuple[bytes, bytes]]:
    """(key, value), at most one byte more than a picture may have."""
    with opened(path) as env, env.begin(buffers=True) as transaction:
        for key, value in transaction.cursor():
            yield bytes(key), bytes(value[: storage.IMAGE_LIMIT + 1])


class Part(NamedTuple):
    """One LMDB: its folder below the root, what its keys begin with, its class."""

    folder: str
    prefix: str
    label: int | None


def load(config: Config, part: Part, record: tuple[bytes, bytes]) -> Packed | Quarantined:
    """A value's sample, or why there is none."""
    key, value = record
    name = folders.printable(os.path.join(part.folder, os.fsdecode(key)))
    try:
        safe = f"{part.prefix}__{folders.key_of(key)}" if part.prefix else folders.key_of(key)
        files = dict([picture(config, value)])
        return packed(config, safe, part.label, files, {"source": name}, value)
    except ValueError as e:
        return Quarantined.of(e, key=name)
