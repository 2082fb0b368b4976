"""The folder that fuse writes to: whose it may be, and what an earlier fuse left in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from noiseweave.cluster import storage
from noiseweave.cluster.ledger import Ledger

LINEAGE = "fuse.json"
OWN = re.compile(r"fused\.png|sheet\.png|sweep\.png|input-\d+\.png|report\.html|fuse\.json")


def claim(output: str, images: Sequence[str]) -> None:
    """Look whether fuse may write to a folder; nothing is changed.

    Raises:
        ValueError: it cannot be written to, another job's run lies there, or one of the pictures under a name
            that fuse writes.
    """
    storage.check_writable(output)
    run = Ledger(output=output).path("config.json")
    if storage.exists(run):
        job = storage.read_json(run).get("job", "another job")
        raise ValueError(f"output={output!r}: holds a run of {job}; choose another folder")
    for image in images:
        folder, _, name = storage.absolute(image).rpartition("/")
        if folder == output.rstrip("/") and OWN.fullmatch(name):
            raise ValueError(f"images: fuse would write over {image!r}; choose another output")


def replace(output: str, files: Iterable[tuple[str, bytes]]) -> None:
    """Write pictures in place of those of an earlier fuse; the lineage, which says that all are there, goes first."""
    path = storage.join(output, LINEAGE)
    if storage.exists(path):
        listed = storage.read_json(path).get("files", ())
        storage.remove(path)
        for name in ("report.html", *(n for n in listed if isinstance(n, str) and OWN.fullmatch(n))):
            storage.remove(storage.join(output, name))
    for name, data in files:
        storage.write(storage.join(output, name), data)
