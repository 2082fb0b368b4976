"""Runs through the page's own endpoints: started, refused, shown, stopped, and its report served and nothing else."""

import re
import sys
import time

import pytest
from flows import inline
from pages import CHINESE, USUAL
from studios import PAIRS

pytest.importorskip("gradio", reason="no Gradio here: pip install 'noiseweave[studio]'")
from noiseweave.jobs.studio import running


@pytest.fixture
def slow(monkeypatch):
    """A run that lasts until it is interrupted, in place of a job."""
    code = "import time\nprint('at work', flush=True)\ntime.sleep(99)"
    monkeypatch.setattr(running, "argv_of", lambda command: [sys.executable, "-c", code])


def values():
    return [*PAIRS.values(), *USUAL[:-1]]


def shown(client, page="a"):
    (_, html, stop), good = client.ask("runs", [""], page)
    assert good
    return html, stop["interactive"]


def test_a_run_is_started_refused_shown_and_stopped(made, folder, slow, digits):
    client = made(input=str(folder))
    with client.client:
        assert "No job has written" in shown(client)[0]
        (line,), good = client.ask("pairs_run", values())
        run = client.runs.current
        assert good
        assert run.command in line.replace("&#x27;", "'")
        assert (
            "out/augment-001 is still running; one run at a time" in client.ask("pairs_run", values())[0][0]
        )
        assert "one run at a time" in client.ask("run", [None] * 4 + list(USUAL))[0][0]
        html, stop = shown(client, "b")  # another page sees it too
        assert stop
        assert "augment-001" in html
        assert 'class="state running"' in html
        assert run.command in html
        assert "Stopped" in client.ask("stop", [])[0][0]
        assert not run.lives
        html, stop = shown(client)
        assert not stop
        assert 'class="state stopped"' in html
        assert "Nothing" in client.ask("stop", [])[0][0]


def test_what_has_not_changed_is_not_sent_again(client):
    (mark, html, _), _ = client.ask("runs", [""])
    assert html
    (_, again, _), _ = client.ask("runs", [mark])
    assert "<" not in str(again)


def test_the_tab_fuse_starts_its_settings_and_no_edit(made, folder, slow, digits):
    client = made(input=str(folder))
    with client.client:
        edit = (*USUAL[:7], "smooth", *USUAL[8:])
        assert "An edit is of one picture" in client.ask("run", [None] * 4 + list(edit))[0][0]
        assert client.runs.started == []
        client.ask("run", [None] * 4 + list(USUAL))
        assert "--fusion.modes linear --fusion.ratio 0.5" in client.runs.current.command
        assert "--pairing" not in client.runs.current.command


def test_wrong_values_start_nothing_and_are_a_line(made, folder, digits):
    client = made(input=str(folder))
    with client.client:
        assert "top_k" in client.ask("pairs_run", [*[*PAIRS.values()][:2], 0, *values()[3:]])[0][0]
        assert client.runs.started == []


def test_the_report_of_a_run_is_served_alone_and_cannot_ask_the_page(made, folder, digits):
    run = (
        "augment",
        folder,
        "--model.name",
        "digits-ddpm",
        "--inversion.num_steps",
        2,
        "--inversion.skip",
        0,
        "--pairing.max_pairs",
        1,
    )
    assert inline(*run, "--output", "out/a b") == 0
    client = made()
    with client.client:
        html, _ = shown(client)
        (address,) = re.findall(r'href="([^"]+)"', html)
        answer = client.client.get(address)
        assert answer.content == (digits / "out/a b/report.html").read_bytes()
        policies = answer.headers.get_list("content-security-policy")
        assert any("sandbox allow-scripts;" in policy for policy in policies)
        assert "1 of 1 planned pictures" in html
        for path in (
            "a%20b/report.json",
            "..%2Fout/a%20b/report.html",
            "..%2F..%2Fetc/report.html",
            "x/report.html",
        ):
            assert client.client.get(f"/runs/{path}").status_code == 404
        assert client.client.get(address, headers={"host": "evil.example"}).status_code == 403
        opaque = {"origin": "null", "content-type": "application/json"}
        assert client.client.post("/gradio_api/queue/join", json={}, headers=opaque).status_code == 403


def test_lines_are_in_the_browsers_language(made, digits):
    client = made(headers=CHINESE)
    with client.client:
        assert "还没有任何作业的输出" in shown(client)[0]
        assert "没有正在运行" in client.ask("stop", [])[0][0]


def test_a_run_that_fails_is_said_with_its_last_lines(made, folder, digits, monkeypatch):
    code = "raise SystemExit('error: <b> no')"
    monkeypatch.setattr(running, "argv_of", lambda command: [sys.executable, "-c", code])
    client = made(input=str(folder))
    with client.client:
        client.ask("pairs_run", values())
        end = time.monotonic() + 60
        while client.runs.current and time.monotonic() < end:
            time.sleep(0.05)
        html, _ = shown(client)
        assert 'class="state failed"' in html
        assert "error: &lt;b&gt; no" in html
