"""Whose the output folder of unpack is. Beside its class folders it may keep no folder: ImageFolder takes each for one.

<output>/_run          while the job runs, as every job has it
<output>/unpack.json   once all is done: what the output depends on, and its folders; _run is gone then
"""

from __future__ import annotations

from collections.abc import Sequence

from noiseweave.cluster import ledger, storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.records import Json, JsonMapping
from noiseweave.jobs import class_folders, outputs
from noiseweave.jobs.unpack import listing

DONE = "unpack.json"
FILES = (class_folders.METADATA, "classes.json", "report.json", outputs.QUARANTINE, DONE)


def opened(output: str, identity: JsonMapping, overwrite: bool) -> Ledger | None:
    """A new or an interrupted run in the folder; None where the same one has ended there.

    Raises:
        ValueError: it holds an unpacking of other shards or options (named), or what no unpack wrote, or is not
            writable.
    """
    storage.check_writable(output)
    book, done = Ledger(output=output), storage.join(output, DONE)
    running = storage.exists(book.path("config.json"))
    finished = storage.read_object(done) if storage.exists(done) else None
    if finished is None and not running:
        _refuse_filled(output)
    elif finished is not None and not running and not overwrite:
        ledger.check_same(output, finished["of"], ledger.flatten(identity))
        _forget(book)
        return None
    if overwrite and (running or finished is not None):
        ledger.check_run(output, identity, overwrite)  # of another job it refuses even so
        _throw_away(book, _folders(book, finished))
    return ledger.open_run(output, identity)


def _refuse_filled(output: str) -> None:
    """Class folders may have any name, so nothing at all may lie there."""
    hidden = (name for name in storage.names_in(output) if not name.startswith("."))
    folders = (name for name in storage.folders_in(output) if name != "_run")
    there = next(iter([*folders, *hidden]), None)
    if there is not None:
        raise ValueError(f"output {output!r} holds {there}, which no unpack run wrote; give another --output")


def _folders(book: Ledger, finished: Json | None) -> Sequence[str]:
    """The class folders that an earlier run wrote, or began to."""
    path = book.path(listing.FOLDERS)
    known = storage.read_json(path) if storage.exists(path) else []
    names = [*known, *(finished or {}).get("folders", [])]
    return [name for name in names if isinstance(name, str) and class_folders.plain(name) == name]


def _throw_away(book: Ledger, folders: Sequence[str]) -> None:
    """Delete an earlier run; until all of it is gone, a kill leaves a run that only --overwrite goes on from."""
    storage.write_json(book.path(listing.FOLDERS), list(folders))
    storage.write_json(book.path("config.json"), {"job": "unpack", "thrown_away": True})
    for name in (DONE, *folders, *FILES):
        storage.remove(storage.join(book.output, name))
    _forget(book)


def _forget(book: Ledger) -> None:
    """Delete the run's memory; the markers first, so that a kill here leaves none without its config."""
    storage.remove(book.path("done"))
    storage.remove(book.path())


def close(book: Ledger, identity: JsonMapping, folders: Sequence[str]) -> None:
    """Say that all is done, then let the run's memory go."""
    known = {"of": ledger.flatten(identity), "folders": sorted(folders)}
    storage.write_json(storage.join(book.output, DONE), known)
    _forget(book)
