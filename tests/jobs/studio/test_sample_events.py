"""The tab Sample's endpoints, without a browser; skipped without the extra."""

import io
import re

import numpy as np
import pytest
import sampling
from pages import SAMPLE
from PIL import Image

from noiseweave.jobs import cli
from noiseweave.jobs.reading import class_names

pytest.importorskip("gradio", reason="no Gradio here: pip install 'noiseweave[studio]'")


def test_pictures_are_sampled_and_the_command_draws_the_same(client, digits):
    (tiles, film, line, command, yaml), good = client.ask("sample", list(SAMPLE))
    assert good
    assert "Drawn in" in line
    assert client.fetched(film).status_code == 200
    assert command.startswith("noiseweave sample --output out/sample-")
    (said,), _ = client.ask("save_sample", list(SAMPLE))
    job = re.search(r"out/sample-\w+\.yaml", said)[0]
    assert (digits / job).read_text() == yaml
    assert cli.main(["sample", "--config", job, "--cluster.address", "inline"]) == 0
    found = [x["png"] for x in sampling.read(digits / job[:-5]).values()]
    for tile, wanted in zip(tiles, found, strict=True):
        shown = Image.open(io.BytesIO(client.fetched(tile["image"]).content)).convert("L")
        assert (np.asarray(shown) == np.asarray(Image.open(io.BytesIO(wanted)))).all()
    assert "Error: count=65" in client.ask("sample", [[], "", "", 65, *SAMPLE[4:]])[0][2]


def test_classes_are_drawn_by_name_and_a_film_has_a_row_for_each(made, digits):
    folder = sampling.tiny(digits / "model", "flow", 3)
    class_names.write(folder, ["daisy", "rose", "tulip"])
    client = made(name=folder)
    with client.client:
        (tiles, film, _, command, _), _ = client.ask("sample", [[2, 0], *SAMPLE[1:]])
        assert [tile["caption"] for tile in tiles] == ["tulip", "daisy", "tulip"]
        assert "--labels 2,0" in command
        assert Image.open(io.BytesIO(client.fetched(film).content)).height > 3 * 96


def test_a_run_draws_the_pages_pictures_into_a_new_folder(client, digits):
    (digits / "out/sample-12345678").mkdir(parents=True)  # a hash, and no number of a run
    tiles = client.ask("sample", list(SAMPLE))[0][0]
    (line,), good = client.ask("run_sample", list(SAMPLE))
    assert good
    assert "noiseweave sample --output out/sample-001" in line
    (run,) = client.runs.started
    assert run.process.wait(120) == 0
    found = [x["png"] for x in sampling.read(digits / "out/sample-001").values()]
    for tile, wanted in zip(tiles, found, strict=True):
        shown = Image.open(io.BytesIO(client.fetched(tile["image"]).content)).convert("L")
        assert (np.asarray(shown) == np.asarray(Image.open(io.BytesIO(wanted)))).all()
    html = client.ask("runs", [""])[0][1]
    assert "sample-001" in html
    assert 'class="state done"' in html
    assert "3 pictures" in html, html
