"""Files that are still being written: their names say by whom, so that only a dead writer's are swept away."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from noiseweave.cluster import processes

TEMPORARY = re.compile(r"\..*[.-]([0-9a-f]{8})([0-9a-f]{8})[0-9a-f]{16}\.tmp")
"""A temporary name: the writer's machine, its number there, chance."""
OLD = 60.0
"""Seconds after which a temporary file of another machine's writer is no longer being written."""


def writer() -> str:
    """A temporary name's end, as TEMPORARY reads it."""
    return f"{processes.machine()}{os.getpid():08x}{secrets.token_hex(8)}"


def sweep(folder: str) -> None:
    """Delete what killed writers left in a local folder and below it; a live one's and a user's .tmp files stay."""
    for path in Path(folder).rglob(".*.tmp"):
        found = TEMPORARY.fullmatch(path.name)
        if found and _left_behind(path, found[1], int(found[2], 16)):
            path.unlink(missing_ok=True)


def _left_behind(path: Path, machine: str, pid: int) -> bool:
    """Whether the writer of a temporary file is dead, or has not written for so long that it must be."""
    if machine == processes.machine() and processes.started(pid) is None:
        return True
    try:
        return time.time() - path.stat().st_mtime > OLD
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def replacing(name: str) -> Iterator[BinaryIO]:
    """A local file to be written, which takes its name once it is whole and on disk; after an error it is gone."""
    folder = os.path.dirname(name)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{os.path.basename(name)}.{writer()}.tmp")
    try:
        with open(temporary, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
