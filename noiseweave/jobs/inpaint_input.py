"""What inpaint works on: each picture with its mask and its words, from two files, two folders or shards."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from noiseweave.cluster import folders, shards, storage
from noiseweave.engine.records import Bad, Plan, Unit
from noiseweave.jobs.inpaint_pictures import EXTENSIONS

if TYPE_CHECKING:
    from noiseweave.jobs.inpaint import Config

TEXT_LIMIT = 64 << 10


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the bytes of a file lie: below ``root``, or, where that is "", at a path, URL or range of one."""

    path: str
    root: str = ""
    offset: int = 0
    size: int | None = None

    def read(self, limit: int = storage.IMAGE_LIMIT) -> bytes:
        """The bytes.

        Raises:
            ValueError: ``"reason: detail"``: unreadable, too_large, not_a_file or outside_link.
        """
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
class Slice:
    """The samples [start, stop) of a shard."""

    shard: str
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Input:
    """All work of a job.

    Attributes:
        plan: its units; a payload is a tuple of Items or a Slice.
        pictures: how many there are.
        left_out: pictures without a mask (no_mask), masks without a picture (no_picture), names that could mean
            several (ambiguous), and what is damaged in the shards.
        digest: changes with names and sizes of the files.
    """

    plan: Plan
    pictures: int
    left_out: tuple[Bad, ...]
    digest: str


def gather(config: Config) -> Input:
    """Find the pictures of a job and their masks; none is opened.

    Raises:
        ValueError: a file or folder is missing, nothing has a partner, or variants' names would collide.
    """
    if config.input is not None:
        return _of_shards(config)
    if config.image is not None:
        return _of_items(config, [_single(config)], [])
    roots = root_of("images", config.images), root_of("masks", config.masks)
    if roots[0] == roots[1]:
        raise ValueError(f"masks={config.masks!r}: another folder than images")
    images, masks = listed("images", *roots), listed("masks", *reversed(roots))
    items, left_out = matched(images, masks)
    if not items:
        counts = [sum(b.reason == reason for b in left_out) for reason in ("no_mask", "no_picture")]
        raise ValueError(
            f"images {config.images!r}, masks {config.masks!r}: no picture has a mask of the same name "
            f"({counts[0]} pictures and {counts[1]} masks without a partner)"
        )
    return _of_items(config, items, left_out)


