"""Which pictures there are, each with its mask and words, before any is opened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from noiseweave.cluster import shards
from noiseweave.engine.formats import is_picture
from noiseweave.engine.pictures import masks
from noiseweave.engine.records import Location, Quarantined
from noiseweave.jobs.lora.config import Config
from noiseweave.jobs.reading import class_names
from noiseweave.jobs.reading.places import Files, Place, beside, check_alone, listed, matched, root_of

PICTURES = "imgs"
MASKS: dict[str, masks.MaskMode] = {"masks": "black", "masks_inverted": "white"}


@dataclass(frozen=True, kw_only=True)
class Found:
    """A picture before it is looked at.

    Attributes:
        key: distinct among all pictures; chance comes from it.
        mask: where its mask lies, or None.
        text: where its caption lies, or the caption itself, or None.
        label: its class in a shard, by name where it has one; "" without.
    """

    key: str
    picture: Place
    mask: Place | None = None
    text: Place | str | None = None
    label: str = ""


def found_in(
    config: Config, where: str, name: str
) -> tuple[list[Found], masks.MaskMode, list[Quarantined], list[str]]:
    """Pictures; the colour of their holes; what was left out; the folders that they lie in."""
    if "://" not in where and os.path.isdir(where) and not any(n.endswith(".tar") for n in os.listdir(where)):
        return _of_folder(config, where, name)
    check_alone(name, where)
    if is_picture(where):
        raise ValueError(f"{name} {where!r}: one picture only; a folder of pictures or shards are needed")
    found, bad = [], []
    urls = shards.find(where)
    names = class_names.carried_classes(where, urls)
    for url in urls:
        located, worse = shards.located(url)
        bad += worse
        found += [_of_sample(location, names) for _, location in located]
    return found, config.data.mask_mode or "black", bad, [u for u in urls if "://" not in u]


def _of_sample(p: Location, names: Sequence[str]) -> Found:
    mask = None if p.mask is None else Place(path=p.shard, offset=p.mask[0], size=p.mask[1])
    shard = os.path.basename(p.shard).partition(".")[0]
    picture = Place(path=p.shard, offset=p.offset, size=p.size)
    label = "" if p.label is None else class_names.shown(p.label, names)
    return Found(key=f"{shard}/{p.key}", picture=picture, mask=mask, text=p.caption, label=label)


def _of_folder(
    config: Config, where: str, name: str
) -> tuple[list[Found], masks.MaskMode, list[Quarantined], list[str]]:
    root = root_of(name, where)
    within = os.path.join(root, PICTURES)
    inner = within if os.path.isdir(within) else root
    below = next((m for m in MASKS if os.path.isdir(os.path.join(root, m))), None)
    folder = None if below is None else os.path.join(root, below)
    files, mode = listed(name, inner, folder or root), config.data.mask_mode or "black"
    if below is not None and config.data.masks is not False:
        items, left_out = matched(files, listed(name, os.path.join(root, below), inner))
        mode = config.data.mask_mode or MASKS[below]
    else:
        files, own = beside(files, config.data.mask_suffix)
        if not own.pictures or config.data.masks is False:
            stems = sorted(files.pictures.items())
            found = [_alone(files, stem, path) for stem, paths in stems for path in paths]
            return _distinct(found), mode, [], [root]
        items, left_out = matched(files, own, anywhere=False)
    if not items:
        place = "beside it" if below is None else f"of the same name in {below}/"
        raise ValueError(f"input {where!r}: no picture with a mask {place}")
    pairs = [Found(key=i.key, picture=i.picture, mask=i.mask, text=i.text) for i in items]
    return pairs, mode, left_out, [root]


def _alone(files: Files, stem: str, path: str) -> Found:
    text = files.texts.get(stem)
    return Found(
        key=stem,
        picture=Place(root=files.root, path=path),
        text=None if text is None else Place(root=files.root, path=text),
    )


def _distinct(found: Sequence[Found]) -> list[Found]:
    """a.png and a.jpg keep their extensions in their keys."""
    uses = Counter(f.key for f in found)
    return [f if uses[f.key] == 1 else replace(f, key=f.picture.path.replace(".", "-")) for f in found]


def without_mask(f: Found) -> Quarantined:
    """The record of a picture that lacks its mask."""
    return Quarantined(
        shard=f.picture.path if f.picture.size is not None else "", key=f.key, reason="no_mask"
    )
