"""WebDataset tars over fsspec: find them, index them, read pictures by byte range, write them whole.

A sample is a run of neighbouring members that share a key: ``{key}.jpg``, ``{key}.cls``, ``{key}.txt``,
``{key}.json``. The key is the member's path up to the first dot of its base name, as WebDataset has it.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import os
import tarfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import BinaryIO

from braceexpand import braceexpand

from noiseweave.cluster import storage
from noiseweave.cluster.labels import Sides, label_and_caption
from noiseweave.engine import formats
from noiseweave.engine.records import Location, Quarantined

PICTURES = formats.EXTENSIONS
MASK = "mask."  # what the extension of a mask begins with
MASKS = tuple(MASK + e for e in PICTURES)
SIDES = ("json", "txt", "cls")  # in the order in which they are looked at
Says = Callable[[Sides], tuple[int | None, str | None]]
SIDE_LIMIT = 1 << 20  # bytes of a .cls, .txt or .json that are read
DAMAGE = (tarfile.TarError, EOFError, ValueError, OverflowError, MemoryError, RecursionError, LookupError)
"""What tarfile raises for a damaged tar: a chain of long names recurses, a cut sparse header ends too early."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One file of a sample: where its bytes lie in the tar."""

    offset: int
    size: int


@dataclass(kw_only=True)
class Entry:
    """One sample of a shard: its key and its members by extension."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def picture(self) -> str | None:
        """Extension of the sample's picture, None when it has none."""
        return self.first(PICTURES)

    def first(self, extensions: Collection[str]) -> str | None:
        """The first of the sample's extensions that is one of these."""
        return next((e for e in self.members if e in extensions), None)


def find(pattern: str) -> list[str]:
    """The shards that a brace pattern, a glob, a folder or an fsspec URL names, sorted within each brace.

    Raises:
        ValueError: the pattern names nothing.
    """
    if not pattern.strip():
        raise ValueError("input='': a folder, glob, brace pattern or URL of .tar shards is needed")
    try:
        pieces = list(braceexpand(storage.absolute(pattern)))
        found = [shard for piece in pieces for shard in _expand(piece)]
    except ImportError as e:  # fsspec names the package that its file system needs
        raise ValueError(f"input {pattern!r}: {e}") from None
    if not found:
        raise ValueError(f"input {pattern!r}: no .tar shards there")
    listed = set(found) - set(pieces)
    missing = [s for s in found if s not in listed and not storage.exists(s)]
    if missing:
        what = "shard" if missing[0].endswith(".tar") else "folder or shard"
        raise ValueError(f"input {pattern!r}: no such {what}: {missing[0]} ({len(missing)} missing)")
    doubled = [s for s, n in Counter(found).items() if n > 1]
    if doubled:
        raise ValueError(f"input {pattern!r}: names {doubled[0]} twice")
    return found


def digest(found: Sequence[str], root: str | None = None, skip_failed: bool = False) -> str:
    """16 hex digits that change when a name or the content of any of these shards does.

    Args:
        root: what all names begin with and which does not count; None leaves the last part of each.
        skip_failed: a shard that cannot be read has no content, and that counts.

    Raises:
        OSError: a shard cannot be read.
    """

    def content(shard: str) -> str:
        try:
            return storage.content_of(shard)
        except OSError:
            if not skip_failed:
                raise
            return "unreadable"

    with ThreadPoolExecutor(8) as pool:
        contents = list(pool.map(content, found))
    names = [url.rpartition("/")[2] if root is None else url[len(root) :] for url in found]
    listing = "".join(f"{name} {content}\n" for name, content in zip(names, contents, strict=True))
    return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _expand(piece: str) -> list[str]:
    fs, name = storage.system(piece)
    if fs.isdir(name):  # listed, not globbed: the folder's own name may hold [ or *
        return [storage.join(piece, n) for n in storage.names_in(piece) if n.endswith(".tar")]
    if not glob.has_magic(name) or fs.exists(name):
        return [piece]
    return sorted(str(fs.unstrip_protocol(f)) if "://" in piece else str(f) for f in fs.glob(name))


