"""The pictures that a run in dataset scope has read: where they lie, and features of some of them.

<output>/_run/index/<unit>.parquet   a row for each good picture of a shard
<output>/_run/features/<unit>.npy    its features; beside it its labels and perceptual hashes
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noiseweave.cluster.arrays import load_npy, table
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.records import Location
from noiseweave.jobs.augment import judge as judging

POOLED = "pool"  # the phase that takes pictures of the pool in
MOST = 1 << 30  # bytes of features that a judge holds
INDEX = pa.schema(
    [
        ("shard", pa.string()),
        ("key", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("label", pa.int64()),
        ("caption", pa.string()),
        ("mask_offset", pa.int64()),
        ("mask_size", pa.int64()),
        ("digest", pa.string()),
        ("guess", pa.float64()),
    ]
)


def parquet(locations: Sequence[Location]) -> bytes:
    """A shard's part of the index."""
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([asdict(p) for p in locations], schema=INDEX), buffer)
    return buffer.getvalue()


def rows_of(book: Ledger, own: bool = False) -> list[tuple[str, int]]:
    """(unit id, rows) of every embedded shard that has rows, in order.

    Args:
        own: of the input alone, without the pool's.
    """
    phases = ("embed",) if own else ("embed", POOLED)
    return [(r["id"], r["produced"]) for phase in phases for r in book.records(phase) if r["produced"]]


def numbers(book: Ledger, name: str, kind: type[np.integer], own: bool = False) -> np.ndarray:
    """A number of each picture, [N]: label or hash."""
    units = [unit for unit, _ in rows_of(book, own)]
    parts = [np.asarray(load_npy(book.path("features", f"{unit}.{name}.npy"))) for unit in units]
    return np.concatenate(parts) if parts else np.zeros(0, kind)


def whole(book: Ledger, own: bool = False) -> pa.Table:
    """The index of all pictures."""
    tables = [table(book.path("index", f"{unit}.parquet"), INDEX) for unit, _ in rows_of(book, own)]
    return pa.concat_tables(tables, promote_options="default") if tables else INDEX.empty_table()


def spread_features(book: Ledger, most: int, own: bool = False) -> np.ndarray:
    """At most so many rows of the features, evenly spread over the input; fewer where they would take over 1 GiB."""
    rows = rows_of(book, own)
    places = judging.spread(sum(n for _, n in rows), _fitting(book, most))
    wanted, parts, position = np.asarray(places, np.int64), [], 0
    for unit, n in rows:
        here = wanted[(wanted >= position) & (wanted < position + n)] - position
        parts.append(np.asarray(load_npy(book.path("features", f"{unit}.npy"))[here]))
        position += n
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def spread_places(book: Ledger, most: int, own: bool = False) -> list[Location]:
    """As many of the index."""
    every = whole(book, own)
    places = judging.spread(len(every), _fitting(book, most))
    return [Location(**row) for row in every.take(pa.array(places)).to_pylist()]


def _fitting(book: Ledger, most: int) -> int:
    """At most so many rows of features that fit into MOST bytes: a latent model's own have 80,000 values a picture."""
    rows = rows_of(book)
    return (
        min(most, max(1, MOST // load_npy(book.path("features", f"{rows[0][0]}.npy"))[0].nbytes))
        if rows
        else most
    )
