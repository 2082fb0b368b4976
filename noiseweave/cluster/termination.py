"""SIGTERM: a batch system's polite end of a job."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

TERMINATED = "terminated; the same command goes on from here"


@contextlib.contextmanager
def on_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, says so, and the exit code is 143.

    Ray's own handler, set by ``ray.init``, aborts the process. Off the main thread nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one must not break off the cleaning up
    os.write(2, f"{TERMINATED}\n".encode())  # print may be in the middle of a line of its own
    raise SystemExit(128 + number)
