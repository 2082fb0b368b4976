"""Which processes live."""

import os
import subprocess
import sys
import time

from noiseweave.cluster import processes


def test_a_machine_is_always_the_same_one():
    code = "from noiseweave.cluster import processes; print(processes.machine())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == processes.machine()
    assert len(processes.machine()) == 8


def test_the_living_and_the_dead():
    start = processes.started(os.getpid())
    assert abs(time.time() - start) < 24 * 3600
    assert processes.lives(os.getpid(), start) is True
    assert (
        processes.lives(os.getpid(), start - 3600) is None
    )  # another process with this number, or another clock
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        start = processes.started(child.pid)
        assert processes.lives(child.pid, start) is True
        child.kill()
        while processes.lives(child.pid, start):
            time.sleep(0.01)
        assert processes.lives(child.pid, start) is False  # a zombie, until it is waited for
    assert processes.lives(child.pid, start) is False
