"""Something that is looked at now and then while a block runs, and the end of this process that a look may mean."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn


@contextmanager
def repeated(look: Callable[[], None], every: float) -> Iterator[None]:
    """Call ``look`` every so many seconds, on a thread of its own, while the block runs, and once after it.

    The thread does not keep a process alive that ends otherwise.
    """
    over = threading.Event()

    def follow() -> None:
        while not over.wait(every):
            look()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        look()


def leave(line: str) -> NoReturn:
    """Say why and end this process as it is, exit code 1: its main thread may hang in a call that never comes back."""
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    # the progress display's line, and the cursor that it hides
    clear = "\r\x1b[K\x1b[?25h" if sys.stderr.isatty() else ""
    os.write(2, f"{clear}{line}\n".encode())
    os._exit(1)
