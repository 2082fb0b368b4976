"""A folder of pictures in class folders, as torchvision's ImageFolder and Hugging Face ``datasets`` read it.

    <folder>/<class name>/<key>.<ext>   pictures; those without a label in ``unlabelled``
    <folder>/classes.json               names of the classes, in the order of their numbers
    <folder>/metadata.jsonl             a line for each picture: file_name, label, class_name, key, shard, text, json

Names come from strangers. None becomes a path before it was made plain, and no two become the same one on a disk that
does not tell cases apart.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from noiseweave.cluster import labels, storage
from noiseweave.cluster.joining import join_files
from noiseweave.engine import formats
from noiseweave.engine.records import Json
from noiseweave.jobs.outputs import json_lines, some

METADATA = "metadata.jsonl"
UNLABELLED = "unlabelled"
LONGEST = 150  # bytes of a name, so that it fits any file system, with an extension and while it is written
EXTRA = " _-+=@,.()"  # beside letters and digits of any script
RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""What names a device on Windows, whatever comes after its dot."""
MARKED = re.compile(r"(^|--)[0-9a-f]{16}$")
"""A name that ends as ``marked`` lets names end: one that came so is marked as well, so that no two are the same."""
KIND = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")


def plain(text: str) -> str:
    """A name without what a path or a file system could take for something else; nothing may be left.

    Letters and digits of any script and `` _-+=@,.()`` stay, in Unicode's composed form. ``/`` becomes ``-``, all else
    ``_``. None of `` ._-`` begins it, neither a space nor a dot ends it, it has at most LONGEST bytes, and is no
    device's.
    """
    composed = unicodedata.normalize("NFC", text.replace("/", "-").replace("\\", "-"))
    kept = "".join(c if c.isalnum() or c in EXTRA else "_" for c in composed)
    short = kept.lstrip(" ._-").encode()[:LONGEST].decode(errors="ignore").rstrip(" .")
    return "" if RESERVED.fullmatch(short) else short


def marked(name: str, whole: str) -> str:
    """A plain name with a hash at its end: of what nothing else has, the whole name, say."""
    digest = hashlib.blake2b(whole.encode(errors="backslashreplace"), digest_size=8).hexdigest()
    return f"{name}--{digest}" if name else digest


def same(name: str) -> str:
    """What two names share that a disk may take for one."""
    return unicodedata.normalize("NFC", name.casefold())


def suspect(name: str, of: str) -> bool:
    """Whether a plain name needs its mark in any company: nothing or not all is left, or it looks like a marked one."""
    return not name or len(of.encode(errors="replace")) > LONGEST or MARKED.search(name) is not None


def folder_of(label: int | None, names: Sequence[str]) -> str:
    """The name of a class's folder: as the class is called, or, where it has no name, its number.

    Names that a path cannot be are made plain; where two classes would share a folder, both have a hash at their ends.
    It depends on the label and the names alone.

    Args:
        label: None for pictures without one.
        names: of the classes, in the order of their numbers.
    """
    if label is None:
        return UNLABELLED
    named = _folders(tuple(names))
    if label < len(named):
        return named[label]
    taken = str(label) in {same(name) for name in named}
    return marked(str(label), str(label)) if taken else str(label)


@functools.cache
def _folders(names: tuple[str, ...]) -> tuple[str, ...]:
    short = [plain(name) for name in names]
    uses = Counter(same(name) for name in (*short, UNLABELLED))
    return tuple(
        marked(name, f"{n} {of}") if uses[same(name)] > 1 or suspect(name, of) else name
        for n, (name, of) in enumerate(zip(short, names, strict=True))
    )


@dataclass(frozen=True, kw_only=True)
class Stem:
    """The name of a sample's file, without its extension.

    Attributes:
        changed: why it is not the sample's key: plain, long, twice; None where it is.
    """

    name: str
    changed: str | None = None