def unsafe(name: str) -> bool:
    """Whether a tar member's name would leave the folder it is unpacked in, or is no text."""
    parts = name.replace("\\", "/").split("/")
    outside = name.startswith(("/", "\\")) or ".." in parts or name[1:2] == ":"
    return outside or "\0" in name or any("\ud800" <= c <= "\udfff" for c in name)


def split_name(name: str) -> tuple[str, str]:
    """``a/b.seg.png`` -> (``a/b``, ``seg.png``)."""
    folder, _, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}/{stem}" if folder and stem else stem), extension.lower()


def index(url: str) -> tuple[list[Entry], list[Quarantined]]:
    """Read a shard's table of contents.

    Returns:
        The samples in the order of the tar, and what is wrong with it: ``unreadable_tar`` (not a tar, empty,
        gzip), ``truncated_tar`` (the samples before the cut are kept; not the last one where it may have
        lost a member, its label say), ``unsafe_key``, ``duplicate_key`` (the first is kept), ``not_a_file``.
    """
    entries: dict[str, Entry] = {}
    bad: list[Quarantined] = []
    run = Entry(key="")  # members of one key that follow each other
    try:
        size = storage.size_of(url)
        with storage.open_read(url) as f:
            for name, member in _members(f, url, size, bad):
                key, extension = split_name(name)
                if not extension or not key:
                    bad.append(_bad(url, name, "not_a_sample", "no extension"))
                    continue
                if key != run.key:
                    bad += _join(url, entries, run)
                    run = Entry(key=key)
                if extension in run.members:
                    bad.append(_bad(url, key, "duplicate_key", f"{name} again"))
                else:
                    run.members[extension] = member
        bad += _join(url, entries, run)
    except _Cut as cut:
        if cut.key in (run.key, ""):
            entries.pop(run.key, None)
        else:
            bad += _join(url, entries, run)
        bad.append(_bad(url, cut.key or run.key, "truncated_tar", str(cut)))
    except DAMAGE as e:
        bad.append(_bad(url, "", "unreadable_tar", str(e)))
    except (IsADirectoryError, PermissionError) as e:  # any other OSError may pass: the unit is tried again
        bad.append(_bad(url, "", "unreadable_tar", str(e)))
    return list(entries.values()), bad


def _join(url: str, entries: dict[str, Entry], run: Entry) -> list[Quarantined]:
    """Add a run of members to the sample of its key; where they bring a kind that it has, they are another sample's."""
    if not run.members:
        return []
    known = entries.setdefault(run.key, Entry(key=run.key)).members
    if known.keys() & run.members.keys():
        return [_bad(url, run.key, "duplicate_key", f"{run.key}.{x} again") for x in run.members]
    known |= run.members
    return []


