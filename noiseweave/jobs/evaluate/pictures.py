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
from noiseweave.jobs.reading.contents import Contents, digest_of_all
from noiseweave.jobs.reading.looks import Look
from noiseweave.jobs.reading.places import Place, check_alone


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """The pictures of one side.

    Attributes:
        name: input or reference.
        root: the folder that the pictures' paths lie below; "" for shards.
        payloads: a shard each, or the places of pictures.
        left_out: what of the folder is none.
        digest: changes with the names and the content of the shards or files.
    """

    name: str
    root: str
    payloads: tuple[str | tuple[Place, ...], ...]
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


def find(name: str, given: str, each: int, contents: Contents | None = None) -> PictureSet:
    """What a user calls input or reference.

    Args:
        each: pictures of a folder in a unit.
        contents: what the run knows of a folder's files; None reads none of them.

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
    return _of_folder(name, given, url, each, contents)


def look(found: PictureSet, max_pixels: int) -> Look | None:
    """What its pictures are, some of them looked at."""
    if not found.root:
        return looks.look_at_shards([p for p in found.payloads if isinstance(p, str)], max_pixels)
    places = [place for run in found.payloads if not isinstance(run, str) for place in run]
    return looks.look_at_places(places, max_pixels)


def _of_shards(name: str, given: str) -> PictureSet:
    try:
        found = shards.find(given)
    except ValueError as e:
        raise ValueError(str(e).replace("input ", f"{name} ", 1)) from None
    return PictureSet(name=name, root="", payloads=tuple(found), digest=shards.digest(found))


def _of_folder(name: str, given: str, folder: str, each: int, contents: Contents | None) -> PictureSet:
    root = os.path.realpath(folder)
    found = folders.listing(root, "")
    places = [Place(root=root, path=item.path) for item in found.items]
    if not places:
        raise ValueError(f"{name}={given!r}: no shards (.tar) and no pictures ({LISTED}) in it")
    places = places if contents is None else contents.marked(places)
    runs = tuple(tuple(places[i : i + each]) for i in range(0, len(places), each))
    digest = digest_of_all(places)
    return PictureSet(name=name, root=root, payloads=runs, left_out=tuple(found.bad), digest=digest)


def read(payload: str | tuple[Place, ...], side: int | None, max_pixels: int, channels: int = 3) -> Read:
    """The pictures of a unit.

    Args:
        side: short side fitted and centre square kept; None leaves pictures whole, and as pytorch-fid opens them:
            nobody turns them, or lays what is transparent on white.
        channels: 1 (grey) or 3 (RGB), where there is a side.
    """
    out, decoded = Read(), []
    for shard, key, data in _encoded(payload, out.bad):
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


def _encoded(payload: str | tuple[Place, ...], bad: list[Quarantined]) -> list[tuple[str, str, bytes]]:
    """(shard, key, bytes) of each picture; what cannot be read is added to ``bad``."""
    if isinstance(payload, str):
        places, worse = shards.locate(payload)
        bad += worse
        data = storage.read_ranges(payload, [(p.offset, p.size) for p in places]) if places else []
        return [(payload, p.key, content) for p, content in zip(places, data, strict=True)]
    out = []
    for place in payload:
        key = folders.printable(place.path)
        try:
            out.append(("", key, place.read()))
        except ValueError as e:
            bad.append(Quarantined.of(e, key=key))
    return out
