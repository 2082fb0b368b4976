"""What the files of a user's folders hold: a digest of each, so that a run is one of contents, not of names and sizes.

    <output>/_run/files.json   path -> [status, digest]

A file is read for its digest once. As long as its status (size, times, inode) stays, the digest that the run's own
folder keeps is believed, as git believes its index; so going on with a run reads none of them again. Whoever reads a
file afterwards holds it against its digest (``Place.read``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from noiseweave.cluster import storage
from noiseweave.jobs.reading import places as reading_places
from noiseweave.jobs.reading.places import Place
from noiseweave.jobs.reading.shard_pictures import digest_of

THREADS = 8
SETTLED = 2.0
"""Seconds after its last change from which a file's times tell the next change: a clock's tick may be as coarse."""


class Contents:
    """Digests of files, and those that an earlier start of the same run has read.

    Args:
        output: absolute folder or URL of the run; None keeps nothing.
    """

    def __init__(self, output: str | None = None) -> None:
        self.path = None if output is None else storage.join(output, "_run", "files.json")
        self.earlier = {} if self.path is None else _read(self.path)
        self.kept: dict[str, tuple[str, str]] = {}

    def marked(self, places: Sequence[Place]) -> list[Place]:
        """The same places, of whole files, with their digests; without one where a file cannot be read."""
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(self._marked, places))

    def _marked(self, place: Place) -> Place:
        path = os.path.join(place.root, place.path)
        before = _status(path)
        known = self.earlier.get(path)
        if known is not None and known[0] == before:
            digest = known[1]
        else:
            try:
                digest = digest_of(replace(place, digest=None).read())
            except (ValueError, OSError):  # found bad when it is read
                return place
        if before and before == _status(path):
            self.kept[path] = before, digest
        return replace(place, digest=digest)

    def keep(self) -> None:
        """Write the digests into the run's folder, once it is the run's."""
        if self.path is not None and self.kept != self.earlier:
            storage.write_json(self.path, self.kept)


def digest_of_all(places: Sequence[Place]) -> str:
    """16 hex digits that change when a name or the content of any of these does; what an identity holds."""
    return reading_places.digest_of("".join(f"{p.path} {p.digest or 'unreadable'}\n" for p in places))


def _read(path: str) -> dict[str, tuple[str, str]]:
    """The digests that are kept; {} where none are, or what is there is damaged."""
    try:
        found = storage.read_object(path) if storage.exists(path) else {}
    except (storage.Damaged, OSError):
        return {}
    return {
        n: (v[0], v[1]) for n, v in found.items() if isinstance(v, list) and list(map(type, v)) == [str, str]
    }


def _status(path: str) -> str:
    """What changes when a local file does; "" of a URL, and where a change just now might not show."""
    try:
        s = os.stat(path)
    except OSError:
        return ""
    if time.time() - max(s.st_mtime, s.st_ctime) < SETTLED:
        return ""
    return f"{s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}"
