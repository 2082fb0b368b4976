"""kill -9 of a drawing driver: the same command again gives the same bytes, and nothing twice."""

import signal
import subprocess
import sys
import time

import pytest
from sampling import read, report

PATIENCE = 600


def start(output):
    command = [
        sys.executable,
        "-m",
        "noiseweave",
        "sample",
        "--model.name",
        "digits-ddpm",
        "--count",
        "47",
        "--sampler.name",
        "ddpm",
        "--sampler.steps",
        "60",
        "--shard_samples",
        "3",
        "--trajectory",
        "2",
        "--output",
        str(output),
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def markers(output):
    return len(list((output / "_run/done/sample").glob("*.json")))


def kill_after(output, more):
    process, end = start(output), time.monotonic() + PATIENCE
    wanted = markers(output) + more
    while markers(output) < wanted:
        assert process.poll() is None, f"ended too early: {process.stderr.read()[-2000:]}"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_kill_changes_nothing(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    calm = start(whole)
    assert calm.wait(PATIENCE) == 0, calm.stderr.read()[-2000:]
    kill_after(broken, 2)
    first = {p: p.stat().st_mtime_ns for p in (broken / "_run/done/sample").glob("*.json")}
    assert 2 <= len(first) < markers(whole) == 16
    last = start(broken)
    assert last.wait(PATIENCE) == 0, last.stderr.read()[-2000:]
    assert read(broken) == read(whole)
    assert all(p.stat().st_mtime_ns == t for p, t in first.items())  # what was done is not done again
    strips = [{p.name: p.read_bytes() for p in (o / "trajectories").iterdir()} for o in (whole, broken)]
    assert strips[0] == strips[1]
    assert len(strips[0]) == 2 * 47
    assert (broken / "grid.png").read_bytes() == (whole / "grid.png").read_bytes()
    assert report(broken)["samples"] == report(whole)["samples"] == 47
    assert not list(broken.rglob("*.tmp"))
