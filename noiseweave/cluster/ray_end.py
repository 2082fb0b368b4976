"""What holds for any Ray, started or joined: it is kept quiet, and its end is reported."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from noiseweave.cluster import threads
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
    with threads.quiet(_of_ray), repeated(look, every):
        yield


def _of_ray(args: threading.ExceptHookArgs) -> bool:
    """Whether a thread is Ray's own, which dies with it."""
    return args.thread is not None and args.thread.name.startswith("ray_")


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
