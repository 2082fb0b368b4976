"""Jobs sent to a real head of Ray on this machine: what travels, the log, the exit code, Ctrl-C."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from flows import DIGITS

from noiseweave.cluster import shards, submit
from noiseweave.jobs import cli

PATIENCE = 600
RAY = Path(sys.executable).with_name("ray")


def free_ports(count):
    """Ports below those that Ray gives to its workers."""
    found = []
    for port in range(5000 + os.getpid() % 4000, 10000):
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def activated():
    """The environment with this Python's programs first: a job is run by the ``python`` that its head finds."""
    programs = os.path.dirname(sys.executable)
    return os.environ | {"PATH": os.pathsep.join([programs, os.environ["PATH"]])}


@pytest.fixture(scope="module")
def head():
    """The job server's URL of a head with a short temporary folder, ended by its process id."""
    folder = tempfile.mkdtemp(prefix="nw", dir="/tmp")
    gcs, client, board, agent = free_ports(4)
    process = subprocess.Popen(
        [
            RAY,
            "start",
            "--head",
            "--block",
            f"--port={gcs}",
            f"--ray-client-server-port={client}",
            "--include-dashboard=true",
            f"--dashboard-port={board}",
            f"--dashboard-agent-listen-port={agent}",
            f"--temp-dir={folder}",
            "--num-cpus=3",
            "--object-store-memory=100000000",
            "--disable-usage-stats",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=activated(),
    )
    try:
        yield _answers(f"http://127.0.0.1:{board}", process)
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(url, process):
    end = time.monotonic() + PATIENCE
    while True:
        try:
            submit.jobs(submit.connect(url))
            return url
        except ValueError:
            assert process.poll() is None, "the head ended"
            assert time.monotonic() < end, "the head does not answer"
            time.sleep(0.5)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A working directory with a file in it."""
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "notes.txt").write_text("x")
    monkeypatch.chdir(folder)
    return folder


def send(head, *words):
    return cli.main(["submit", "--address", head, *words])


@pytest.mark.slow
def test_a_packed_data_set_comes_from_the_cluster(head, home, tmp_path, capfd):
    config = tmp_path / "elsewhere" / "digits.yaml"  # outside of what travels
    config.parent.mkdir()
    config.write_text(f"dataset: digits\nsize: 16\nshard_samples: 900\noutput: {tmp_path}/digits\n")
    assert send(head, "--env", "GREETING=hello", "pack", "--config", str(config)) == 0
    found = sorted((tmp_path / "digits/shards").glob("*.tar"))
    assert sum(len(shards.index(str(shard))[0]) for shard in found) == 1797
    out = capfd.readouterr().out
    assert "sent " in out
    assert "1797" in out  # the job's own words
    (job,) = submit.jobs(submit.connect(head))
    assert job.entrypoint == "python -m noiseweave pack --config submitted/0-digits.yaml"
    assert (job.status, job.exit_code) == ("SUCCEEDED", 0)


@pytest.mark.slow
def test_the_jobs_exit_code_comes_back(head, home, tmp_path, capfd):
    words = ["augment", *DIGITS, "--input", f"{tmp_path}/none", "--output", f"{tmp_path}/out"]
    assert send(head, "--detach", "--id", "wrong-input", *words) == 0
    assert capfd.readouterr().out.endswith("as wrong-input\n")
    assert send(head, "logs", "wrong-input") == 2
    assert "no such folder or shard" in capfd.readouterr().out
    assert send(head, "status", "wrong-input") == 0
    assert "wrong-input  FAILED (exit code 2)  python -m noiseweave augment" in capfd.readouterr().out
    assert send(head, "stop", "wrong-input") == 0
    assert "had ended already" in capfd.readouterr().out
    with pytest.raises(SystemExit) as ended:  # a second one of that name
        send(head, "--id", "wrong-input", *words)
    assert ended.value.code == 2
    assert "wrong-input already exists" in capfd.readouterr().err


@pytest.mark.slow
def test_ctrl_c_leaves_the_job_running(head, home, tmp_path, capfd):
    (tmp_path / "growing").mkdir()
    command = [
        sys.executable,
        "-m",
        "noiseweave",
        "submit",
        "--address",
        head,
        "--id",
        "watching",
        "augment",
        "--input",
        str(tmp_path / "growing"),
        "--output",
        str(tmp_path / "out"),
        "--model.name",
        "digits-ddpm",
        "--pairing.scope",
        "window",
        "--follow",
        "--follow_quiet",
        "600",
    ]
    sender = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    client, end = submit.connect(head), time.monotonic() + PATIENCE
    while not _joined(client, "watching"):
        assert sender.poll() is None, sender.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.3)
    sender.send_signal(signal.SIGINT)
    assert sender.wait(30) == 130
    assert "watching: runs on; `noiseweave submit logs watching` shows it again" in sender.stderr.read()
    assert submit.look(client, "watching").status == "RUNNING"
    assert send(head, "list") == 0
    assert "watching  RUNNING  python -m noiseweave augment" in capfd.readouterr().out
    assert send(head, "stop", "watching") == 0
    assert send(head, "logs", "watching") not in (0, 2)
    assert "watching: STOPPED" in capfd.readouterr().err


def _joined(client, name):
    """Whether the job's process has joined the Ray that it was sent to, and started none of its own."""
    return any(job.submission_id == name and job.driver_info for job in client.list_jobs())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pack", "--sise", "16"], "sise"),
        (["pack", "--dataset", "digits", "--output", "out/digits"], "output 'out/digits': on the cluster"),
        (["pakc"], "no job 'pakc'; jobs are pack"),
        (["--working_dir", "none", "pack", "--dataset", "digits", "--output", "/o"], "--working_dir 'none'"),
        (["--env", "NOT_SET_HERE", "pack", "--dataset", "digits", "--output", "/o"], "--env 'NOT_SET_HERE'"),
        (["status"], "id"),
    ],
)
def test_a_mistake_is_told_before_anything_is_sent(words, message, home, capsys, monkeypatch):
    monkeypatch.setattr(submit, "connect", lambda address: pytest.fail("asked the cluster"))
    with pytest.raises(SystemExit) as ended:
        cli.main(["submit", *words])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
