"""An input that is a folder of pictures: packed into the run's own folder, and read as shards from there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from noiseweave.cluster import folders, shards, storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.checks import check
from noiseweave.engine.records import Json
from noiseweave.jobs import outputs
from noiseweave.jobs.augment.config import Config
from noiseweave.jobs.pack import config as pack_config
from noiseweave.jobs.pack import folder as pack_folder
from noiseweave.jobs.pack import job as pack
from noiseweave.jobs.pack import output as pack_output
from noiseweave.jobs.pack.samples import Packed, Source

PACKED, PACKED_POOL = (
    "packed",
    "packed-pool",
)  # in _run; outputs.PACKED and outputs.PACKED_POOL are their shards
EACH = 256  # pictures in a shard, which is a unit of work


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of pictures.

    Attributes:
        field: of the config, that names it.
        given: as the user called it.
        pictures: how many it has.
        content: 16 hex digits that change with the name or bytes of any picture or side file, or with the classes.
    """

    field: str
    given: str
    pictures: int
    content: str


def look(config: Config, field: str = "input") -> Folder | None:
    """The folder of pictures that an input is; None where it is none, and is to be read as shards.

    Args:
        field: of the config: input or pool.

    Raises:
        ValueError: as of ``root_of``.
    """
    given = str(getattr(config, field))
    root = root_of(given, config.output, field)
    if root is None:
        return None
    found = folders.listing(root, "")
    return Folder(field=field, given=given, pictures=len(found.items), content=_content(root, found))


def root_of(given: str, output: str, field: str = "input") -> str | None:
    """The absolute folder of pictures that an input is; None where it is to be read as shards.

    Raises:
        ValueError: it is of another format that pack reads, the output of a run, or the output lies in it.
    """
    root = storage.absolute(given)
    if "://" in given or not os.path.isdir(root):
        return None
    kind = pack.detected(given)
    if kind == "shards":
        return None
    if any(name.endswith(".tar") for name in storage.names_in(storage.join(root, "shards"))):
        inner = storage.join(given, "shards")
        raise ValueError(f"{field} {given!r}: the folder of a run; its shards are in {inner}")
    if kind != "folder":
        raise ValueError(
            f"{field} {given!r}: in the format {kind}; noiseweave pack --input {given} makes shards of it"
        )
    if not folders.listing(root, "").items:
        raise ValueError(
            f"{field} {given!r}: no .tar shards there, and no .jpg, .jpeg, .png, .webp or .bmp in it or below it"
        )
    real, inside = os.path.realpath(storage.absolute(output)), os.path.realpath(root)
    apart = "://" in output or os.path.commonpath([real, inside]) not in (real, inside)
    check(apart, "output", output, f"a folder apart from the {field}")
    return root


def _content(root: str, found: folders.Listing) -> str:
    paths = [path for item in found.items for path in (item.path, *sorted(item.sides.values()))]
    with ThreadPoolExecutor(8) as pool:
        contents = pool.map(lambda path: _content_of(os.path.join(root, path)), paths)
        lines = [f"{path} {content}\n" for path, content in zip(paths, contents, strict=True)]
    classes, _ = pack_folder.survey(root, True)
    text = "".join([*(f"{name}\n" for name in classes), *lines])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _content_of(path: str) -> str:
    try:
        return storage.content_of(path)
    except OSError:  # a broken link, say: quarantined when it is packed
        return ""


def packed(source: Folder, book: Ledger) -> list[str]:
    """The folder's shards, in the run's own folder; packed now, where a run before this one did not end that.

    Raises:
        ValueError: none of its pictures opens.
    """
    of_pool = source.field == "pool"
    output = book.path(PACKED_POOL if of_pool else PACKED)
    done = storage.exists(storage.join(output, "report.json"))  # pack's last file
    if not done and pack.run(_recipe(source.given, output, "none" if of_pool else "folders")):
        raise ValueError(f"{source.field} {source.given!r}: none of its {source.pictures} pictures opens")
    return shards.find(storage.join(output, "shards"))


def _recipe(given: str, output: str, labels: Literal["none", "folders"]) -> pack_config.Config:
    return pack_config.Config(input=given, format="folder", output=output, shard_samples=EACH, labels=labels)


def read(given: str, output: str) -> tuple[Source, Iterator[list[Packed]]]:
    """An input that is a folder of pictures as ``packed`` would pack it, with nothing written.

    Args:
        output: what it would be packed to.

    Returns:
        What it is, and the samples of each of its shards.
    """
    recipe = _recipe(given, output, "folders")
    source = pack.opened(recipe, "folder", storage.absolute(output), (), pack_output.new_tally(recipe))
    good = (one for one in source.results if isinstance(one, Packed))
    return source, pack_output.in_shards(recipe, good)


def quarantined(book: Ledger) -> Iterator[Json]:
    """What packing left out, as a phase of the run."""
    paths = [book.path(folder, outputs.QUARANTINE) for folder in (PACKED, PACKED_POOL)]
    for row in (row for path in paths if storage.exists(path) for row in outputs.read_json_lines(path)):
        yield {
            "phase": "pack",
            "shard": "",
            "key": row["source"],
            "reason": row["reason"],
            "detail": row["detail"],
        }
