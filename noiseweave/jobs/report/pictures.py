"""The gallery's pictures: where those around a sample's own lie, and all of them as small data URIs.

A picture that many samples share is read and embedded once. One that is not there is None and no error.
"""

from __future__ import annotations

import base64
import io
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from noiseweave.cluster import shards, storage
from noiseweave.cluster.arrays import table
from noiseweave.engine.pictures import files, images, masks
from noiseweave.engine.records import JsonMapping
from noiseweave.jobs.report.records import Damage
from noiseweave.jobs.report.samples import Found, Source

SIDE = 128  # longest side of an embedded picture
EXACT = 32  # pictures of at most this side are embedded pixel by pixel
QUALITY = 75
THREADS = 8
CHUNK = 64  # pictures that one thread reads and holds at a time
SHEET = 1600  # longest side of a sheet


@dataclass(frozen=True, kw_only=True)
class Hole:
    """A picture with its hole in white."""

    picture: Source
    mask: Source
    mode: masks.MaskMode


Wanted = Source | Hole
Row = list[Wanted | None]


# what belongs to a sample


def of_augment(output: str, root: str | None, found: Sequence[Found], damage: Damage) -> list[Row]:
    """first parent, fused, second parent."""
    names = {(str(p["shard"]), str(p["key"])) for one in found for p in one.parents[:2]}
    wanted: dict[str, set[str]] = defaultdict(set)
    for shard, key in names:
        if not shards.unsafe(shard):  # a name that a stranger wrote
            wanted[shard].add(key)
    there = _indexed(output, root, wanted, damage)
    if root is not None:
        for shard in wanted.keys() - {name for name, _ in there}:
            there |= _located(storage.join(root, shard), shard, wanted[shard])
    rows: list[Row] = []
    for one in found:
        around = [there.get((p["shard"], p["key"])) for p in one.parents[:2]] + [None, None]
        rows.append([around[0], one.picture, around[1]])
    return rows


def _indexed(
    output: str, root: str | None, wanted: Mapping[str, set[str]], damage: Damage
) -> dict[tuple[str, str], Source]:
    """Parents by the index that a run in dataset scope keeps: no tar is read for it."""
    folder, there = storage.join(output, "_run", "index"), dict[tuple[str, str], Source]()
    by_base = defaultdict(list)
    for name in wanted:
        by_base[posixpath.basename(name)].append(name)
    for file in storage.names_in(folder) if wanted else ():
        try:
            rows = table(storage.join(folder, file), ["shard", "key", "offset", "size", "guess"]).to_pylist()
        except (storage.Damaged, OSError):
            damage["index files"] += 1
            continue
        guesses = [row.pop("guess") for row in rows]
        of_pool = any(guess is not None for guess in guesses)  # which lies where it lay
        good = [row for row in rows if set(map(type, row.values())) == {str, int}]
        damage["rows of the index"] += len(rows) - len(good)
        url = str(good[0]["shard"]) if good else ""
        same = [n for n in by_base[posixpath.basename(url)] if f"/{url}".endswith(f"/{n}")]
        if not same:
            continue
        name = max(same, key=len)
        url = url if root is None or of_pool else storage.join(root, name)
        there |= {
            (name, row["key"]): Source(url=url, offset=row["offset"], size=row["size"])
            for row in good
            if row["key"] in wanted[name]
        }
    return there


def _located(url: str, name: str, keys: set[str]) -> dict[tuple[str, str], Source]:
    """The pictures of some samples of a shard; {} where it is not there."""
    try:
        entries = shards.index(url)[0]
    except Exception:  # each file system has its own errors
        return {}
    return {
        (name, e.key): Source(url=url, offset=where.offset, size=where.size)
        for e in entries
        if e.key in keys and (where := e.members.get(e.picture or ""))
    }


def of_inpaint(read_from: JsonMapping, found: Sequence[Found]) -> list[Row]:
    """original, original with its hole, restored."""
    originals = _originals(read_from, found)
    rows: list[Row] = []
    for one, (picture, mask) in zip(found, originals, strict=True):
        mode: masks.MaskMode = "white" if one.lineage.get("mask_mode") == "white" else "black"
        hole = Hole(picture=picture, mask=mask, mode=mode) if picture and mask else None
        rows.append([picture, hole, one.picture])
    return rows


