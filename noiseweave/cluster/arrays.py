"""Arrays as .npy files, never with pickle, and tables as Parquet."""

from __future__ import annotations

import io
import tokenize
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from noiseweave.cluster import storage

if TYPE_CHECKING:
    import pyarrow as pa

BROKEN = (
    ValueError,
    TypeError,
    EOFError,
    SyntaxError,
    LookupError,
    OverflowError,
    MemoryError,
    RecursionError,
    tokenize.TokenError,
)
"""What NumPy raises where a .npy file is damaged: its head is read by Python's own parser."""


def npy(array: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def array(data: bytes) -> np.ndarray:
    """The array of a .npy file's bytes.

    Raises:
        Damaged: they are none.
    """
    try:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except BROKEN as e:
        raise storage.Damaged(f"no array in a .npy file ({e})") from None


def load_npy(path: str) -> np.ndarray:
    """An array on storage; a local file is mapped, not read."""
    if "://" not in path:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    return array(storage.read(path))


def table(path: str, columns: Sequence[str] | pa.Schema) -> pa.Table:
    """Columns of a Parquet file; with a schema they are of its types.

    Raises:
        Damaged: it is none, lacks one, or holds what is of another type or no UTF-8.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = columns if isinstance(columns, pa.Schema) else None
    names, data = list(columns if schema is None else schema.names), storage.read(path)
    try:
        found = pq.read_table(io.BytesIO(data), columns=names)
        found.validate(full=True)
        return found if schema is None else found.select(names).cast(schema)
    except (pa.ArrowException, OSError, MemoryError) as e:  # of damage it raises OSError too
        raise storage.Damaged(f"{path}: no table ({' '.join(str(e).split())[:200]})") from None
