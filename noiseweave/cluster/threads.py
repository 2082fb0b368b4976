"""Threads of numerical libraries on a machine that does other things too."""

from __future__ import annotations

import os
from collections.abc import Mapping

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