def stem_of(folder: str, key: str, shard: str, twice: frozenset[int] = frozenset()) -> Stem:
    """What a sample's file is called.

    Args:
        folder: that of its class.
        shard: name of its shard, which with the key is the sample's alone.
        twice: names that several samples have, see ``number_of``.
    """
    name = plain(key)
    several = number_of(folder, key) in twice
    if several or suspect(name, key):
        long = len(key.encode(errors="replace")) > LONGEST
        changed = "twice" if several else "long" if long else "plain"
        return Stem(name=marked(name, f"{shard}#{key}"), changed=changed)
    return Stem(name=name, changed=None if name == key else "plain")


def number_of(folder: str, key: str) -> int:
    """64 bits that two samples of one name in one folder share."""
    text = f"{folder}/{same(plain(key))}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def repeated(parts: Iterable[np.ndarray]) -> np.ndarray:
    """The numbers, uint64, that are more than once in all parts; 8 bytes are held for each number."""
    all_of_them = np.concatenate([np.zeros(0, np.uint64), *parts])
    numbers, counts = np.unique(all_of_them, return_counts=True)
    return numbers[counts > 1]


def write(folder: str, name: str, kind: str, data: bytes) -> None:
    """Write a file of a class folder.

    Args:
        name: its class's folder and its stem.
        kind: its extension.
    """
    assert KIND.fullmatch(kind), kind
    storage.write(storage.join(folder, f"{name}.{kind}"), data)


def line_of(
    classes: Sequence[str],
    sample: tuple[str, Mapping[str, bytes]],
    shard: str | None = None,
    twice: frozenset[int] = frozenset(),
) -> Json:
    """The line of metadata.jsonl of a sample that a job made.

    Args:
        sample: its key, and its files by extension, of which the first picture is the sample's.
        shard: that it comes from, where it comes from one.
        twice: see ``stem_of``.
    """
    key, files = sample
    sides: dict[str, bytes | None] = {kind: files.get(kind) for kind in ("cls", "txt", "json")}
    label, caption = labels.label_and_caption(sides)
    of, said = folder_of(label, classes), sides["json"]
    name = f"{of}/{stem_of(of, key, shard or '', twice).name}.{picture_of(files)}"
    lineage = None if said is None else labels.text_of(said)
    return row(name, label, classes, key, shard=shard, text=caption, json=lineage)


def picture_of(files: Mapping[str, bytes]) -> str:
    """The extension of a made sample's picture."""
    return next(kind for kind in files if kind in formats.EXTENSIONS)


def row(name: str, label: int | None, classes: Sequence[str], key: str, **more: str | None) -> Json:
    """A line of metadata.jsonl: every one has the same fields, of one type each or null.

    Args:
        name: the picture's path below the folder.
        more: shard, text and json of the sample, as text.
    """
    named = None if label is None else classes[label] if label < len(classes) else str(label)
    known: Json = {"file_name": name, "label": label, "class_name": named, "key": key}
    return known | {field: more.get(field) for field in ("shard", "text", "json")}


def renumbered(folder: str, classes: Sequence[str]) -> str | None:
    """A warning where torchvision's ImageFolder, which numbers the folders that are there by name, numbers a class
    otherwise than ``classes`` do, as where one before it has no picture; None where it does not."""
    there = sorted(name for name in storage.folders_in(folder) if not name.startswith("_"))
    numbers = {folder_of(n, classes): n for n in range(len(classes))}
    wrong = [(name, n) for n, name in enumerate(there) if numbers.get(name, n) != n]
    if not wrong:
        return None
    name, n = wrong[0]
    without = [classes[k] for of, k in numbers.items() if of not in there]
    why = f" (no picture is of {some(without)})" if without else ""
    return (
        f"torchvision's ImageFolder numbers the folders of {folder} by name, and so {name} as {n} where the input has "
        f"{numbers[name]}{why}; the input's numbers are in its {METADATA}"
    )


def write_rows(path: str, rows: Iterable[Mapping[str, object]]) -> None:
    """Keep the lines of a unit until all are done."""
    storage.write(path, json_lines(rows))


def join_rows(folder: str, parts: str) -> None:
    """metadata.jsonl of all lines that units kept in a folder, in the order of the files' names."""
    paths = [storage.join(parts, name) for name in storage.names_in(parts)]
    join_files(paths, storage.join(folder, METADATA))
