"""Existing shards as a source of ``pack``: cut anew, resized, filtered by label, split.

Keys and members stay: without a size every member is kept byte for byte, whatever its extension, but for labels that
are no plain number (names, ``2.0``), which become one, and captions, which become plain UTF-8. With a size
the sample's picture is resized, each other picture in it (``.mask.png``, ``.seg.png``) is cut and resized
alike by nearest neighbour and becomes PNG, and all other members are kept byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from noiseweave.cluster import shards, storage
from noiseweave.cluster.labels import label_of, text_of
from noiseweave.engine.records import Quarantined
from noiseweave.jobs.pack.naming import IGNORED, Naming, found_in, labels_in, named
from noiseweave.jobs.pack.samples import (
    Keys,
    Packed,
    Source,
    Tally,
    finished,
    in_order,
    picture,
    renumbered,
    wanted,
)
from noiseweave.jobs.reading import shard_pictures
from noiseweave.jobs.reading.class_names import carried_classes

if TYPE_CHECKING:
    from noiseweave.jobs.pack.config import Config


def source(config: Config, found: Sequence[str], tally: Tally) -> Source:
    """The samples of existing shards."""
    classes: list[str] = []
    naming = IGNORED
    if config.labels == "folders":
        classes = carried_classes(str(config.input), found)
        naming = named(classes) if classes else found_in(labels_in(url) for url in found)
    results = samples(config, found, naming, tally)
    names = classes or [*naming.numbers]
    return Source(what=f"{len(found)} shards", classes=names, total=None, results=results)


def samples(
    config: Config, found: Sequence[str], naming: Naming, tally: Tally
) -> Iterator[Packed | Quarantined]:
    """Every sample of every shard, in the order of the tars."""
    keys = Keys()
    for url in found:
        located, bad = shards.located(url, says=naming.of_sides)
        yield from bad
        kept = [(entry, x.label) for entry, x in located if wanted(config, x.label)]
        tally.left_out += len(located) - len(kept)
        yield from in_order(config, load, [(url, keys.distinct(e.key), label, e) for e, label in kept])


def load(config: Config, url: str, key: str, label: int | None, entry: shards.Entry) -> Packed | Quarantined:
    """A sample of a shard, made anew, or why there is none."""
    try:
        files, main = members(url, entry), entry.picture
        assert main is not None, entry.key
        content = files[main]
        number = renumbered(config, label)
        if config.labels == "none":
            files.pop("cls", None)
        elif label_of(files) != number or not files.get("cls", b"0").strip().isdigit():
            files["cls"] = str(number).encode()
        if "txt" in files:
            files["txt"] = text_of(files["txt"]).encode()
        kept = fitted(config, files, main)
        return finished(config, key, number, kept, content)
    except ValueError as e:
        return Quarantined.of(e, shard=url, key=entry.key)


def members(url: str, entry: shards.Entry) -> dict[str, bytes]:
    """All members of a sample by extension, in the order of the tar."""
    large = [e for e, member in entry.members.items() if member.size > storage.IMAGE_LIMIT]
    if large:
        raise ValueError(f"too_large: .{large[0]} has more than {storage.IMAGE_LIMIT} bytes")
    data = storage.read_ranges(url, [(m.offset, m.size) for m in entry.members.values()])
    return dict(zip(entry.members, data, strict=True))


def fitted(config: Config, files: Mapping[str, bytes], main: str) -> dict[str, bytes]:
    """The members as they go into the new shard. Every picture in it must decode."""
    extension, data = picture(config, files[main])
    if config.size is None:
        return dict(files)
    return shard_pictures.cut_alike(files, main, (extension, data), config.size)
