"""A local folder of pictures: what lies in it, in an order and under keys that no disk can change.

Paths are relative to the folder ("" is the folder itself), with "/" between their parts.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from noiseweave.engine.formats import is_picture
from noiseweave.engine.records import Quarantined

SIDES = frozenset((".txt", ".json"))
MASK_SUFFIX = ".mask"  # what follows a picture's name in the name of its mask: NAME.mask.png
JUNK = frozenset(("__macosx", "thumbs.db", "desktop.ini", "@eadir"))
KEY_LENGTH = 100  # longer names are cut and hashed, so that an unpacked sample fits any file system
HASHED = re.compile(r"(^|-)[0-9a-f]{16}$")
OTHERS = 20  # ignored files of a folder whose names are kept


@dataclass(frozen=True, kw_only=True)
class Item:
    """A picture that is still to be read, and the paths of its side files by extension (txt, json, mask.png)."""

    path: str
    sides: Mapping[str, str]


@dataclass(kw_only=True)
class Listing:
    """What lies in one folder and below it.

    Attributes:
        ignored: other files by extension.
        others: paths of the first OTHERS of these.
    """

    items: list[Item] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    others: list[str] = field(default_factory=list)
    bad: list[Quarantined] = field(default_factory=list)

    def ignore(self, path: str, what: str) -> None:
        """Count a file that is neither a picture nor beside one."""
        self.ignored[what] += 1
        if len(self.others) < OTHERS:
            self.others.append(printable(path))


def inside(root: str) -> list[str]:
    """Sorted names of the folders directly in a folder, without hidden ones and links."""
    with os.scandir(root) as scan:
        names = [e.name for e in scan if e.is_dir(follow_symlinks=False) and not junk(e.name)]
    return sorted(names, key=os.fsencode)


def bad(path: str, reason: str, detail: str = "") -> Quarantined:
    """The record of a path that is not taken."""
    return Quarantined(shard="", key=printable(path), reason=reason, detail=detail)


def listing(root: str, folder: str, deep: bool = True, mask_suffix: str = MASK_SUFFIX) -> Listing:
    """The pictures of a folder, each with its side files, sorted by name whatever order the disk gives.

    Hidden files and what systems leave behind are passed over. Links to folders are not followed.

    Args:
        mask_suffix: a picture whose name ends so is the mask of the one without it.
    """
    found, waiting = Listing(), [folder]
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(os.path.join(root, here)) as scan:
                entries = sorted((e for e in scan if not junk(e.name)), key=lambda e: os.fsencode(e.name))
        except OSError as e:
            found.bad.append(bad(here, "unreadable", str(e.strerror)))
            continue
        below = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
        waiting += [f"{here}/{name}".lstrip("/") for name in reversed(below) if deep]
        files = [e for e in entries if not e.is_dir(follow_symlinks=False)]
        sort_files(here, files, found, mask_suffix)
    return found


def sort_files(here: str, entries: Sequence[os.DirEntry[str]], found: Listing, mask_suffix: str) -> None:
    """The files of one folder -> pictures with their side files, and the rest counted by extension."""
    sides: dict[str, dict[str, str]] = {}
    pictures: list[tuple[str, str]] = []
    for entry in entries:
        name, extension = os.path.splitext(entry.name)
        stem = composed(name)
        path, extension = f"{here}/{entry.name}".lstrip("/"), extension.lower()
        kind = extension[1:] if extension in SIDES else ""
        if is_picture(entry.name) and (of := masked_by(stem, mask_suffix)):
            stem, kind = of, f"mask{extension}"
        if entry.is_dir():
            found.bad.append(bad(path, "link_to_folder"))
        elif is_picture(entry.name) and not kind:
            pictures.append((stem, path))
        elif not kind or sides.setdefault(stem, {}).setdefault(kind, path) != path:
            found.ignore(path, printable(extension) or "no extension")
    found.items += [Item(path=path, sides=sides.get(stem, {})) for stem, path in pictures]
    stems = {stem for stem, _ in pictures}
    for stem in sorted(sides.keys() - stems, key=os.fsencode):
        alone = {e for e in sides[stem] if e.startswith("mask.")}
        found.bad += [bad(sides[stem][e], "no_picture", "a mask alone") for e in sorted(alone)]
        for e in sorted(sides[stem].keys() - alone):
            found.ignore(sides[stem][e], f".{e} without a picture")


def masked_by(stem: str, mask_suffix: str) -> str:
    """The stem of the picture that a file of this stem is the mask of, "" where it is no mask."""
    return stem.removesuffix(mask_suffix) if stem.endswith(mask_suffix) else ""


def junk(name: str) -> bool:
    """Whether a name is hidden, or a file that systems leave beside pictures."""
    return name.startswith(".") or name.lower() in JUNK


def composed(name: str) -> str:
    """A name as names are compared: macOS writes an accent as a character of its own, others do not (NFC)."""
    return unicodedata.normalize("NFC", name)


def printable(path: str) -> str:
    """A file name as text: bytes that are no UTF-8 become backslash escapes."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def keys_of(paths: Sequence[str]) -> list[str]:
    """Distinct relative paths -> distinct keys of letters, digits, ``-`` and single ``_``, in the same order.

    Paths whose plain keys are equal, even but for their case, all get a hash of their path at the end: a key
    depends on the set of paths, never on their order.
    """
    plain = [plain_of(stem_of(p)) for p in paths]
    uses = Counter(p.lower() for p in plain)
    taken = set(uses)
    keys = []
    for path, key in zip(paths, plain, strict=True):
        if not key or uses[key.lower()] > 1 or len(key) > KEY_LENGTH:
            digest = hashlib.blake2b(os.fsencode(path), digest_size=32).hexdigest()
            ends = (f"{key[:KEY_LENGTH]}-{digest[:n]}".lstrip("-") for n in range(8, 65, 8))
            key = next(k for k in ends if k.lower() not in taken)
            taken.add(key.lower())
        keys.append(key)
    return keys


def plain_of(path: str) -> str:
    """Letters, digits, ``-`` and single ``_``; nothing may be left."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", path.replace("/", "-")).strip("_-")


def key_of(name: bytes) -> str:
    """Any bytes -> a safe key, without knowing the others: a name that is no key gets a hash at its end.

    Distinct names give distinct keys, for a name that already ends like such a hash gets one as well.
    """
    text = os.fsdecode(name)
    key = plain_of(text)
    if key and key == text and len(key) <= KEY_LENGTH and not HASHED.search(key):
        return key
    return f"{key[:KEY_LENGTH]}-{hashlib.blake2b(name, digest_size=8).hexdigest()}".lstrip("-")


def stem_of(path: str) -> str:
    """The path without a picture's extension; any other extension stays."""
    return os.path.splitext(path)[0] if is_picture(path) else path


def read(root: str, path: str, limit: int, follow_links: bool) -> bytes:
    """A regular file of at most ``limit`` bytes that lies inside ``root``, links resolved."""
    full = os.path.join(root, path)
    try:
        real = os.path.realpath(full, strict=True)
        if not follow_links and os.path.commonpath([root, real]) != root:
            raise ValueError(f"outside_link: {printable(path)} leads out of the input folder")
        status = os.stat(real)
        if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for ever
            raise ValueError(f"not_a_file: {printable(path)}")
        if status.st_size > limit:
            raise ValueError(f"too_large: {printable(path)} has {status.st_size} bytes, at most {limit}")
        with open(real, "rb") as f:
            return f.read(limit)
    except OSError as e:
        raise ValueError(f"unreadable: {printable(path)}: {e.strerror}") from None
