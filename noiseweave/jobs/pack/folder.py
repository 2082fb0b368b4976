"""A local folder of pictures as a source of ``pack``: one sub-folder a class, side files of the same stem."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from noiseweave.cluster import folders, labels, shards, storage
from noiseweave.engine.checks import check
from noiseweave.engine.formats import LISTED
from noiseweave.engine.records import Json, Quarantined
from noiseweave.jobs.pack.naming import BY_NUMBER, IGNORED, Naming, found_in
from noiseweave.jobs.pack.samples import Packed, Source, Tally, in_order, mask_beside, packed, picture

Label = int | str | None
OTHERS = frozenset([".jp2", ".jxl", ".psd", ".svg", ".ppm", ".pgm", ".tga", ".exr"])
"""Extensions of pictures that are not read."""

SPLITS = frozenset(["train", "training", "val", "valid", "validation", "dev", "test", "testing"])
"""Names of folders that are more often parts of a data set than classes."""

if TYPE_CHECKING:
    from noiseweave.jobs.pack.config import Config


def source(config: Config, root: str, tally: Tally) -> Source:
    """A folder of pictures: its sub-folders are classes where labels are wanted, else the .json files may say them."""
    classes, total = survey(root, config.labels == "folders", config.mask_suffix)
    check(total > 0, "input", config.input, f"no {LISTED} in it or below it (linked folders do not count)")
    if text := doubt(root, classes):
        print(f"warning: {text}", file=sys.stderr, flush=True)
    naming = IGNORED
    if config.labels == "folders" and not classes:
        flat = folders.listing(root, "", mask_suffix=config.mask_suffix).items
        naming = found_in([[own_label(root, item, config) for item in flat]])
    results = samples(root, classes, naming, config, tally)
    names = [folders.printable(name) for name in classes] or [*naming.numbers]
    return Source(what="a folder of pictures", classes=names, total=total, results=results)


def doubt(root: str, classes: Sequence[str]) -> str | None:
    """A question, where the class folders look like something else: splits, or a folder around the class folders."""
    names = [folders.printable(name) for name in classes]
    if len(names) > 1 and {name.lower() for name in names} <= SPLITS:
        return f"the classes are {', '.join(names)}: is this a data set in splits? Then give one of them as the input"
    if len(names) != 1:
        return None
    (only,) = names
    below = folders.inside(f"{root}/{classes[0]}")
    below = [name for name in below if folders.listing(root, f"{classes[0]}/{name}").items]
    if below and not folders.listing(root, classes[0], deep=False).items:
        some = ", ".join(map(folders.printable, below[:3])) + (", ..." if len(below) > 3 else "")
        question = f"is this a folder around the class folders? Then give {only} as the input"
        return f"all pictures are of one class, {only}, and lie in folders below it ({some}): {question}"
    return f"all pictures are of one class, {only}: is this meant? A folder of pictures alone has no classes"


def survey(root: str, labelled: bool, mask_suffix: str = folders.MASK_SUFFIX) -> tuple[list[str], int]:
    """Look through the folder once, without opening a picture: class folders by number, pictures in all.

    A folder that has pictures of other formats alone keeps its number, so that those behind it keep theirs.
    """
    look = partial(folders.listing, root, mask_suffix=mask_suffix)
    found = {name: look(name) for name in folders.inside(root) if labelled}
    sizes = {name: len(inside.items) for name, inside in found.items()}
    some = any(sizes.values())
    classes = [
        name for name, size in sizes.items() if size or (some and _other_pictures(found[name].ignored))
    ]
    return classes, sum(sizes.values()) + len(look("", deep=not classes).items)


def _other_pictures(ignored: Mapping[str, int]) -> str:
    """The pictures among files that are ignored, by extension: ``3 .gif, 1 .tif``."""
    return ", ".join(f"{n} {extension}" for extension, n in sorted(ignored.items()) if extension in OTHERS)


def own_label(root: str, item: folders.Item, config: Config) -> int | str | None:
    """What a picture's own .json has for a label; None where it has none, or is broken (and named when packed)."""
    try:
        data = folders.read(root, item.sides["json"], shards.SIDE_LIMIT, config.follow_links)
        return labels.label_of({"json": data})
    except (KeyError, ValueError):
        return None


