"""A Hugging Face image folder as a source of ``pack``, read as the ``datasets`` library reads it.

https://huggingface.co/docs/datasets/image_dataset: split folders, class folders, or a metadata.csv,
metadata.jsonl or metadata.parquet with ``file_name``. With metadata the class folders name no labels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from noiseweave.cluster import folders, storage
from noiseweave.engine.checks import check
from noiseweave.engine.records import Json, JsonMapping, Quarantined
from noiseweave.jobs.pack.samples import (
    Keys,
    Packed,
    Source,
    Tally,
    in_order,
    missing_package,
    packed,
    picture,
    wanted,
)

if TYPE_CHECKING:
    from noiseweave.jobs.pack.config import Config

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
CAPTIONS = ("text", "caption")


@dataclass(frozen=True, kw_only=True)
class Table:
    """The columns of an image folder: which holds the picture, the label, the caption; what labels mean."""

    root: str
    picture: str
    label: str | None
    caption: str | None
    numbers: Mapping[str, int]


def source(config: Config, root: str, tally: Tally) -> Source:
    """Rows of a folder with metadata, as the datasets library reads them."""
    with offline() as datasets:
        rows, split = opened(config, root, datasets)
        pictures = [n for n, kind in rows.features.items() if isinstance(kind, datasets.Image)]
        check(bool(pictures), "input", config.input, "its metadata name no picture column (file_name)")
        for name in pictures:  # paths travel, not pixels: a broken picture must not end the stream
            rows = rows.cast_column(name, datasets.Image(decode=False))
        names, numbers = classes_of(config, rows, datasets)
    table = Table(
        root=root,
        picture=pictures[0],
        label="label" if "label" in rows.features else None,
        caption=next((n for n in CAPTIONS if n in rows.features), None),
        numbers=numbers,
    )
    rows = rows.remove_columns(pictures[1:]) if pictures[1:] else rows
    tally.ignored.update(f"picture column {name}" for name in pictures[1:])
    what = f"a Hugging Face image folder, split {split}"
    return Source(what=what, classes=names, total=None, results=samples(config, table, rows, tally))


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
    """The stream of one split, and the split's name."""
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
    return splits[name], name


def classes_of(config: Config, rows: Any, datasets: Any) -> tuple[list[str], dict[str, int]]:
    """Class names, and their numbers where the label column holds text, which takes a pass over it."""
    kind = rows.features.get("label")
    if kind is None or config.labels == "none":
        return [], {}
    if isinstance(kind, datasets.ClassLabel):
        return list(kind.names), {}
    if kind.dtype in ("string", "large_string"):
        seen = {row["label"] for row in _rows(config, rows.select_columns(["label"]))}
        names = sorted(n for n in seen if n is not None)
        return names, {name: n for n, name in enumerate(names)}
    return [], {}


def samples(config: Config, table: Table, rows: Any, tally: Tally) -> Iterator[Packed | Quarantined]:
    """Every row in the order of the metadata, or of the file names where there are none."""
    yield from in_order(config, load, jobs(config, table, rows, tally))


def jobs(config: Config, table: Table, rows: Any, tally: Tally) -> Iterator[tuple[Table, str, JsonMapping]]:
    """(table, key, row) of the rows that are wanted."""
    keys = Keys()
    for row in _rows(config, rows):
        if wanted(config, number_of(table, row)):
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


def name_of(table: Table, row: JsonMapping) -> str:
    """A row's picture, as a path below the input folder."""
    path = str((row[table.picture] or {}).get("path") or "")
    return os.path.relpath(path, table.root) if os.path.isabs(path) else path


def load(config: Config, table: Table, key: str, row: JsonMapping) -> Packed | Quarantined:
    """A row's sample, or why there is none."""
    name = name_of(table, row)
    try:
        if not name or "://" in name:
            raise ValueError(f"not_a_file: {name or 'the row names none'}; unpack archives first")
        data = folders.read(table.root, name, storage.IMAGE_LIMIT, config.follow_links)
        files = dict([picture(config, data)])
        text = row.get(table.caption) if table.caption else None
        if isinstance(text, str) and text:
            files["txt"] = text.encode()
        return packed(config, key, label_of(table, row), files, meta_of(table, row, name), data)
    except ValueError as e:
        return Quarantined.of(e, key=folders.printable(name))


def number_of(table: Table, row: JsonMapping) -> object:
    """What the label column says, a name as its number; None without one."""
    value = row.get(table.label) if table.label else None
    return table.numbers.get(value, value) if isinstance(value, str) else value


def label_of(table: Table, row: JsonMapping) -> int | None:
    """A row's class number; one that is no number from 0 on is an error."""
    value = number_of(table, row)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise ValueError(f"bad_label: {value!r:.80} is no class number from 0 on")
    return value


def meta_of(table: Table, row: JsonMapping, name: str) -> Json:
    """The other columns, as JSON holds them, and the path as ``source``."""
    used = (table.picture, table.label, table.caption, "source")
    rest = {column: value for column, value in row.items() if column not in used}
    try:
        meta = json.loads(json.dumps(rest, default=str, allow_nan=False))
    except ValueError as e:
        raise ValueError(f"bad_json: {e}") from None
    earlier = {"earlier_source": str(row["source"])} if row.get("source") is not None else {}
    return {**meta, **earlier, "source": folders.printable(name)}
