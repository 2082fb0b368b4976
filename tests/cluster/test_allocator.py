"""What an operation lets go of is used again without the system, unless the environment has its own allocator."""

import os
import subprocess
import sys

import pytest

from noiseweave.cluster import allocator
from noiseweave.cluster.stages import Compute

FAULTS = """
import ctypes, resource, threading
from noiseweave.cluster import allocator
{before}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def used():
    block = libc.malloc(64 << 20)
    libc.memset(block, 1, 64 << 20)
    libc.free(block)
def work():
    used()
    first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        used()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first)
{run}
"""
HERE, IN_A_THREAD = "work()", "thread = threading.Thread(target=work); thread.start(); thread.join()"
glibc = pytest.mark.skipif(not allocator.keep({}), reason="another C library than glibc")


def faults(before: str, run: str, variables: dict[str, str] | None = None) -> int:
    """Pages that the system had to give for four blocks that were freed at once."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(allocator.OWN)}
    command = [sys.executable, "-c", FAULTS.format(before=before, run=run)]
    done = subprocess.run(command, capture_output=True, check=True, env=own | (variables or {}))
    return int(done.stdout)


@glibc
@pytest.mark.parametrize("run", [HERE, IN_A_THREAD])
def test_freed_memory_is_used_again_in_every_thread(run):
    given_back = faults("", run)
    assert given_back > 20 * max(1, faults("assert allocator.keep({})", run))
    assert given_back > 20 * max(1, faults("", run, allocator.environment({})))


@pytest.mark.parametrize(
    "name", ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"]
)
def test_an_environment_with_an_allocator_of_its_own_stays(name):
    assert allocator.keep({name: "1"}) is False
    assert allocator.environment({name: "1"}) == {}


def test_a_process_that_computes_keeps_it(monkeypatch):
    called = []
    monkeypatch.setattr(allocator, "keep", lambda: called.append(True))
    Compute(lambda: lambda data: data, 1, None, lambda *_: None)
    assert called
