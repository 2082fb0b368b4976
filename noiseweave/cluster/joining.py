"""Files that are made of others; locally piece by piece, so that none is held whole."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import BinaryIO

from fsspec.implementations.local import LocalFileSystem

from noiseweave.cluster import storage, temporaries

PIECE = 1 << 22  # bytes that are held


def join_files(parts: Sequence[str], path: str) -> None:
    """Write a file of the content of others, in their order; atomically, as ``storage.write`` does.

    Raises:
        StorageError: it cannot be written.
    """
    fs, name = storage.system(path)
    if not isinstance(fs, LocalFileSystem):  # a store shows what was uploaded until an error, too
        storage.write(path, b"".join(storage.read_all(parts)))
        return
    with storage.writing(path), temporaries.replacing(name) as out:
        _copy(parts, out)


def _copy(parts: Sequence[str], out: BinaryIO) -> None:
    for part in parts:
        with storage.open_read(part) as f:
            shutil.copyfileobj(f, out, PIECE)
