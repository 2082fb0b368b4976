"""A set of pictures as evaluate reads it: shards, or a folder of pictures, in units of one size for all workers."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np

from noiseweave.cluster import folders, shards, storage
from noiseweave.engine.formats import LISTED
from noiseweave.engine.pictures import images
from noiseweave.engine.records import Quarantined
from noiseweave.jobs.reading import looks
from noiseweave.jobs.reading.looks import Look
from noiseweave.jobs.reading.places import Place, check_alone, digest_of


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """The pictures of one side.

    Attributes:
        name: input or reference.
        root: the folder that the pictures' paths lie below; "" for shards.
        payloads: a shard each, or paths of pictures.
        left_out: what of the folder is none.
        digest: changes with the content of shards, or with names and sizes of the files of folders.
    """

    name: str
    root: str
    payloads: tuple[str | tuple[str, ...], ...]
    left_out: tuple[Quarantined, ...] = ()
    digest: str = ""


@dataclass(kw_only=True)
class Read:
    """The pictures of a unit.

    Attributes:
        keys: of the good ones, in order.
        groups: (positions among the good ones, uint8 [n, h, w, channels]), one for each size.
        bad: what was no picture.
        colour: pictures with any colour in them.
    """

    keys: list[str] = field(default_factory=list)
    groups: list[tuple[list[int], np.ndarray]] = field(default_factory=list)
    bad: list[Quarantined] = field(default_factory=list)
    colour: int = 0


def is_statistics(path: str | None) -> bool:
    """Whether a path names statistics of a set in place of its pictures."""
    return path is not None and path.endswith(".npz")


def find(name: str, given: str, each: int) -> PictureSet:
    """What a user calls input or reference.

    Raises:
        ValueError: nothing is there, or the folder of a run and not its shards.
    """
    url = storage.absolute(given)
    if not storage.is_folder(url) or any(n.endswith(".tar") for n in storage.names_in(url)):
        check_alone(name, given)
        return _of_shards(name, given)
    inner = storage.join(url, "shards")
    if any(n.endswith(".tar") for n in storage.names_in(inner)):
        raise ValueError(
            f"{name}={given!r}: the folder of a run; its shards are in {storage.join(given, 'shards')}"
        )
    if "://" in url:
        return _of_shards(name, given)
    return _of_folder(name, given, url, each)


def look(found: PictureSet, max_pixels: int) -> Look | None:
    """What its pictures are, some of them looked at."""
    if not found.root:
        return looks.look_at_shards([p for p in found.payloads if isinstance(p, str)], max_pixels)
    return looks.look_at_places(
        [Place(root=found.root, path=p) for run in found.payloads for p in run], max_pixels
    )


def _of_shards(name: str, given: str) -> PictureSet:
    try:
        found = shards.find(given)
    except ValueError as e:
        raise ValueError(str(e).replace("input ", f"{name} ", 1)) from None
    return PictureSet(name=name, root="", payloads=tuple(found), digest=shards.digest(found))


def _of_folder(name: str, given: str, folder: str, each: int) -> PictureSet:
    root = os.path.realpath(folder)
    found = folders.listing(root, "")
    paths = [item.path for item in found.items]
    if not paths:
        raise ValueError(f"{name}={given!r}: no shards (.tar) and no pictures ({LISTED}) in it")
    runs = tuple(tuple(paths[i : i + each]) for i in range(0, len(paths), each))
    listing = "".join(f"{p} {_size(os.path.join(root, p))}\n" for p in paths)
    return PictureSet(
        name=name, root=root, payloads=runs, left_out=tuple(found.bad), digest=digest_of(listing)
    )


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # a broken link: found bad when it is read
        return -1


def read(
    root: str, payload: str | tuple[str, ...], side: int | None, max_pixels: int, channels: int = 3
) -> Read:
    """The pictures of a unit.

    Args:
        side: short side fitted and centre square kept; None leaves pictures whole, and as pytorch-fid opens them:
            nobody turns them, or lays what is transparent on white.
        channels: 1 (grey) or 3 (RGB), where there is a side.
    """
    out, decoded = Read(), []
    for shard, key, data in _encoded(root, payload, out.bad):
        try:
            image = (
                images.decode_plain(data, max_pixels)
                if side is None
                else images.decode(data, channels, max_pixels)
            )
            decoded.append(image if side is None else images.fit(image, side))
            out.keys.append(key)
        except ValueError as e:
            out.bad.append(Quarantined.of(e, shard=shard, key=key))
    out.colour = sum(images.has_colour(image) for image in decoded)
    for shape in dict.fromkeys(image.shape for image in decoded):
        places = [i for i, image in enumerate(decoded) if image.shape == shape]
        out.groups.append((places, np.stack([decoded[i] for i in places])))
    return out


def _encoded(
    root: str, payload: str | tuple[str, ...], bad: list[Quarantined]
) -> list[tuple[str, str, bytes]]:
    """(shard, key, bytes) of each picture; what cannot be read is added to ``bad``."""
    if isinstance(payload, str):
        places, worse = shards.locate(payload)
        bad += worse
        data = storage.read_ranges(payload, [(p.offset, p.size) for p in places]) if places else []
        return [(payload, p.key, content) for p, content in zip(places, data, strict=True)]
    out = []
    for path in payload:
        try:
            data_of = folders.read(root, path, storage.IMAGE_LIMIT, follow_links=False)
            out.append(("", folders.printable(path), data_of))
        except ValueError as e:
            bad.append(Quarantined.of(e, key=folders.printable(path)))
    return out
