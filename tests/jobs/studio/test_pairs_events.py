"""Pairs through the page's own endpoints: counts, figures, thumbnails, and the command that makes the same pairs."""

import json
import re
import shlex

import pytest
from flows import inline
from pages import CHINESE, USUAL
from studios import PAIRS

pytest.importorskip("gradio", reason="no Gradio here: pip install 'noiseweave[studio]'")
from noiseweave.jobs.studio import features


def values(**controls):
    return [*(PAIRS | controls).values(), *USUAL[:-1]]


def opened(client, page="a", **controls):
    data, good = client.ask("pairs_opened", values(**controls), page)
    assert good
    return data


def pairs_in(line):
    return int(re.search(r"(\d+) pairs of", line)[1])


def test_counts_follow_the_controls_and_the_command_makes_them(made, folder, digits):
    client = made(input=str(folder))
    with client.client:
        line, figures, ends, command, yaml = opened(client)
        assert "of 90 pictures" in line
        assert "Not opened: 1" in line
        assert "Compared in pixels" in line
        assert figures.count("<svg") == 3
        assert "class 3" in figures
        assert ends.count("<img") == 2 * 2 * 6
        more, good = client.ask("pairs", values(max_uses=0, quota="none"))
        assert good
        assert pairs_in(more[0]) > pairs_in(line)
        assert "--pairing.max_uses null" in more[3]
        (saved,), _ = client.ask("pairs_save", values())
        file = re.search(r"out/augment-\w+\.yaml", saved)[0]
        assert (digits / file).read_text() == yaml
        _, *words = shlex.split(command)
        assert inline(*words) == 0
        report = json.loads((digits / "out/augment-001/report.json").read_text())
        assert report["pairs"] == pairs_in(line)
        assert "out/augment-002" in opened(client)[3]


def test_no_pairs_is_no_fault(made, folder, digits):
    client = made(input=str(folder))
    with client.client:
        line, figures, ends, *_ = opened(client, threshold=0.99, upper=1)
        assert pairs_in(line) == 0
        assert figures.count("<svg") == 3
        assert ends == ""


def test_a_model_that_is_not_there_hinders_no_pairs(made, folder, digits):
    client = made(name=str(digits / "none"), input=str(folder))
    with client.client:
        assert "of 90 pictures" in opened(client)[0]


def test_of_a_large_input_the_page_says_so(made, folder, digits, monkeypatch):
    monkeypatch.setattr(features, "MOST", 40)
    client = made(input=str(folder))
    with client.client:
        assert "Only the first 40 pictures" in opened(client)[0]


def test_before_the_input_is_read_and_of_one_that_cannot_be_it_is_a_line(made, digits):
    client = made(input=str(digits / "uploads"))
    with client.client:
        assert "still being read" in client.ask("pairs", values())[0][0]
        assert "Error: " in opened(client)[0]
        assert opened(client)[1:] == ["", "", "", ""]


def test_wrong_values_are_a_line(made, folder, digits):
    client = made(input=str(folder), headers=CHINESE)
    with client.client:
        assert "90 张图片" in opened(client)[0]
        assert "pairing.upper=0.1" in opened(client, upper=0.1)[0]
        assert "&lt;b&gt;" in client.ask("pairs", values(quota="<b>"))[0][0]


def test_without_an_input_there_is_no_such_tab(client):
    assert "pairs" not in {d["api_name"] for d in client.config["dependencies"]}
