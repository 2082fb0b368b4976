"""Files on any fsspec file system: a path and a URL (s3://, gs://, memory://) are used alike.

Every write is atomic. A local file is written under a temporary name, flushed to the disk and renamed; an
object store cannot rename, but it shows an object only once its upload has ended. What belongs together is
therefore closed by a marker that is written last (ledger.py, training.py), never by renaming a folder.

fsspec keeps what it has listed of an object store, and other processes write there: whoever asks whether
something is there, asks the store.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO

from fsspec import AbstractFileSystem
from fsspec.asyn import AsyncFileSystem, sync
from fsspec.core import url_to_fs
from fsspec.exceptions import FSTimeoutError
from fsspec.implementations.local import LocalFileSystem

from noiseweave.cluster import temporaries
from noiseweave.engine.records import Json

IMAGE_LIMIT = 100_000_000
TAGS = ("ETag", "etag", "md5Hash", "content_md5", "crc32c")
PATIENCE = 15.0
"""Seconds until an object store counts as out of reach; its client would try for minutes."""
LASTING = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOENT, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENXIO, errno.ENODEV),
}
"""Errors that another try meets again: no room, no permission, a folder that is gone."""


class StorageError(OSError):
    """Output cannot be written: one line that names the place.

    Attributes:
        lasting: whether another try would meet it again, so that a run had better end.
    """

    def __init__(self, line: str, lasting: bool = True) -> None:
        super().__init__(line)
        self.line, self.lasting = line, lasting

    def __reduce__(self) -> tuple[type, tuple[str, bool]]:
        return StorageError, (self.line, self.lasting)

    @classmethod
    def of(cls, path: str, error: Exception) -> StorageError:
        """Of a path that could not be written."""
        what = (
            getattr(error, "strerror", None)
            or f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        )
        return cls(f"{path} cannot be written: {what}", getattr(error, "errno", None) in LASTING)


class Damaged(ValueError):
    """A file is not what it should be: which one, and why."""


def join(folder: str, *names: str) -> str:
    """Join names to a folder or URL."""
    if folder.endswith("://"):  # memory://, the root of a file system without hosts
        return folder + posixpath.join(*names)
    return posixpath.join(folder if not folder.strip("/") else folder.rstrip("/"), *names)


def absolute(path: str) -> str:
    """A local path made absolute, so that workers in other directories read the same file; a URL as it is."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def system(path: str, fresh: bool = False) -> tuple[AbstractFileSystem, str]:
    """The file system of a path or URL, and its name there.

    Args:
        fresh: forget what was listed of the path and of the folders above it.

    Raises:
        ValueError: the object store does not answer; asked once.
    """
    fs, name = url_to_fs(path)
    if isinstance(fs, AsyncFileSystem):
        _knock(fs, fs.unstrip_protocol(name.split("/")[0]))
    if fresh:
        fs.invalidate_cache(name)
    return fs, name


@functools.cache
def _knock(fs: AsyncFileSystem, root: str) -> None:
    try:
        sync(fs.loop, fs._exists, root, timeout=PATIENCE)
    except FSTimeoutError:
        raise ValueError(
            f"{root}: the store gave no answer in {PATIENCE:g} s; is its address right (AWS_ENDPOINT_URL for S3)?"
        ) from None
    except Exception:  # an answer, if not a good one: what is asked next tells it
        return


def exists(path: str) -> bool:
    """Whether there is a file or folder."""
    fs, name = system(path, fresh=True)
    return bool(fs.exists(name))


def is_folder(path: str) -> bool:
    """Whether a path or URL is a folder."""
    fs, name = system(path, fresh=True)
    return bool(fs.isdir(name))


def read(path: str, offset: int = 0, size: int | None = None) -> bytes:
    """The bytes [offset, offset + size) of a file; the whole file by default."""
    fs, name = system(path)
    if isinstance(fs, LocalFileSystem):
        with _opened(name) as f:
            f.seek(offset)
            return f.read(-1 if size is None else size)
    if size is None:
        return bytes(fs.cat_file(name))[offset:]
    return bytes(fs.cat_file(name, start=offset, end=offset + size))


def _opened(name: str) -> BinaryIO:
    """A local file; a named pipe that lies in a folder is none, for reading it would wait for ever."""
    if (
        not name.startswith("/dev/")
        and not stat.S_ISREG(mode := os.stat(name).st_mode)
        and not stat.S_ISDIR(mode)
    ):
        raise OSError(errno.EINVAL, "not a regular file", name)
    return open(name, "rb")


def read_ranges(path: str, ranges: Iterable[tuple[int, int]]) -> list[bytes]:
    """Several (offset, size) ranges of one file, opened once."""
    fs, name = system(path)
    ranges = list(ranges)
    if not isinstance(fs, LocalFileSystem):
        starts = [offset for offset, _ in ranges]
        ends = [offset + size for offset, size in ranges]
        return [bytes(b) for b in fs.cat_ranges([name] * len(ranges), starts, ends, on_error="raise")]
    out = []
    with _opened(name) as f:
        for offset, size in ranges:
            f.seek(offset)
            out.append(f.read(size))
    return out