def _originals(read_from: JsonMapping, found: Sequence[Found]) -> list[tuple[Source | None, Source | None]]:
    """(picture, mask) of each sample."""
    if read_from.get("input"):
        there = _of_shards(str(read_from["input"]), [str(one.lineage.get("picture")) for one in found])
        return [(there.get(str(one.lineage.get("picture"))), one.mask) for one in found]
    if read_from.get("image") and read_from.get("mask"):
        pair = Source(url=str(read_from["image"])), Source(url=str(read_from["mask"]))
        return [pair for _ in found]
    out = []
    for one in found:
        places = [
            (read_from.get(f"{field}s"), one.lineage.get(name))
            for field, name in (("image", "picture"), ("mask", "mask"))
        ]
        picture, mask = (
            Source(url=storage.join(str(root), path))
            if root and isinstance(path, str) and not shards.unsafe(path)
            else None
            for root, path in places
        )
        out.append((picture, mask))
    return out


def _of_shards(pattern: str, names: Sequence[str]) -> dict[str, Source]:
    """Samples that a lineage names as shard#key."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for name in names:
        shard, _, key = name.partition("#")
        wanted[shard].add(key)
    try:
        urls = shards.find(pattern)
    except Exception:
        return {}
    there: dict[str, Source] = {}
    for url in urls:
        base = posixpath.basename(url)
        if base in wanted:
            there |= {f"{base}#{key}": s for (_, key), s in _located(url, base, wanted[base]).items()}
    return there


# what is embedded


def embedded(rows: Iterable[Row], job: str) -> dict[Wanted, str]:
    """Each distinct picture as a data URI; those that cannot be read are left out."""
    by_file: dict[str, list[Wanted]] = defaultdict(list)
    for one in dict.fromkeys(w for row in rows for w in row if w is not None):
        by_file[one.url if isinstance(one, Source) else one.picture.url].append(one)
    parts = [many[i : i + CHUNK] for many in by_file.values() for i in range(0, len(many), CHUNK)]
    decode = {"inpaint": _visible, "augment": _square}.get(job, images.decode)
    with ThreadPoolExecutor(THREADS) as pool:
        done = pool.map(lambda part: [(one, _thumb(one, decode)) for one in part], parts)
        return {one: uri for part in done for one, uri in part if uri}


def _thumb(one: Wanted, decode: Callable[[bytes], np.ndarray]) -> str | None:
    try:
        if isinstance(one, Source):
            return data_uri(decode(_read(one)))
        picture_HWC = decode(_read(one.picture))
        height, width = picture_HWC.shape[:2]
        hole_HW = masks.hole_of(_read(one.mask), one.mode, (height, width))
        return data_uri(masks.whitened(picture_HWC, hole_HW))
    except Exception:  # gone, damaged, or a store's own error: the card does without
        return None


def _read(one: Source) -> bytes:
    if (storage.size_of(one.url) if one.size is None else one.size) > storage.IMAGE_LIMIT:
        raise ValueError(f"{one.url}: too large")
    return storage.read(one.url, one.offset, one.size)


def _visible(data: bytes) -> np.ndarray:
    """A picture of any mode that inpaint takes, as uint8 [H, W, 3]."""
    return files.visible(files.opened(data, images.MAX_PIXELS, 1), 3)


def _square(data: bytes) -> np.ndarray:
    """The part of a picture that a model of square pictures sees."""
    image_HWC = images.decode(data)
    return images.fit(image_HWC, min(image_HWC.shape[:2]))


def data_uri(image_HWC: np.ndarray, side: int = SIDE) -> str:
    """uint8 [H, W, 1 or 3] -> a data URI, at most ``side`` pixels long: png where it is small, else webp."""
    image = Image.fromarray(image_HWC[..., 0] if image_HWC.shape[-1] == 1 else image_HWC)
    buffer, exact = io.BytesIO(), max(image.size) <= EXACT
    if exact:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        image.save(buffer, "WEBP", quality=QUALITY)
    kind = "png" if exact else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def sheet(url: str) -> str | None:
    """A sheet of pictures as a data URI; None where there is none."""
    try:
        return data_uri(images.decode(storage.read(url)), SHEET)
    except Exception:
        return None
