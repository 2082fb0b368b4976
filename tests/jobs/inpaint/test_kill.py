"""kill -9 of an inpainting driver that drew its own seed: the same command goes on with it, and loses nothing."""

import json
import signal
import subprocess
import sys
import time

import pytest
from flows import DIGITS
from inpaints import block_pairs, folders_of, report

PATIENCE = 600


def start(folder, output, *more):
    command = [
        sys.executable,
        "-m",
        "noiseweave",
        "inpaint",
        *DIGITS,
        *folders_of(folder),
        "--steps",
        "10",
        "--rows",
        "2",
        "--unit_pictures",
        "2",
        "--output",
        str(output),
        *map(str, more),
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def markers(output):
    return {p: p.stat().st_mtime_ns for p in (output / "_run/done/inpaint").glob("*.json")}


def contents(output):
    """Name -> bytes of what the run wrote, but for the report's times."""
    files = (p for p in output.rglob("*.*") if p.is_file() and "_run" not in p.parts and p.stem != "report")
    return {str(p.relative_to(output)): p.read_bytes() for p in files}


@pytest.mark.slow
def test_a_kill_changes_nothing(tmp_path):
    block_pairs(tmp_path, 24)
    broken = tmp_path / "broken"
    process, end = start(tmp_path, broken), time.monotonic() + PATIENCE
    while len(markers(broken)) < 2:
        assert process.poll() is None, f"ended too early: {process.stderr.read()[-2000:]}"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = markers(broken)
    assert 2 <= len(first) < 12
    last = start(tmp_path, broken)
    assert last.wait(PATIENCE) == 0, last.stderr.read()[-2000:]
    assert all(markers(broken)[path] == when for path, when in first.items()), (
        "what was done is not done again"
    )
    assert report(broken)["restored"] == 48
    assert report(broken)["seed_drawn"]
    whole = start(tmp_path, tmp_path / "whole", "--seed", report(broken)["seeds"][0])
    assert whole.wait(PATIENCE) == 0, whole.stderr.read()[-2000:]
    assert contents(broken) == contents(tmp_path / "whole")
    assert not list(broken.rglob("*.tmp"))
    line = json.loads((broken / "lineage/d00.json").read_text())
    assert line["seeds"] == report(broken)["seeds"]