def samples(
    root: str, classes: Sequence[str], naming: Naming, config: Config, tally: Tally
) -> Iterator[Packed | Quarantined]:
    """Every picture below the folder, sorted by name: a sample, or why there is none."""
    look = partial(folders.listing, root, mask_suffix=config.mask_suffix)
    loose = look("", deep=not classes)
    tally.ignore(loose)
    yield from loose.bad
    if classes:
        yield from (folders.bad(i.path, "no_class", "it lies beside the class folders") for i in loose.items)
    else:
        yield from loaded(Part(root=root, items=loose.items, naming=naming), config, tally)
    for name in (name for name in folders.inside(root) if classes and name not in classes):
        tally.ignore(look(name))
    for label, (name, prefix) in enumerate(zip(classes, folders.keys_of(classes), strict=True)):
        found = look(name)
        tally.ignore(found)
        yield from found.bad
        if not found.items:
            kinds = _other_pictures(found.ignored)
            yield folders.bad(name, "no_pictures", f"a class folder with none that is read: {kinds}")
        part = Part(root=root, items=found.items, cut=len(name) + 1, prefix=f"{prefix}__", label=label)
        yield from loaded(part, config, tally)


@dataclass(frozen=True, kw_only=True)
class Part:
    """The pictures of one class, or of a folder without classes, where ``naming`` reads each picture's own label.

    A key is ``prefix`` and the path without its first ``cut`` characters.
    """

    root: str
    items: Sequence[folders.Item]
    cut: int = 0
    prefix: str = ""
    label: int | None = None
    naming: Naming = BY_NUMBER


def loaded(part: Part, config: Config, tally: Tally) -> Iterator[Packed | Quarantined]:
    """Read and check the pictures of one class, in order."""
    yield from in_order(config, load, jobs(part, config, tally))


def jobs(part: Part, config: Config, tally: Tally) -> Iterator[tuple[Part, folders.Item, str, Label]]:
    """(part, picture, key, label) of those that are wanted."""
    keys = folders.keys_of([i.path[part.cut :] for i in part.items])
    for item, key in zip(part.items, keys, strict=True):
        label: Label = part.label
        if label is None and not part.naming.ignored:
            label = own_label(part.root, item, config)
        if part.naming.wanted(config.kept, label):
            yield part, item, part.prefix + key, label
        else:
            tally.left_out += 1


def load(config: Config, part: Part, item: folders.Item, key: str, label: Label) -> Packed | Quarantined:
    """One picture with its side files.

    A broken side file takes its picture along, for a picture that silently lost its caption is worse than
    one that is missing and named.
    """
    try:
        data = folders.read(part.root, item.path, storage.IMAGE_LIMIT, config.follow_links)
        files = dict([picture(config, data)])
        sides = {
            e: folders.read(part.root, p, limit_of(e), config.follow_links) for e, p in item.sides.items()
        }
        files |= mask_beside(config, data, sides)
        if "txt" in sides:
            files["txt"] = labels.text_of(sides["txt"]).encode()
        meta = lineage(sides.get("json"), folders.printable(item.path))
        return packed(config, key, part.naming.number(label), files, meta, data)
    except ValueError as e:
        return Quarantined.of(e, key=folders.printable(item.path))


def limit_of(extension: str) -> int:
    """The most bytes of a side file."""
    return storage.IMAGE_LIMIT if extension in shards.MASKS else shards.SIDE_LIMIT


def lineage(data: bytes | None, source: str) -> Json:
    """The picture's own .json with ``source``, its path in the folder; an older source is kept beside it."""
    try:
        meta = json.loads(data) if data is not None else {}
    except (ValueError, RecursionError) as e:
        raise ValueError(f"bad_json: {e}") from None
    if not isinstance(meta, dict):
        raise ValueError(f"bad_json: a {type(meta).__name__} where an object is expected")
    if "source" in meta:
        meta["earlier_source"] = meta.pop("source")
    return {**meta, "source": source}
