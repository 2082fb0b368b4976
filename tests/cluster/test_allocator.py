"""What an operation lets go of is used again without the system, unless the environment has its own allocator."""

import subprocess
import sys

import pytest

from noiseweave.cluster import allocator
from noiseweave.cluster.stages import Compute

FAULTS = """
import ctypes, resource
from noiseweave.cluster import allocator
{before}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def used():
    block = libc.malloc(64 << 20)
    libc.memset(block, 1, 64 << 20)
    libc.free(block)
used()
first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    used()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first)
"""
glibc = pytest.mark.skipif(not allocator.keep({}), reason="another C library than glibc")


def faults(before: str) -> int:
    """Pages that the system had to give for four blocks that were freed at once."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(before=before)], capture_output=True, check=True
    )
    return int(done.stdout)


@glibc
def test_freed_memory_is_used_again():
    assert faults("") > 20 * max(1, faults("assert allocator.keep({})"))


@pytest.mark.parametrize(
    "name", ["MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"]
)
def test_an_environment_with_an_allocator_of_its_own_stays(name):
    assert allocator.keep({name: "1"}) is False


def test_a_process_that_computes_keeps_it(monkeypatch):
    called = []
    monkeypatch.setattr(allocator, "keep", lambda: called.append(True))
    Compute(lambda: lambda data: data, 1, None, lambda *_: None)
    assert called
