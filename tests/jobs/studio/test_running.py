"""Jobs that the page starts: what is started is what is shown, one at a time, ended cleanly, and gone on with."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from studios import FUSE

from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.pairing.recipes import PairingRecipe
from noiseweave.jobs.pack.config import Config as Pack
from noiseweave.jobs.studio import batches, running
from noiseweave.jobs.studio.config import Config
from noiseweave.jobs.studio.listing import LOG, Listing, said
from noiseweave.jobs.studio.running import Busy, Runs


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    runs = Runs("out")
    yield runs
    runs.close()


def pack(folder):
    return Pack(dataset="digits", output=folder)


def test_what_is_started_is_the_command_that_is_shown_and_one_runs_at_a_time(runs):
    run = runs.start("pack", pack, "input")
    assert (run.folder, run.command) == (
        "out/pack-001",
        "noiseweave pack --output out/pack-001 --dataset digits",
    )
    process, end = psutil.Process(run.process.pid), time.monotonic() + 60
    while (
        not (words := process.cmdline()) and time.monotonic() < end
    ):  # which it has a moment after it has begun
        time.sleep(0.01)
    assert words == [sys.executable, "-m", "noiseweave", *shlex.split(run.command)[1:]]
    assert process.cwd() == os.getcwd()
    with pytest.raises(Busy, match="out/pack-001 is still running; one run at a time"):
        runs.start("pack", pack, "input")
    assert not Path("out/pack-002").exists()
    assert run.process.wait(60) == 0
    command, last = said(str(Path(run.folder) / LOG))
    assert command == run.command
    assert last[-1].startswith("packed 1797 pictures")
    assert runs.current is None
    assert runs.next_folder("pack") == "out/pack-002"


def test_folders_are_numbered_above_all_that_are_there(runs):
    for name in ("augment-007", "augment-x", "augment-9999999999999999", "other-099"):
        os.makedirs(f"out/{name}")
    assert runs.next_folder("augment") == "out/augment-008"
    assert runs.next_folder("fuse") == "out/fuse-001"


def test_a_run_is_stopped_and_at_the_end_all_are(runs, capsys):
    first = runs.start("pack", pack, "input")
    runs.stop(first)
    assert not first.lives
    runs.stop(first)
    second = runs.start("pack", pack, "input")
    runs.close()
    assert not second.lives
    assert f"ending {second.folder}; it goes on with: {second.command}" in capsys.readouterr().out
    with pytest.raises(Busy, match="ending"):
        runs.start("pack", pack, "input")


def test_what_does_not_end_by_itself_is_ended(runs, monkeypatch):
    deaf = "import signal as s, time\nfor n in (2, 15): s.signal(n, s.SIG_IGN)\nprint('deaf', flush=True)\n"
    deaf += "time.sleep(99)"
    monkeypatch.setattr(running, "argv_of", lambda command: [sys.executable, "-c", deaf])
    monkeypatch.setattr(running, "PATIENCE", 0.2)
    monkeypatch.setattr(running, "FIRM", 0.2)
    run = runs.start("pack", pack, "input")
    end = time.monotonic() + 60
    while "deaf" not in Path(run.folder, LOG).read_text() and time.monotonic() < end:
        time.sleep(0.02)
    runs.stop(run)
    assert run.process.returncode == -9


def test_a_config_that_is_refused_starts_nothing(runs):
    with pytest.raises(ValueError, match="dataset"):
        runs.start("pack", lambda folder: Pack(output=folder), "input")
    assert not Path("out").exists()


@pytest.mark.slow
def test_a_batch_that_was_stopped_goes_on_by_the_command_that_is_shown(runs, folder):
    page = Config(input=str(folder), output="out", model=ModelConfig(name="digits-ddpm"))
    controls, pairing = FUSE | {"steps": 25, "skip": 0}, PairingRecipe(max_pairs=12)
    run = runs.start("augment", lambda output: batches.config_of(page, controls, output, pairing), "input")
    listing, end = Listing("out"), time.monotonic() + 120
    while time.monotonic() < end and run.lives:
        (output,) = listing.all() or [None]
        if output and output.planned and any(phase.name == "pair" for phase in output.phases):
            break
        time.sleep(0.1)
    runs.stop(run)
    assert run.process.returncode == 130
    assert not Path(run.folder, "report.json").exists()
    words = running.argv_of(run.command)
    assert subprocess.run(words, check=False).returncode == 0
    report = json.loads(Path(run.folder, "report.json").read_text())
    (output,) = listing.all()
    assert (output.state, output.pictures, output.planned) == ("done", report["samples"], report["pairs"])
