"""What inpaint works on: each picture with its mask and its words, from two files, two folders or shards."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from noiseweave.cluster import shards, storage
from noiseweave.cluster.labels import text_of
from noiseweave.cluster.units import Plan, Unit
from noiseweave.engine.records import Quarantined
from noiseweave.jobs.reading.class_names import carried_classes
from noiseweave.jobs.reading.contents import Contents, digest_of_all
from noiseweave.jobs.reading.places import TEXT_LIMIT, Item, Place, beside, listed, matched, root_of

if TYPE_CHECKING:
    from noiseweave.jobs.inpaint.config import Config


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
        digest: changes with the names and the content of the shards or files.
        classes: names of the classes of shards, where they have them.
    """

    plan: Plan
    pictures: int
    left_out: tuple[Quarantined, ...]
    digest: str
    classes: tuple[str, ...] = ()


def gather(config: Config, contents: Contents | None = None) -> Input:
    """Find the pictures of a job and their masks; none is decoded.

    Args:
        contents: what the run knows of the files; None reads all.

    Raises:
        ValueError: a file or folder is missing, nothing has a partner, or variants' names would collide.
    """
    if config.input is not None:
        return _of_shards(config)
    if config.image is not None:
        return _of_items(config, [_single(config)], [], contents)
    items, left_out = _of_folders(config)
    if not items:
        counts = [sum(b.reason == reason for b in left_out) for reason in ("no_mask", "no_picture")]
        where = f"masks {config.masks!r}: no picture has a mask of the same name"
        if config.masks is None:
            where = f"no picture NAME has a mask NAME{config.mask_suffix} beside it; give --masks or --mask_suffix"
        raise ValueError(
            f"images {config.images!r}, {where} ({counts[0]} pictures and {counts[1]} masks without a partner)"
        )
    return _of_items(config, items, left_out, contents)


def _of_folders(config: Config) -> tuple[list[Item], list[Quarantined]]:
    """Pictures with masks of a folder of their own, or of those beside them; what has no partner."""
    root = root_of("images", config.images)
    if config.masks is None:
        return matched(*beside(listed("images", root, root), config.mask_suffix), anywhere=False)
    masks = root_of("masks", config.masks)
    if root == masks:
        raise ValueError(f"masks={config.masks!r}: another folder than images, or null for masks beside them")
    return matched(listed("images", root, masks), listed("masks", masks, root))


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
        key=stem,
        extension=extension[1:].lower(),
        picture=places[0],
        mask=places[1],
        text=Place(path=text) if storage.exists(text) else None,
    )


def _of_items(
    config: Config, items: Sequence[Item], left_out: Iterable[Quarantined], contents: Contents | None
) -> Input:
    _check_names(config, {item.key for item in items})
    each = config.unit_pictures
    places = [p for item in items for p in (item.picture, item.mask, item.text) if p is not None]
    marked = (contents or Contents()).marked(places)
    of = dict(zip(places, marked, strict=True))
    items = [
        replace(i, picture=of[i.picture], mask=of[i.mask], text=None if i.text is None else of[i.text])
        for i in items
    ]
    runs = [tuple(items[i : i + each]) for i in range(0, len(items), each)]
    plan = Plan(length=len(runs), unit=_Units(runs))
    return Input(plan=plan, pictures=len(items), left_out=tuple(left_out), digest=digest_of_all(marked))


@dataclass(frozen=True)
class _Units:
    """Number -> unit."""

    payloads: Sequence[tuple[Item, ...] | Slice]

    def __call__(self, i: int) -> Unit:
        return Unit(index=i, id=f"{i:06d}", payload=self.payloads[i])


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
    left_out: list[Quarantined] = []
    total = 0
    for url in found:
        entries, bad = shards.index(url)
        left_out += bad
        good = [entry for entry in entries if _why_not(entry) is None]
        left_out += [_bad(url, entry) for entry in entries if _why_not(entry) is not None]
        _check_names(config, {entry.key for entry in good}, f" in {url}")
        ends = list(accumulate([config.unit_pictures] * (-(-len(good) // config.unit_pictures))))
        parts += [Slice(shard=url, start=e - config.unit_pictures, stop=min(e, len(good))) for e in ends]
        total += len(good)
    if not total:
        raise ValueError(f"input {config.input!r}: no sample there has a picture and a .mask.png")
    return Input(
        plan=Plan(length=len(parts), unit=_Units(parts)),
        pictures=total,
        left_out=tuple(left_out),
        digest=shards.digest(found),
        classes=tuple(carried_classes(config.input, found)),
    )


def _mask(entry: shards.Entry) -> str | None:
    return entry.first(shards.MASKS)


def _why_not(entry: shards.Entry) -> str | None:
    if entry.picture is None:
        return "no_picture"
    return "no_mask" if _mask(entry) is None else None


def _bad(url: str, entry: shards.Entry) -> Quarantined:
    reason = _why_not(entry)
    assert reason is not None
    return Quarantined(
        shard=url, key=entry.key, reason=reason, detail=f"only {', '.join(sorted(entry.members))}"
    )


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
        key=entry.key,
        extension=entry.picture,
        picture=places[entry.picture],
        mask=places[mask],
        text=places.get("txt"),
        label=places.get("cls"),
        hole=mask,
    )


def words(item: Item) -> str | None:
    """The picture's own prompt, on one line; None where it has none.

    Raises:
        ValueError: ``"bad_txt: ..."``: it is too long, or no text that ``labels.text_of`` reads.
    """
    if item.text is None:
        return None
    return " ".join(text_of(item.text.read(TEXT_LIMIT)).split())
