"""A Hugging Face image folder as a source of ``pack``, read as the ``datasets`` library reads it.

https://huggingface.co/docs/datasets/image_dataset: split folders, class folders, or a metadata.csv,
metadata.jsonl or metadata.parquet with ``file_name``. With metadata the class folders name no labels.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from noiseweave.cluster import folders, shards, storage
from noiseweave.engine.checks import check
from noiseweave.engine.formats import EXTENSIONS
from noiseweave.engine.records import Json, JsonMapping, Quarantined
from noiseweave.jobs.pack.naming import BY_NUMBER, IGNORED, Naming, found_in
from noiseweave.jobs.pack.samples import (
    Keys,
    Packed,
    Source,
    Tally,
    in_order,
    mask_beside,
    missing_package,
    packed,
    picture,
)

if TYPE_CHECKING:
    from noiseweave.jobs.pack.config import Config

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
CAPTIONS = ("text", "caption")


@dataclass(frozen=True, kw_only=True)
class Table:
    """The columns of an image folder: which holds the picture, the label, the caption; what labels mean.

    ``pictures`` are all columns of pictures; the others than ``picture`` are not packed.
    """

    root: str
    pictures: tuple[str, ...]
    label: str | None
    caption: str | None
    naming: Naming

    @property
    def picture(self) -> str:
        """The column of the pictures that are packed."""
        return self.pictures[0]


def source(config: Config, root: str, tally: Tally) -> Source:
    """Rows of a folder with metadata, as the datasets library reads them."""
    with offline() as datasets:
        splits, split = opened(config, root, datasets)
        pictures = [n for n, kind in splits[split].features.items() if isinstance(kind, datasets.Image)]
        check(bool(pictures), "input", config.input, "its metadata name no picture column (file_name)")
        for name in pictures:  # paths travel, not pixels: a broken picture must not end the stream
            splits = {n: rows.cast_column(name, datasets.Image(decode=False)) for n, rows in splits.items()}
        rows = splits.pop(split)
        names, naming = classes_of(config, rows, datasets)
    table = Table(
        root=root,
        pictures=tuple(pictures),
        label="label" if "label" in rows.features else None,
        caption=next((n for n in CAPTIONS if n in rows.features), None),
        naming=naming,
    )
    tally.ignored.update(f"picture column {name}" for name in pictures[1:])
    what = f"a Hugging Face image folder, split {split}"
    results = samples(config, table, rows, [*splits.values()], tally)
    return Source(what=what, classes=names, total=None, results=results)


def has_metadata(root: str) -> bool:
    """Whether metadata of an image folder lie in a folder, or in one directly in it (its splits)."""
    places = [root, *(os.path.join(root, name) for name in folders.inside(root))]
    return any(os.path.isfile(os.path.join(p, name)) for p in places for name in METADATA)


@contextmanager
def offline() -> Iterator[Any]:
    """The ``datasets`` library, kept from asking a hub anything and from drawing its own bars."""
    try:
        import datasets
    except ImportError:
        raise missing_package("datasets", "imagefolder") from None
    bars, before = not datasets.are_progress_bars_disabled(), datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True  # else load_dataset counts its uses at the hub
    datasets.disable_progress_bars()
    try:
        yield datasets
    finally:
        datasets.config.HF_HUB_OFFLINE = before
        if bars:
            datasets.enable_progress_bars()


def opened(config: Config, root: str, datasets: Any) -> tuple[Any, str]:
    """The streams of all splits, and the name of that which is packed."""
    with one_line(config):
        splits = datasets.load_dataset("imagefolder", data_dir=root, streaming=True)
    name = config.split or ("train" if "train" in splits else min(splits))
    check(name in splits, "split", name, f"the image folder has {', '.join(map(str, splits))}")
    check(
        config.split is not None or name == "train" or len(splits) == 1,
        "split",
        config.split,
        f"choose one of {', '.join(map(str, splits))}",
    )
    return splits, name


def classes_of(config: Config, rows: Any, datasets: Any) -> tuple[list[str], Naming]:
    """Class names, and what labels mean; where the label column holds text that takes a pass over it."""
    kind = rows.features.get("label")
    if kind is None or config.labels == "none":
        return [], IGNORED
    if isinstance(kind, datasets.ClassLabel):
        return list(kind.names), BY_NUMBER
    if kind.dtype in ("string", "large_string"):
        seen = _rows(config, rows.select_columns(["label"]))
        naming = found_in([(row["label"] or None for row in seen)])
        return [*naming.numbers], naming
    return [], BY_NUMBER


def samples(
    config: Config,
    table: Table,
    rows: Iterable[JsonMapping],
    others: Iterable[Iterable[JsonMapping]],
    tally: Tally,
) -> Iterator[Packed | Quarantined]:
    """Every row in the order of the metadata, or of the file names where there are none; then the files without a row.

    Args:
        others: the rows of the splits that are not packed.
    """
    seen: set[str] = set()
    yield from in_order(config, load, jobs(config, table, rows, seen, tally))
    for row in chain.from_iterable(others):
        seen |= names_of(table, row)
    yield from without_row(config, table.root, seen, tally)


def without_row(config: Config, root: str, named: Set[str], tally: Tally) -> Iterator[Quarantined]:
    """The pictures of a folder that no row names; what else lies there is counted."""
    found = folders.listing(root, "", mask_suffix=config.mask_suffix)
    files = chain.from_iterable(names for _, _, names in os.walk(root))
    used = Counter(os.path.splitext(name)[1] for name in files if name in METADATA)
    tally.ignore(found, used, METADATA)
    tally.ignored.update(
        f".{e} beside a picture" for item in found.items for e in item.sides if e not in shards.MASKS
    )
    yield from found.bad
    for item in found.items:
        if item.path not in named:
            yield folders.bad(item.path, "no_row", "no row of the metadata names it")


def jobs(
    config: Config, table: Table, rows: Iterable[JsonMapping], seen: set[str], tally: Tally
) -> Iterator[tuple[Table, str, JsonMapping]]:
    """(table, key, row) of the rows that are wanted; ``seen`` gets the files that any row names."""
    keys = Keys()
    for row in _rows(config, rows):
        seen |= names_of(table, row)
        if is_mask(config, table, name_of(table, row)):
            continue  # it travels with its picture
        if table.naming.wanted(config.kept, value_of(table, row)):
            yield table, keys.distinct(key_of(table, row)), row
        else:
            tally.left_out += 1


def _rows(config: Config, rows: Any) -> Iterator[JsonMapping]:
    """The rows of the stream; metadata that break off further down are one line too."""
    with one_line(config):
        yield from rows


@contextmanager
def one_line(config: Config) -> Iterator[None]:
    """What the library raises of metadata that it cannot read -> ValueError, one line."""
    try:
        yield
    except Exception as e:
        why = " ".join(str(e).split())[:300]
        raise ValueError(
            f"input={config.input!r}: its metadata cannot be read ({type(e).__name__}: {why})"
        ) from None


def key_of(table: Table, row: JsonMapping) -> str:
    """A row's key, from its file's name."""
    stem = folders.stem_of(name_of(table, row))
    plain = folders.plain_of(stem)
    return plain if plain and len(plain) <= folders.KEY_LENGTH else folders.key_of(os.fsencode(stem))


def name_of(table: Table, row: JsonMapping, column: str | None = None) -> str:
    """A row's picture, as a path below the input folder."""
    path = str((row.get(column or table.picture) or {}).get("path") or "")
    return os.path.relpath(path, table.root) if os.path.isabs(path) else path


