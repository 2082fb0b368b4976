"""Where pictures lie: folders and shards, listed, and matched with their masks."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from noiseweave.cluster import folders, storage
from noiseweave.engine.formats import LISTED, is_picture
from noiseweave.engine.records import Quarantined
from noiseweave.jobs.reading import shard_pictures
from noiseweave.jobs.reading.shard_pictures import InputChanged

TEXT_LIMIT = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the bytes of a file lie: below ``root``, or, where that is "", at a path, URL or range of one.

    Attributes:
        digest: of its content, as the run began; None where nobody has read it yet. See ``contents``.
    """

    path: str
    root: str = ""
    offset: int = 0
    size: int | None = None
    digest: str | None = None

    def read(self, limit: int = storage.IMAGE_LIMIT) -> bytes:
        """The bytes.

        Raises:
            ValueError: ``"reason: detail"``: unreadable, too_large, not_a_file or outside_link.
            InputChanged: it is not what it was when the run began.
        """
        data = self._read(limit)
        if self.digest not in (None, shard_pictures.digest_of(data)):
            raise InputChanged(f"input changed during the run: {folders.printable(self.path)}")
        return data

    def _read(self, limit: int) -> bytes:
        if self.root:
            return folders.read(self.root, self.path, limit, follow_links=False)
        try:
            size = self.size if self.size is not None else storage.size_of(self.path)
            if size > limit:
                raise ValueError(f"too_large: {size} bytes, at most {limit}")
            return storage.read(self.path, self.offset, size)
        except FileNotFoundError:
            raise ValueError(f"unreadable: {self.path}: no such file") from None


