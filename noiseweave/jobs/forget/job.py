"""The ``forget`` job: a source picture's key -> every sample that descends from it, removed from its shard.

Two flows. search: a shard -> who its samples' parents are. remove: a shard with such samples -> the same without
them, byte for byte; what augment keeps of a picture to resume (features, index, groups) goes too. Between them the
driver follows the lineage and writes down what is to go: from then on a killed run only has to go on.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from noiseweave.jobs.forget.config import PLAN, REQUEST, WORK, Config

if TYPE_CHECKING:
    from noiseweave.cluster.ledger import Ledger
    from noiseweave.cluster.pipeline import Outcome
    from noiseweave.jobs.forget.search import Piece


def run(config: Config) -> int:
    """Do the job. Returns 0, or 1 when a shard could not be searched whole or units failed.

    Raises:
        ValueError: what a user can put right, in one line.
    """
    from noiseweave.cluster import lock, storage
    from noiseweave.jobs.forget import search

    folders = [storage.absolute(folder) for folder in config.inputs]
    pieces = search.pieces(folders)
    with contextlib.ExitStack() as stack:
        for folder in dict.fromkeys(folders):
            stack.enter_context(lock.held(folder))
            storage.sweep_temporaries(folder)
        return _run(config, folders, pieces)


def _run(config: Config, folders: list[str], pieces: list[Piece]) -> int:
    from noiseweave.cluster import storage
    from noiseweave.cluster.session import session
    from noiseweave.jobs.forget import remove, search, source, trace

    book = _open(config, folders[0], pieces)
    cpu = replace(config.cluster, gpus_per_worker=0)
    with session(cpu) as s:
        if not storage.exists(book.path(PLAN)):
            searched = search.run(config.key, pieces, book, s)
            if searched.failed:
                return _failed(searched)
            try:
                plan = trace.trace(config, pieces, book, searched)
            except ValueError as e:
                _close(book)
                if isinstance(e, source.NotFound) and remove.before(config, folders):
                    print("forgotten here before; nothing is left of it")
                    return 0
                raise
            storage.write_json(book.path(PLAN), plan)
        plan = storage.read_json(book.path(PLAN))
        remove.print_summary(config, plan)
        if not config.dry_run:
            removed = remove.run(plan, folders, book, s)
            if removed.failed:
                return _failed(removed)
            remove.tidy(config, plan, folders)
    _close(book)
    return 1 if plan["unsearched"] else 0


def _open(config: Config, first: str, pieces: list[Piece]) -> Ledger:
    """The working folder: that of the same request, killed, or a new one.

    Raises:
        ValueError: another request was killed there, after it had begun to remove.
    """
    from noiseweave.cluster import storage
    from noiseweave.cluster.ledger import Ledger

    book = Ledger(output=storage.join(first, WORK + ("-dry-run" if config.dry_run else "")))
    names = "\n".join(piece.url for piece in pieces)
    asked = config.request | {
        "inputs": list(config.inputs),
        "pieces": hashlib.sha256(names.encode()).hexdigest(),
    }
    path = book.path(REQUEST)
    found = storage.read_object(path) if storage.exists(path) else None
    begun = storage.exists(book.path(PLAN))  # from then on shards may be gone, and the search would miss some
    if found is not None and begun:
        same = all(found[name] == asked[name] for name in ("key_sha256", "shard", "inputs"))
        if not same and not config.dry_run:
            raise ValueError(
                f"{book.output}: an earlier forget of another key, shard or input was killed while it removed samples; "
                "run that command again first"
            )
        if same and not config.dry_run:
            return book
    if found != asked or begun:
        _close(book)
    storage.write_json(path, asked)
    return book


def _close(book: Ledger) -> None:
    """Delete the working folder; the request first, so that what a kill leaves of it is not taken up."""
    from noiseweave.cluster import storage

    storage.remove(book.path(REQUEST))
    storage.remove(book.output)


def _failed(outcome: Outcome) -> int:
    for unit, error in outcome.failed.items():
        print(f"failed: unit {unit}: {error}")
    print("run the same command again to try the failed units once more")
    return 1