def _single(config: Config) -> Item:
    assert config.image is not None
    assert config.mask is not None
    places = []
    for name, given in (("image", config.image), ("mask", config.mask)):
        url = storage.absolute(given)
        if not storage.exists(url) or storage.is_folder(url):
            raise ValueError(f"{name} {given!r}: no such file")
        places.append(Place(path=url))
    stem, extension = os.path.splitext(os.path.basename(places[0].path))
    text = os.path.splitext(places[0].path)[0] + ".txt"
    return Item(
        key=stem, extension=extension[1:].lower(), picture=places[0], mask=places[1],
        text=Place(path=text) if storage.exists(text) else None,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of a folder by relative path without extension: pictures (several of a name), texts."""

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
        stem, extension = os.path.splitext(path)
        if extension[1:].lower() in EXTENSIONS:
            found.pictures[stem].append(path)
        elif extension.lower() == ".txt":
            found.texts[stem] = path
    if not found.pictures:
        raise ValueError(f"{field}={root!r}: no {', '.join('.' + e for e in EXTENSIONS)} in it or below it")
    return found


def _walk(root: str, other: str) -> Iterator[str]:
    """Relative paths of all files, in an order that no disk can change.

    Hidden files, linked folders and the folder ``other`` are left out: masks may lie below their pictures.
    """
    for here, below, names in os.walk(root):
        kept = (n for n in below if not folders.junk(n) and os.path.join(here, n) != other)
        below[:] = sorted(kept, key=os.fsencode)
        for name in sorted((n for n in names if not folders.junk(n)), key=os.fsencode):
            yield os.path.relpath(os.path.join(here, name), root).replace(os.sep, "/")


def matched(images: Files, masks: Files) -> tuple[list[Item], list[Bad]]:
    """Pictures and masks of the same relative path belong together; of what is left, those of the same stem.

    A name that could mean several is left out on both sides, as ambiguous, and never guessed.
    """
    items: list[Item] = []
    left_out: list[Bad] = []
    for stem in sorted(images.pictures.keys() & masks.pictures.keys()):
        left_out += _paired(images, masks, [stem], [stem], items)
    by_stem: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, files, other in ((0, images, masks), (1, masks, images)):
        for stem in sorted(files.pictures.keys() - other.pictures.keys()):
            by_stem[os.path.basename(stem)][side].append(stem)
    for ours, theirs in by_stem.values():
        left_out += _paired(images, masks, ours, theirs, items)
    return sorted(items, key=lambda item: os.fsencode(item.key)), left_out


def _paired(
    images: Files, masks: Files, ours: Sequence[str], theirs: Sequence[str], items: list[Item]
) -> list[Bad]:
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


def _of_items(config: Config, items: Sequence[Item], left_out: Iterable[Bad]) -> Input:
    _check_names(config, {item.key for item in items})
    each = config.unit_pictures
    listing = "".join(
        f"{place.path} {size_of(place)}\n"
        for item in items
        for place in (item.picture, item.mask, item.text)
        if place is not None
    )
    runs = [tuple(items[i : i + each]) for i in range(0, len(items), each)]
    plan = Plan(length=len(runs), unit=_Units(runs))
    return Input(plan=plan, pictures=len(items), left_out=tuple(left_out), digest=digest_of(listing))


@dataclass(frozen=True)
class _Units:
    """Number -> unit."""

    payloads: Sequence[tuple[Item, ...] | Slice]

    def __call__(self, i: int) -> Unit:
        return Unit(index=i, id=f"{i:06d}", payload=self.payloads[i])


def size_of(place: Place) -> int:
    if not place.root:
        return storage.size_of(place.path)
    try:
        return os.stat(os.path.join(place.root, place.path)).st_size
    except OSError:  # a broken link: found bad when it is read
        return -1


def digest_of(listing: str) -> str:
    return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _check_names(config: Config, keys: set[str], where: str = "") -> None:
    """The second variant of ``a`` is called ``a_2``: no picture may be called that already."""
    for row in range(2, config.rows + 1):
        taken = next((key for key in sorted(keys) if f"{key}_{row}" in keys), None)
        if taken is not None:
            raise ValueError(
                f"rows={config.rows}: variant {row} of {taken!r} would be called {taken}_{row}, which is another "
                f"picture's name{where}; rename one of them"
            )


def _of_shards(config: Config) -> Input:
    assert config.input is not None
    found = shards.find(config.input)
    parts: list[Slice] = []
    left_out: list[Bad] = []
    listing, total = "", 0
    for url in found:
        entries, bad = shards.index(url)
        left_out += bad
        good = [entry for entry in entries if _why_not(entry) is None]
        left_out += [_bad(url, entry) for entry in entries if _why_not(entry) is not None]
        _check_names(config, {entry.key for entry in good}, f" in {url}")
        ends = list(accumulate([config.unit_pictures] * (-(-len(good) // config.unit_pictures))))
        parts += [Slice(shard=url, start=e - config.unit_pictures, stop=min(e, len(good))) for e in ends]
        listing += f"{os.path.basename(url)} {storage.size_of(url)}\n"
        total += len(good)
    if not total:
        raise ValueError(f"input {config.input!r}: no sample there has a picture and a .mask.png")
    return Input(
        plan=Plan(length=len(parts), unit=_Units(parts)), pictures=total, left_out=tuple(left_out),
        digest=digest_of(listing),
    )  # fmt: skip


def _mask(entry: shards.Entry) -> str | None:
    return entry.first([shards.MASK + e for e in EXTENSIONS])


def _why_not(entry: shards.Entry) -> str | None:
    if entry.picture is None:
        return "no_picture"
    return "no_mask" if _mask(entry) is None else None


def _bad(url: str, entry: shards.Entry) -> Bad:
    reason = _why_not(entry)
    assert reason is not None
    return Bad(shard=url, key=entry.key, reason=reason, detail=f"only {', '.join(sorted(entry.members))}")


def items_of(payload: tuple[Item, ...] | Slice) -> list[Item]:
    """The pictures of a unit."""
    if isinstance(payload, tuple):
        return list(payload)
    entries = _usable(payload.shard, storage.size_of(payload.shard))
    return [_item(payload.shard, entry) for entry in entries[payload.start : payload.stop]]


@functools.lru_cache(maxsize=2)
def _usable(url: str, size: int) -> list[shards.Entry]:
    """The samples with a picture and a mask; a worker keeps them, as several units read one shard."""
    return [entry for entry in shards.index(url)[0] if _why_not(entry) is None]


def _item(url: str, entry: shards.Entry) -> Item:
    assert entry.picture is not None
    mask = _mask(entry)
    assert mask is not None
    places = {
        name: Place(path=url, offset=entry.members[name].offset, size=entry.members[name].size)
        for name in (entry.picture, mask, "txt", "cls")
        if name in entry.members
    }
    return Item(
        key=entry.key, extension=entry.picture, picture=places[entry.picture], mask=places[mask],
        text=places.get("txt"), label=places.get("cls"), hole=mask,
    )  # fmt: skip


def words(item: Item) -> str | None:
    """The picture's own prompt, on one line; None where it has none.

    Raises:
        ValueError: ``"bad_txt: ..."``: it is too long, or no UTF-8 text.
    """
    if item.text is None:
        return None
    try:
        return " ".join(item.text.read(TEXT_LIMIT).decode("utf-8-sig").split())
    except UnicodeDecodeError as e:
        raise ValueError(f"bad_txt: not UTF-8 ({e.reason})") from None