def read_all(paths: Sequence[str]) -> list[bytes]:
    """Whole files of one file system; an object store is asked for many at a time."""
    if not paths:
        return []
    fs, _ = system(paths[0])
    if isinstance(fs, LocalFileSystem):
        return [read(path) for path in paths]
    names = [system(path)[1] for path in paths]
    none = [None] * len(names)
    return [bytes(b) for b in fs.cat_ranges(names, none, none, on_error="raise")]


def write(path: str, data: bytes) -> None:
    """Write a file atomically: readers see the old content, the new, or no file; never a part.

    Raises:
        StorageError: it cannot be written.
    """
    fs, name = system(path)
    with writing(path):
        if isinstance(fs, LocalFileSystem):
            _write_local(name, data)
        else:
            fs.pipe_file(name, data)


@contextlib.contextmanager
def writing(path: str, errors: type[Exception] = Exception) -> Iterator[None]:
    """Errors of the block, any as each object store has its own, become a StorageError that names the path."""
    try:
        yield
    except errors as e:
        raise StorageError.of(path, e) from e


def _write_local(name: str, data: bytes) -> None:
    with temporaries.replacing(name) as f:
        f.write(data)


def create(path: str, data: bytes) -> bool:
    """Write a file that is not there yet; whether it was so. Of several who try at once one succeeds.

    That holds for local files, S3 and Google Cloud Storage; a store that cannot promise it writes all the same.

    Raises:
        StorageError: it cannot be written.
    """
    fs, name = system(path)
    try:
        if not isinstance(fs, LocalFileSystem):
            fs.pipe_file(name, data, mode="create")
            return True
        with open(name, "xb") as f:
            f.write(data)
        return True
    except FileExistsError:
        return False
    except Exception as e:
        if exists(path):  # as some stores say it
            return False
        raise StorageError.of(path, e) from e


def read_json(path: str) -> Any:
    """A file's JSON value.

    Raises:
        Damaged: it has none.
    """
    return json_of(path, read(path))


def read_object(path: str) -> Json:
    """A file's JSON object.

    Raises:
        Damaged: it has none.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise Damaged(f"{path}: a JSON {type(value).__name__} where an object is expected")
    return value


def json_of(path: str, data: bytes) -> Any:
    """The JSON value of a file that was read.

    Raises:
        Damaged: there is none, or it is nested too deep.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as e:
        raise Damaged(f"{path}: no JSON ({e})") from None


def write_json(path: str, value: object) -> None:
    """Write a value as JSON, whole or not at all, its keys in order."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
    write(path, (text + "\n").encode(errors="backslashreplace"))  # file names may hold lone surrogates


def names_in(folder: str) -> list[str]:
    """Sorted base names of the files in a folder; [] when there is no such folder."""
    fs, name = system(folder)
    try:
        if isinstance(fs, LocalFileSystem):
            with os.scandir(name) as found:
                return sorted(e.name for e in found if e.is_file())
        listed = fs.ls(name, detail=True, refresh=True)  # another process may have written since
        return sorted(posixpath.basename(str(f["name"])) for f in listed if f["type"] == "file")
    except FileNotFoundError:
        return []


def folders_in(folder: str) -> list[str]:
    """Sorted base names of the folders in a folder; [] when there is no such folder."""
    fs, name = system(folder, fresh=True)
    if not fs.isdir(name):
        return []
    inside = fs.ls(name, detail=True, refresh=True)
    return sorted(posixpath.basename(str(f["name"]).rstrip("/")) for f in inside if f["type"] == "directory")


def size_of(path: str) -> int:
    """A file's size in bytes."""
    fs, name = system(path)
    return int(fs.size(name))


def content_of(path: str) -> str:
    """What changes when a file's content does: an object store's own tag of it, or else a digest of its bytes."""
    fs, name = system(path, fresh=True)
    info = fs.info(name)
    tag = next((str(info[key]) for key in TAGS if info.get(key)), None)
    if tag is not None:
        return f"{info['size']} {tag}"
    digest = hashlib.blake2b(digest_size=16)
    with open_read(path) as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def remove(path: str) -> None:
    """Delete a file or a folder; nothing happens when there is none."""
    fs, name = system(path, fresh=True)
    with contextlib.suppress(FileNotFoundError):
        fs.rm(name, recursive=True)


def sweep_temporaries(folder: str) -> None:
    """Delete what a killed writer left under temporary names in a local folder; a live one's stay."""
    fs, name = system(folder)
    if isinstance(fs, LocalFileSystem):
        temporaries.sweep(name)


def check_writable(folder: str) -> None:
    """Raise ValueError in one line when nothing can be written to ``folder``."""
    try:
        probe = join(folder, f".probe-{temporaries.writer()}.tmp")
        write(probe, b"ok")
        remove(probe)
    except StorageError as e:
        raise ValueError(f"output {folder!r} cannot be written: {e.__cause__}") from None
    except Exception as e:  # each object store has its own errors, missing credentials above all
        raise ValueError(f"output {folder!r} cannot be written: {e}") from None


def open_read(path: str) -> BinaryIO:
    """A seekable binary file, buffered."""
    fs, name = system(path)
    return _opened(name) if isinstance(fs, LocalFileSystem) else fs.open(name, "rb")
