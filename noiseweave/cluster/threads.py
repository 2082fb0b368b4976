"""How threads of numerical libraries wait on a machine that does other things too, and which threads end unheard."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping

PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "5000"}
"""Sleep after some microseconds. At once, a small network on a quiet machine would lose a quarter of its speed."""
OWN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def passive(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """What makes OpenMP threads that wait sleep, beside an environment, this process's own by
    default; {} where that says itself how they wait.

    They spin by default, for milliseconds, and each of an operation's threads waits for the last: one that has lost its
    core to another process holds up all, which burn theirs until it gets it back (docs/speed.md has what that costs).
    OpenMP reads its environment once, so this belongs into a process's before torch is imported.
    """
    given = os.environ if given is None else given
    return {} if any(name in given for name in OWN) else dict(PASSIVE)


@contextlib.contextmanager
def quiet(which: Callable[[threading.ExceptHookArgs], bool]) -> Iterator[None]:
    """Leave out the tracebacks of some threads that end by an exception while the block runs."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not which(args):
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