def names_of(table: Table, row: JsonMapping) -> set[str]:
    """All files that a row names."""
    return {name_of(table, row, column).replace(os.sep, "/") for column in table.pictures}


def load(config: Config, table: Table, key: str, row: JsonMapping) -> Packed | Quarantined:
    """A row's sample, or why there is none."""
    name = name_of(table, row)
    try:
        if not name or "://" in name:
            raise ValueError(f"not_a_file: {name or 'the row names none'}; unpack archives first")
        data = folders.read(table.root, name, storage.IMAGE_LIMIT, config.follow_links)
        files = dict([picture(config, data)])
        beside = masks_of(config, table, name)
        read = {e: folders.read(table.root, p, storage.IMAGE_LIMIT, config.follow_links) for e, p in beside}
        files |= mask_beside(config, data, read)
        text = row.get(table.caption) if table.caption else None
        if isinstance(text, str) and text:
            files["txt"] = text.encode()
        number = table.naming.number(value_of(table, row))
        return packed(config, key, number, files, meta_of(table, row, name), data)
    except ValueError as e:
        return Quarantined.of(e, key=folders.printable(name))


def is_mask(config: Config, table: Table, name: str) -> bool:
    """Whether a row's picture is the mask of another that lies beside it."""
    of = folders.masked_by(os.path.splitext(name)[0], config.mask_suffix)
    return any(os.path.isfile(os.path.join(table.root, f"{of}.{e}")) for e in EXTENSIONS if of)


def masks_of(config: Config, table: Table, name: str) -> list[tuple[str, str]]:
    """(extension, path) of the masks that lie beside a picture."""
    stem = os.path.splitext(name)[0] + config.mask_suffix
    found = ((f"mask.{e}", f"{stem}.{e}") for e in sorted(EXTENSIONS))
    return [(e, path) for e, path in found if os.path.isfile(os.path.join(table.root, path))]


def value_of(table: Table, row: JsonMapping) -> object:
    """What the label column says; None without one, or where the cell is empty."""
    value = row.get(table.label) if table.label else None
    return None if value == "" else value


def meta_of(table: Table, row: JsonMapping, name: str) -> Json:
    """The other columns, as JSON holds them, and the path as ``source``."""
    used = (*table.pictures, table.label, table.caption, "source")
    rest = {column: value for column, value in row.items() if column not in used}
    try:
        meta = json.loads(json.dumps(rest, default=str, allow_nan=False))
    except ValueError as e:
        raise ValueError(f"bad_json: {e}") from None
    earlier = {"earlier_source": str(row["source"])} if row.get("source") is not None else {}
    return {**meta, **earlier, "source": folders.printable(name)}
