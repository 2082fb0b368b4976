"""A photo model that is asked for another subject than it was trained on: one line, with the figures."""

import shutil

import numpy as np
import pytest
from augments import report, write_shard
from flows import inline
from PIL import Image
from skimage import data

from noiseweave.engine.features import training_set
from noiseweave.engine.pictures import images
from noiseweave.models import SHIPPED

ROOT = SHIPPED.parents[1]
QUICK = (
    "--inversion.num_steps=2",
    "--inversion.skip=1",
    "--pairing.threshold=-1",
    "--pairing.upper=1",
    "--pairing.max_pairs=1",
    "--gate=false",
    "--size=64",
)
FLOW = ("--model.name", "flowers-flow")
WINDOW = ("--pairing.scope=window", "--pairing.window=2")
LINE = "warning: the pictures are far from what flowers-flow was trained on (median cosine"


def crops(name, count):
    """Squares of one of skimage's photos."""
    photo = np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
    return [photo[20 * k : 20 * k + 200, 30 * k : 30 * k + 200] for k in range(count)]


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Eight crops of an astronaut and of a cup."""
    folder = tmp_path_factory.mktemp("others")
    for n, name in enumerate(("astronaut", "coffee")):
        rows = [
            (f"{name}{k}", {"png": images.encode(c), "cls": b"%d" % n}) for k, c in enumerate(crops(name, 4))
        ]
        write_shard(folder / f"{n}.tar", rows)
    return folder


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    """Ten photographs of the demo, two a class."""
    folder = tmp_path_factory.mktemp("flowers")
    for n, kind in enumerate(sorted((ROOT / "examples/flowers").glob("*/"))):
        rows = [(p.stem, {"jpg": p.read_bytes(), "cls": b"%d" % n}) for p in sorted(kind.glob("*.jpg"))[:2]]
        write_shard(folder / f"{n}.tar", rows)
    return folder


@pytest.mark.parametrize(
    "how", [(), WINDOW, ("--features.name=pixels",)], ids=["dataset", "window", "pixels"]
)
def test_another_subject_is_one_line_and_in_the_report_and_on_the_page(how, others, tmp_path, capsys):
    out = tmp_path / "out"
    assert inline("augment", *FLOW, *QUICK, *how, "--input", others, "--output", out) == 0
    said, found = capsys.readouterr(), report(out)["subject"]
    (line,) = (line for line in said.err.splitlines() if line.startswith("warning: the pictures are far"))
    assert line.startswith(LINE)
    assert f"{found['cosine']:.2f}" in line
    assert "have 0.74" in line
    assert found["far"] is True
    assert found["pictures"] == 8
    assert found["cosine"] < 0.5 < found["far_below"] < found["of_held_out"] < 0.8
    assert "far from it: expect texture" in " ".join(said.out.split())
    assert "Cosine to the model's subject" in (out / "report.html").read_text()


@pytest.mark.parametrize("how", [(), WINDOW], ids=["dataset", "window"])
def test_its_own_subject_is_no_warning(how, flowers, tmp_path, capsys):
    out = tmp_path / "out"
    assert inline("augment", *FLOW, *QUICK, *how, "--input", flowers, "--output", out) == 0
    said, found = capsys.readouterr(), report(out)["subject"]
    assert "far from" not in said.err
    assert found["far"] is False
    assert found["cosine"] > 0.65


def test_the_same_command_again_compares_no_more_and_warns_again(others, tmp_path, capsys, monkeypatch):
    command = ("augment", *FLOW, *QUICK, *WINDOW, "--input", others, "--output", tmp_path / "out")
    assert inline(*command) == 0
    before = report(tmp_path / "out")["subject"]
    capsys.readouterr()
    monkeypatch.delattr(training_set, "extractor")
    assert inline(*command) == 0
    assert LINE in capsys.readouterr().err
    assert report(tmp_path / "out")["subject"] == before


def test_a_model_that_says_nothing_is_not_compared_and_a_damaged_file_is_refused(others, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(SHIPPED / "flowers-flow", model)
    (model / training_set.FILE).write_bytes(b"torn")
    command = ("augment", *QUICK, "--model.name", model, "--input", others, "--output", tmp_path / "out")
    with pytest.raises(SystemExit) as stop:
        inline(*command)
    assert stop.value.code == 2
    assert "training_features.safetensors is damaged" in capsys.readouterr().err.splitlines()[-1]
    (model / training_set.FILE).unlink()
    assert inline(*command) == 0
    assert "subject" not in report(tmp_path / "out")
    assert "far from" not in capsys.readouterr().err
