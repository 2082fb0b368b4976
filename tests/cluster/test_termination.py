"""SIGTERM ends a run in one process as it ends Ray's: with a line, exit code 143, and what it cleans up."""

import signal
import subprocess
import sys
import threading

from noiseweave.cluster import termination

INLINE = """
import time
from noiseweave.cluster.session import ClusterConfig, session
with session(ClusterConfig(address="inline")):
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)
"""


def test_a_run_in_one_process_says_that_it_was_terminated():
    command = [sys.executable, "-c", INLINE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (143, "cleaned up\n", f"{termination.TERMINATED}\n")


def test_the_handler_is_put_back_and_another_thread_sets_none():
    before = signal.getsignal(signal.SIGTERM)
    with termination.on_sigterm():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before

    def elsewhere():
        with termination.on_sigterm():
            found.append(signal.getsignal(signal.SIGTERM))

    found = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [before]
