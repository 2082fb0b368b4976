"""Memory that one operation lets go of is kept for the next.

A convolution's output of some megabytes is more than the C library keeps: it asks the system for each anew, which hands
it out page by page, each filled with zeros when it is first touched. For a VAE on a CPU that takes as long as the
convolutions (docs/speed.md). Threads besides the first have arenas of their own, of 64 MiB at most, which keep nothing
that is larger: so all threads share one. A thread stays with the arena of its first allocation, and Ray computes in
threads that are older than our code, so a worker needs the settings in the environment that it is started with.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

KEPT = 1 << 30
"""Bytes that a process keeps at most, and from which on an allocation is given back at once."""
SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": (-3, KEPT),
    "MALLOC_TRIM_THRESHOLD_": (-1, KEPT),
    "MALLOC_TOP_PAD_": (-2, KEPT >> 4),
    "MALLOC_ARENA_MAX": (-8, 1),
}
"""Variable -> mallopt's number of it, of glibc's malloc.h, and the value."""
OWN = ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_")
"""How a variable begins by which the environment chooses an allocator, or sets it."""


def keep(given: Mapping[str, str] | None = None) -> bool:
    """Let this process, and the threads that it starts from now on, keep up to ``KEPT`` bytes that were freed. Returns
    whether it does.

    It does not where an environment, this process's own by default, says something of the allocator itself, nor with
    another C library than glibc.
    """
    if _set(given):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    return mallopt is not None and all(mallopt(*setting) for setting in SETTINGS.values())


def environment(given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables with which a process that is started keeps as much in all its threads.

    {} where ``given``, this process's environment by default, says something of the allocator itself.
    """
    return {} if _set(given) else {name: str(value) for name, (_, value) in SETTINGS.items()}


def _set(given: Mapping[str, str] | None) -> bool:
    return any(name.startswith(OWN) for name in (os.environ if given is None else given))
