"""Arrays as .npy files, never with pickle."""

from __future__ import annotations

import io

import numpy as np

from noiseweave.cluster import storage


def npy(array: np.ndarray) -> bytes:
    """The bytes of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def array(data: bytes) -> np.ndarray:
    """The array of a .npy file's bytes."""
    return np.load(io.BytesIO(data), allow_pickle=False)


def load_npy(path: str) -> np.ndarray:
    """An array on storage; a local file is mapped, not read."""
    if "://" not in path:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    return array(storage.read(path))
