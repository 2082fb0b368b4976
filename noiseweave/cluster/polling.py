"""Something that is looked at now and then while a block runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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
