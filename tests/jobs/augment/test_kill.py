"""kill -9 of the driver, of an actor, of a worker process: the same command again gives the same output."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from flows import DIGITS

from noiseweave.cluster import shards, storage
from noiseweave.engine.pictures import images
from noiseweave.jobs import cli

PATIENCE = 600


def start(source, output):
    command = [
        sys.executable,
        "-m",
        "noiseweave",
        "augment",
        *DIGITS,
        "--input",
        str(source),
        "--output",
        str(output),
        "--inversion.num_steps",
        "30",
        "--inversion.skip",
        "5",
        "--pairing.group_images",
        "6",
        "--pairing.max_pairs",
        "60",
        "--pairing.upper",
        "0.95",
        "--pairing.max_uses",
        "3",
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def markers(output, phase):
    return len(list((Path(output) / "_run/done" / phase).glob("*.json")))


def wait(process, condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"ended too early: {process.stderr.read()[-2000:]}"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def family(process, name):
    """Ray's worker processes of this driver's own cluster whose title holds ``name``."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if name in " ".join(child.cmdline()):
                found.append(child)
    return found


def kill_driver(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


def decoded(output):
    """Everything that a user reads: key -> label, lineage and pixels."""
    out = {}
    for shard in shards.find(str(Path(output) / "shards")):
        entries, bad = shards.index(shard)
        assert not bad
        for entry in entries:
            assert entry.key not in out, f"{entry.key} twice"
            m = {e: storage.read(shard, x.offset, x.size) for e, x in entry.members.items()}
            out[entry.key] = (
                os.path.basename(shard),
                m.get("cls"),
                m["json"],
                images.decode(m["png"], 1).tobytes(),
            )
    return out


@pytest.mark.slow
def test_five_kills_change_nothing(tmp_path):
    source = tmp_path / "digits"
    assert (
        cli.main(
            ["pack", "--dataset", "digits", "--size", "16", "--shard_samples", "150", "--output", str(source)]
        )
        == 0
    )
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    calm = start(source / "shards", whole)
    assert calm.wait(PATIENCE) == 0, calm.stderr.read()[-2000:]

    run = start(source / "shards", broken)  # 1: the driver, while shards are embedded
    wait(run, lambda: markers(broken, "embed") >= 2)
    kill_driver(run)
    run = start(source / "shards", broken)  # 2: the driver, before the first group is done
    wait(run, lambda: (broken / "_run/groups.json").exists())
    kill_driver(run)
    run = start(source / "shards", broken)  # 3: the actor that holds the model
    wait(run, lambda: markers(broken, "generate") >= 1 and family(run, "(Compute)"))
    for actor in family(run, "(Compute)"):
        actor.kill()
    before = markers(broken, "generate")  # 4: every worker process of ours at once
    wait(run, lambda: markers(broken, "generate") > before)
    for worker in family(run, "ray::IDLE") + family(run, "ray::Map"):
        with contextlib.suppress(psutil.Error):
            worker.kill()
    before = markers(broken, "generate")  # 5: the driver again, after some more groups
    wait(run, lambda: markers(broken, "generate") > before)
    kill_driver(run)
    assert markers(broken, "generate") < markers(whole, "generate")
    run = start(source / "shards", broken)
    assert run.wait(PATIENCE) == 0, run.stderr.read()[-2000:]

    assert decoded(broken) == decoded(whole)
    assert not list(broken.rglob("*.tmp"))