class _Cut(Exception):
    """The tar ends too early, inside the sample ``key``, "" when nobody can say."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


def _bad(url: str, name: str, reason: str, detail: str = "") -> Quarantined:
    text = name[:200].encode(errors="backslashreplace").decode()
    return Quarantined(
        shard=url, key=text, reason=reason, detail=detail.encode(errors="backslashreplace").decode()
    )


def _members(f: BinaryIO, url: str, size: int, bad: list[Quarantined]) -> Iterator[tuple[str, Member]]:
    """The regular members of an uncompressed tar, as far as it is whole; _Cut where it is not."""
    end = 0
    try:
        with tarfile.open(fileobj=f, mode="r:") as tar:
            for info in tar:
                if info.size < 0:  # would send tarfile back to where it was, for ever
                    raise _Cut(f"negative size of {info.name}")
                # of a sparse member size is that of the file with its holes; the next header is where its data end
                end = tar.offset if info.issparse() else info.offset_data + info.size
                if end > size:
                    raise _Cut(f"cut inside {info.name}", split_name(info.name)[0])
                if info.isdir():
                    continue
                if not info.isreg() or info.issparse():
                    bad.append(_bad(url, info.name, "not_a_file"))
                elif unsafe(info.name):
                    bad.append(_bad(url, info.name, "unsafe_key"))
                else:
                    yield info.name, Member(offset=info.offset_data, size=info.size)
        f.seek(-(-end // 512) * 512)
        if f.read(512) != bytes(512):  # tarfile takes a damaged header for the end
            raise _Cut("no end-of-archive block")
    except DAMAGE as e:
        if end:
            raise _Cut(str(e)) from None
        raise


def locate(url: str) -> tuple[list[Location], list[Quarantined]]:
    """Index a shard and read the small members: one Location a picture.

    A sample without a picture is quarantined as ``no_picture``; an empty one as ``empty_picture``; a ``.cls``
    that is no integer as ``bad_label``, a caption of no known encoding as ``bad_txt`` (the whole sample, for a wrong
    label is worse than none).
    """
    found, bad = located(url)
    return [location for _, location in found], bad


def located(
    url: str, payload: Sequence[str] = PICTURES, says: Says = label_and_caption
) -> tuple[list[tuple[Entry, Location]], list[Quarantined]]:
    """As ``locate``, with each sample's members, and for payloads of another kind than pictures.

    Args:
        payload: extensions of the member that a Location points at. Where they are not pictures, the reasons
            are named by the first of them: ``no_npy``, ``empty_npy``.
        says: label and caption of a sample's side members, or a ValueError, ``"reason: detail"``.
    """
    entries, bad = index(url)
    out: list[tuple[Entry, Location]] = []
    if not entries:
        return out, bad
    with storage.open_read(url) as f:
        for entry in entries:
            try:
                out.append((entry, _location(f, url, entry, payload, says)))
            except ValueError as e:
                bad.append(Quarantined.of(e, shard=url, key=entry.key))
    return out, bad


def _location(f: BinaryIO, url: str, entry: Entry, payload: Sequence[str], says: Says) -> Location:
    main, noun = entry.first(payload), "picture" if tuple(payload) == PICTURES else payload[0]
    if main is None:
        raise ValueError(f"no_{noun}: only {', '.join(sorted(entry.members))}")
    member = entry.members[main]
    if member.size == 0:
        raise ValueError(f"empty_{noun}: {main} has no bytes")
    mask = entry.members.get(entry.first(MASKS) or "")
    for one in filter(None, (member, mask)):
        if one.size > storage.IMAGE_LIMIT:
            raise ValueError(f"too_large: {one.size} bytes, at most {storage.IMAGE_LIMIT}")
    label, caption = says({e: small(f, entry, e) for e in SIDES})
    return Location(
        shard=url,
        key=entry.key,
        offset=member.offset,
        size=member.size,
        label=label,
        caption=caption,
        mask_offset=mask.offset if mask else None,
        mask_size=mask.size if mask else None,
    )


def small(f: BinaryIO, entry: Entry, extension: str) -> bytes | None:
    """The bytes of a side member, None when the sample has none."""
    member = entry.members.get(extension)
    if member is None:
        return None
    if member.size > SIDE_LIMIT:
        raise ValueError(f"bad_{extension}: {member.size} bytes, at most {SIDE_LIMIT}")
    f.seek(member.offset)
    return bytes(f.read(member.size))


def pack(samples: Sequence[tuple[str, Mapping[str, bytes]]]) -> bytes:
    """Samples (key, extension -> bytes) -> the bytes of a tar, the same for the same input."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for key, files in samples:
            assert not unsafe(key), key
            assert "." not in os.path.basename(key), key
            for extension, data in files.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size, info.mode, info.mtime = len(data), 0o644, 0
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def without(data: bytes, keys: Collection[str]) -> tuple[bytes | None, int]:
    """The bytes of a tar without some samples: every other member stays byte for byte, its header included.

    Of a damaged tar, what comes after the last member that can be found stays as well.

    Returns:
        The tar, or None where no member is left; and how many of the samples were in it.
    """
    kept: list[bytes] = []
    gone: set[str] = set()
    end = 0
    with contextlib.suppress(*DAMAGE), tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for info in tar:
            end = min(tar.offset, len(data))
            key = split_name(info.name)[0]
            if key in keys:
                gone.add(key)
            else:
                kept.append(data[info.offset : end])
    if not gone:
        return data, 0
    tail = data[end:]
    if tail.strip(b"\0"):
        return b"".join([*kept, tail]), len(gone)
    size = sum(map(len, kept))
    tail = (
        bytes(-(size + 2 * tarfile.BLOCKSIZE) % tarfile.RECORDSIZE + 2 * tarfile.BLOCKSIZE) if tail else b""
    )
    return (b"".join([*kept, tail]) if kept else None), len(gone)
