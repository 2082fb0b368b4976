"""Which process this is, and whether another one of the same machine still lives."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from pathlib import Path

import psutil

SAME_START = 60.0
"""Seconds by which a process's start may seem to move, as the clock is set: no number comes back so soon."""


@functools.cache
def machine() -> str:
    """Where a process's number means something: a digest of host, its start and its namespace of numbers, 8 digits.

    Two containers of one host, or a host before and after a restart, are two machines.
    """
    known = [platform.node()]
    try:
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        known.append(str(os.stat("/proc/self/ns/pid").st_ino))
    except OSError:  # no Linux: the host's name must do
        pass
    return hashlib.blake2b("\n".join(known).encode(), digest_size=4).hexdigest()


def started(pid: int) -> float | None:
    """When a process of this machine was started, in seconds since 1970; None where there is none, or it is dead."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def lives(pid: int, start: float) -> bool | None:
    """Whether a process of this machine lives; None where another has its number now, or its clock was set."""
    found = started(pid)
    if found is None:
        return False
    return True if abs(found - start) < SAME_START else None
