"""The job studio: one line for what keeps it from starting."""

import contextlib
import importlib.util
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from flows import DIGITS

from noiseweave.jobs import cli
from noiseweave.jobs.studio import job


def failed(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(["studio", *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    return error


def test_without_the_extra_it_says_how_to_get_it(capsys, monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "gradio" else find(name, *a)
    )
    error = failed(capsys, *DIGITS, "--output", str(tmp_path))
    assert error == "error: studio needs Gradio: pip install 'noiseweave[studio]'\n"


def test_a_port_that_is_taken_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(job, "check_extra", lambda: None)
    with socket.socket() as taken:
        taken.bind((job.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = failed(capsys, *DIGITS, "--output", str(tmp_path), "--port", str(port))
    assert f"port={port}: Address already in use" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "model.name: no model is named"),
        ((*DIGITS, "--port", "0"), "port=0: 1 to 65535"),
        ((*DIGITS, "--output", "s3://a/b"), "output='s3://a/b': a local folder"),
        ((*DIGITS, "--upload_mib", "0"), "upload_mib=0"),
    ],
)
def test_wrong_options_are_one_line(capsys, arguments, said):
    assert said in failed(capsys, *arguments)


def test_an_input_that_is_not_there_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(job, "check_extra", lambda: None)
    assert "nothing" in failed(capsys, str(tmp_path / "nothing"), *DIGITS, "--output", str(tmp_path))


def test_the_page_is_there_before_torch_is_imported(tmp_path):
    pytest.importorskip("gradio", reason="no Gradio here: pip install 'noiseweave[studio]'")
    code = (
        "import sys\nfrom noiseweave.jobs.arguments import parse\nfrom noiseweave.jobs.studio import page\n"
        "from noiseweave.jobs.studio.live import Live\nfrom noiseweave.jobs.studio.running import Runs\n"
        "config = parse('studio', ['in', '--model.name', 'digits-ddpm'])\n"
        "page.app(Live(config, 'uploads'), Runs(config.output))\n"
        "sys.exit(sorted({'torch', 'ray', 'diffusers', 'transformers'} & {*sys.modules}) or 0)"
    )
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert made.stderr == ""


def test_ctrl_c_says_nothing_of_pages_that_are_open(tmp_path):
    pytest.importorskip("gradio", reason="no Gradio here: pip install 'noiseweave[studio]'")
    with socket.socket() as probe:
        probe.bind((job.HOST, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "noiseweave", "studio", *DIGITS, "--output", "out", "--port", str(port)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        page = f"http://{job.HOST}:{port}/gradio_api/heartbeat/somebody"
        for _ in range(600):
            time.sleep(0.1)
            with contextlib.suppress(OSError), urllib.request.urlopen(page) as opened:
                assert opened.readline()
                server.send_signal(signal.SIGINT)
                _, error = server.communicate(timeout=60)
                break
    assert error == b""
    assert server.returncode == 0


@pytest.mark.parametrize("runs", ["out/other", "s3://a", "out/studio/inner"])
def test_the_output_lies_in_the_folder_of_runs(capsys, runs):
    assert "runs=" in failed(capsys, *DIGITS, "--output", "out/studio", "--runs", runs)
