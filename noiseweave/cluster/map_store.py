"""A folder of noise maps, or of any bytes by SHA-256 key, that never grows over its limit.

Several processes may share it: a file is written whole or not at all, and what one removes the others miss.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import warnings

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from noiseweave.cluster import storage, temporaries
from noiseweave.engine.records import Json

NAME = re.compile(r"[0-9a-f]{64}\.safetensors")
ABANDONED = 3600.0  # seconds after which a temporary file has no writer any more


class MapStore:
    """Files ``<key>.safetensors`` in a folder or URL; the least recently used leave first.

    On a local disk a read counts as use; an object store knows writes alone. Other files are left alone.

    Attributes:
        folder: where the files lie.
        limit: bytes that they may take together.
    """

    def __init__(self, folder: str, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def __contains__(self, key: str) -> bool:
        return storage.exists(self._path(key))

    def get(self, key: str) -> bytes | None:
        """The bytes of a key, or None."""
        path = self._path(key)
        try:
            data = storage.read(path)
        except FileNotFoundError:
            return None
        if isinstance(url_to_fs(path)[0], LocalFileSystem):
            with contextlib.suppress(OSError):  # another process may have removed it, or it is read-only
                os.utime(url_to_fs(path)[1])
        return data

    def put(self, key: str, data: bytes) -> None:
        """Keep the bytes, and remove the oldest files over the limit. What is larger than it is not kept."""
        if len(data) > self.limit:
            return
        try:
            storage.write(self._path(key), data)
            self._trim()
        except OSError as e:  # a cache that is full or gone costs time, not the run
            warnings.warn(f"cache {self.folder}: a noise map was not kept ({e})", stacklevel=2)

    def remove(self, key: str) -> None:
        """Delete the value of a key; none is no error."""
        storage.remove(self._path(key))

    def _path(self, key: str) -> str:
        assert NAME.fullmatch(f"{key}.safetensors"), key
        return storage.join(self.folder, f"{key}.safetensors")

    def _trim(self) -> None:
        files = self._files()
        excess = sum(size for _, _, size in files) - self.limit
        for _, name, size in sorted(files):
            if excess <= 0:
                break
            storage.remove(storage.join(self.folder, name))
            excess -= size

    def _files(self) -> list[tuple[float, str, int]]:
        """(time of last use, name, bytes) of the store's files; what killed writers left is removed."""
        fs, folder = url_to_fs(self.folder)
        try:
            listed = fs.ls(folder, detail=True, refresh=True)
        except FileNotFoundError:
            return []
        found = []
        for f in listed:
            name, used = os.path.basename(str(f["name"])), _seconds(f)
            if NAME.fullmatch(name):
                found.append((used, name, int(f["size"])))
            elif temporaries.TEMPORARY.fullmatch(name) and time.time() - used > ABANDONED:
                storage.remove(storage.join(self.folder, name))
        return found


def _seconds(entry: Json) -> float:
    """When a listed file was last written, as file systems tell: a number, a datetime, or nothing."""
    when = entry.get("mtime") or entry.get("LastModified") or entry.get("created") or 0.0
    return float(when.timestamp() if hasattr(when, "timestamp") else when)
