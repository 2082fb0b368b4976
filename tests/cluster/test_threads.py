"""Threads that wait sleep, unless somebody has said how they are to wait."""

import os

import pytest

from noiseweave.cluster import threads
from noiseweave.jobs import arguments, cli


def test_waiting_threads_sleep():
    assert threads.passive({}) == {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "5000"}


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_what_the_user_says_stays(name):
    assert threads.passive({name: "1"}) == {}


def test_every_command_says_so_before_its_job_is_imported(monkeypatch):
    monkeypatch.setattr(os, "environ", seen := {"PATH": os.environ["PATH"]})
    found = []
    monkeypatch.setattr(cli, "parse", lambda *_: found.append(dict(seen)) or arguments.fail("enough"))
    with pytest.raises(SystemExit):
        cli.main(["fuse", "a.png"])
    assert found[0]["OMP_WAIT_POLICY"] == "PASSIVE"
