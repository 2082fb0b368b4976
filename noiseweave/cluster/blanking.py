"""A tar without the content and names of some samples, every other byte of it where it was.

For shards that others know by byte ranges: taking a sample out (``shards.without``) would move what lies behind it.
"""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Collection

from noiseweave.cluster.shards import DAMAGE, split_name

BLOCK = tarfile.BLOCKSIZE


def blanked(data: bytes, keys: Collection[str]) -> tuple[bytes, int]:
    """The bytes of a tar, of the same length, with the members of some samples made nameless and empty of content.

    Returns:
        The tar, and how many of the samples were in it.
    """
    out, gone = bytearray(data), set()
    with contextlib.suppress(*DAMAGE), tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        for info in tar:
            key = split_name(info.name)[0]
            if key in keys:
                gone.add(key)
                end = min(tar.offset, len(data))
                out[info.offset : end] = _nothing(info.offset, info.offset_data, end)
    return bytes(out), len(gone)


def _nothing(start: int, data: int, end: int) -> bytes:
    """A member of zeros from ``start`` to ``end``; before it, in place of a long name's own blocks, another.

    Args:
        data: where the content of the member begins that this takes the place of; its header lies before it.
    """
    key, before = f"forgotten-{start}", data - BLOCK - start
    padding = _member(f"{key}.name", before - BLOCK) if before else b""
    return padding + _member(f"{key}.gone", end - data)


def _member(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT) + bytes(size)
