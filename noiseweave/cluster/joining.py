"""Files that are made of others; locally piece by piece, so that none is held whole."""

from __future__ import annotations

import contextlib
import os
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
    folder = os.path.dirname(name)
    temporary = os.path.join(folder, f".{os.path.basename(name)}.{temporaries.writer()}.tmp")
    with storage.writing(path):
        os.makedirs(folder, exist_ok=True)
        try:
            with open(temporary, "wb") as out:
                _copy(parts, out)
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, name)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def _copy(parts: Sequence[str], out: BinaryIO) -> None:
    for part in parts:
        with storage.open_read(part) as f:
            shutil.copyfileobj(f, out, PIECE)
