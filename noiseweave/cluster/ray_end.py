"""What holds for any Ray, started or joined: it is kept quiet, and its end is reported."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from noiseweave.cluster.polling import leave, repeated
from noiseweave.engine.records import Json

ENDED = "Ray ended; the same command goes on from what is done"
QUIET: Json = {"log_to_driver": False, "logging_level": "ERROR"}
"""Options of ``ray.init``."""


@contextlib.contextmanager
def watched(dead: Callable[[], bool], every: float) -> Iterator[None]:
    """End this process with one line when ``dead`` says so: asked every so many seconds, and after the block."""

    def look() -> None:
        if dead():
            leave(ENDED)

    # the look after the block: what the job says of Ray's end, an error of some kind, comes before the thread's
    with _quiet_threads(), repeated(look, every):
        yield


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
    """Leave out the tracebacks of Ray's own threads, which die with it."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if args.thread is None or not args.thread.name.startswith("ray_"):
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Drop what Ray's C++ part writes to standard error while it starts; its exceptions still come through."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
