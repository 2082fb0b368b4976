"""Memory that one operation lets go of is kept for the next.

A convolution's output of some megabytes is more than the C library keeps: it asks the system for each anew, which hands
it out page by page, each filled with zeros when it is first touched. For a VAE on a CPU that takes as long as the
convolutions (docs/speed.md).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

KEPT = 1 << 30
"""Bytes that a process keeps at most, and from which on an allocation is given back at once."""
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h
SETTINGS = {MMAP_THRESHOLD: KEPT, TRIM_THRESHOLD: KEPT, TOP_PAD: KEPT >> 4}
OWN = ("GLIBC_TUNABLES", "LD_PRELOAD", "MALLOC_")
"""How a variable begins by which the environment chooses an allocator, or sets it."""


def keep(given: Mapping[str, str] | None = None) -> bool:
    """Let this process keep up to ``KEPT`` bytes that it has freed. Returns whether it does.

    It does not where an environment, this process's own by default, says something of the allocator itself, nor with
    another C library than glibc.
    """
    given = os.environ if given is None else given
    if any(name.startswith(OWN) for name in given):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    return mallopt is not None and all(mallopt(*setting) for setting in SETTINGS.items())