@dataclass(frozen=True, kw_only=True)
class Item:
    """A picture and its mask.

    Attributes:
        key: relative path without extension; what its random numbers and the names of its files come from.
        extension: of the picture's file, in lower case.
        text: its own prompt's file, or None.
        label: its .cls in a shard, or None.
        hole: extension of its mask.
    """

    key: str
    extension: str
    picture: Place
    mask: Place
    text: Place | None = None
    label: Place | None = None
    hole: str = "mask.png"

    @property
    def shard(self) -> str:
        """The tar that it lies in, or ""."""
        return self.picture.path if self.picture.size is not None else ""

    @property
    def name(self) -> str:
        """What a person calls it: its path below the folder, or its key in the shard."""
        return self.key if self.shard else folders.printable(self.picture.path)


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a folder by relative path without extension, composed: pictures (several of a name), texts."""

    root: str
    pictures: dict[str, list[str]]
    texts: dict[str, str]


def root_of(field: str, folder: str | None) -> str:
    """A local folder, links resolved; ValueError where there is none."""
    assert folder is not None
    root = os.path.realpath(os.path.expanduser(folder))
    if "://" in folder or not os.path.isdir(root):
        raise ValueError(f"{field}={folder!r}: no such local folder")
    return root


def listed(field: str, root: str, other: str) -> Files:
    """The files of a folder and those below it, but for the folder ``other``; ValueError where no picture is there."""
    found = Files(root=root, pictures=defaultdict(list), texts={})
    for path in _walk(root, other):
        name, extension = os.path.splitext(path)
        stem = folders.composed(name)
        if is_picture(path):
            found.pictures[stem].append(path)
        elif extension.lower() == ".txt":
            found.texts[stem] = path
    if not found.pictures:
        raise ValueError(f"{field}={root!r}: no {LISTED} in it or below it")
    return found


def mixed_in(folder: str, shards: int) -> str | None:
    """What a folder holds beside its shards, in words: pictures would be passed over without a word; None with none."""
    pictures = [item.path for item in folders.listing(folder, "").items]
    if not pictures:
        return None
    inner = sorted({os.path.dirname(path) for path in pictures} - {""}, key=os.fsencode)
    named = ", ".join(map(folders.printable, inner[:3])) + ", ..." * (len(inner) > 3)
    return f"{shards} .tar beside {len(pictures)} pictures" + f" (folders {named})" * bool(inner)


def check_alone(field: str, given: str) -> None:
    """Raise ValueError where a local folder holds pictures beside shards: nobody guesses which of them are meant."""
    url = storage.absolute(given)
    if "://" in url or not os.path.isdir(url):
        return
    tars = sum(name.endswith(".tar") for name in storage.names_in(url))
    what = mixed_in(url, tars) if tars else None
    if what is not None:
        raise ValueError(
            f"{field}={given!r}: {what}; name the shards as {storage.join(given, '*.tar')}, or a folder of one kind"
        )


def _walk(root: str, other: str) -> Iterator[str]:
    """Relative paths of all files, in an order that no disk can change.

    Hidden files, linked folders and the folder ``other`` are left out: masks may lie below their pictures.
    """
    for here, below, names in os.walk(root):
        kept = (n for n in below if not folders.junk(n) and os.path.join(here, n) != other)
        below[:] = sorted(kept, key=os.fsencode)
        for name in sorted((n for n in names if not folders.junk(n)), key=os.fsencode):
            yield os.path.relpath(os.path.join(here, name), root).replace(os.sep, "/")


def beside(files: Files, mask_suffix: str) -> tuple[Files, Files]:
    """The files of a folder parted: pictures, and the masks that lie beside them, under their pictures' names.

    Args:
        mask_suffix: a picture whose name ends so is the mask of the one without it: x_mask.png of x.jpg, with _mask.
    """
    parts: tuple[dict[str, list[str]], dict[str, list[str]]] = {}, {}
    for stem, paths in files.pictures.items():
        of = folders.masked_by(os.path.basename(stem), mask_suffix)
        parts[bool(of)][stem.removesuffix(mask_suffix) if of else stem] = paths
    pictures, masks = (Files(root=files.root, pictures=part, texts=files.texts) for part in parts)
    return pictures, masks


def matched(images: Files, masks: Files, anywhere: bool = True) -> tuple[list[Item], list[Quarantined]]:
    """Pictures and masks of the same relative path belong together; of what is left, those of the same stem.

    A name that could mean several is left out on both sides, as ambiguous, and never guessed.

    Args:
        anywhere: of what is left, look for the same stem in other folders too.
    """
    items: list[Item] = []
    left_out: list[Quarantined] = []
    for stem in sorted(images.pictures.keys() & masks.pictures.keys()):
        left_out += _paired(images, masks, [stem], [stem], items)
    by_stem: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, files, other in ((0, images, masks), (1, masks, images)):
        for stem in sorted(files.pictures.keys() - other.pictures.keys()):
            by_stem[os.path.basename(stem) if anywhere else stem][side].append(stem)
    for ours, theirs in by_stem.values():
        left_out += _paired(images, masks, ours, theirs, items)
    return sorted(items, key=lambda item: os.fsencode(item.key)), left_out


def _paired(
    images: Files, masks: Files, ours: Sequence[str], theirs: Sequence[str], items: list[Item]
) -> list[Quarantined]:
    """The pictures and masks of one name: one Item, or why there is none."""
    pictures = [(stem, path) for stem in ours for path in images.pictures[stem]]
    holes = [path for stem in theirs for path in masks.pictures[stem]]
    if len(pictures) == 1 and len(holes) == 1:
        (stem, path), text = pictures[0], images.texts.get(ours[0])
        extension = os.path.splitext(path)[1][1:].lower()
        picture, mask = Place(root=images.root, path=path), Place(root=masks.root, path=holes[0])
        side = Place(root=images.root, path=text) if text is not None else None
        items.append(Item(key=stem, extension=extension, picture=picture, mask=mask, text=side))
        return []
    if not holes:
        return [folders.bad(path, "no_mask") for _, path in pictures]
    if not pictures:
        return [folders.bad(path, "no_picture", "a mask alone") for path in holes]
    detail = f"{len(pictures)} pictures and {len(holes)} masks of this name"
    return [folders.bad(path, "ambiguous", detail) for path in [*(p for _, p in pictures), *holes]]


def digest_of(listing: str) -> str:
    """16 hex digits of a listing's SHA-256."""
    return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def common_root(found: list[str]) -> str:
    """The folder that all shards lie in, with its slash."""
    first, last = min(found).split("/")[:-1], max(found).split("/")[:-1]
    same = [a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
    return "/".join([*same, ""])
