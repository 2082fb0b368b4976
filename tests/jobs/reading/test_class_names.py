"""classes.json goes from each job's input to its output, and names stand where labels are shown."""

import json

import numpy as np
import pytest
from augments import BASE, digits, through, write_shard
from flows import inline
from inpaints import HARD, block, mask, saved
from loras import config_of
from sampling import tiny
from training import arguments

from noiseweave.cluster import shards, storage
from noiseweave.engine.pictures import images
from noiseweave.jobs import cli
from noiseweave.jobs.lora import input as lora_input
from noiseweave.jobs.lora import listing
from noiseweave.jobs.reading import class_names
from noiseweave.jobs.report import data as report_data

NAMES = ["null", "one", "zwei", "trois", "四", "<b>five</b>", "six", "seven", "eight", "nine"]
DIGITS = ("--model.name", "digits-ddpm")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Labelled digits as pack leaves them: shards/, and classes.json beside it."""
    folder = tmp_path_factory.mktemp("named")
    pictures, labels = digits()
    where = block((16, 16), 3, 4, 6, 7)
    rows = [
        (f"d{i:02d}", {"png": images.encode(p), "mask.png": saved(mask(where), "PNG"), "cls": b"%d" % y})
        for i, (p, y) in enumerate(zip(pictures, labels, strict=True))
    ]
    write_shard(folder / "shards/s-0.tar", rows[:40])
    storage.write_json(str(folder / "classes.json"), NAMES)
    return folder / "shards"


def written(output):
    return json.loads((output / "classes.json").read_text(encoding="utf-8"))


def shown(output):
    """Class names in the figure, on the cards, and the whole record of the page."""
    page = report_data.gather(str(output), 50, None)
    figure = next((one["rows"] for one in page["counts"] if one["title"] == "Class"), [])
    return {name for name, _ in figure}, {n for c in page["gallery"]["cards"] for n in c["classes"]}, page


def test_through_augment_to_the_next_job_and_the_page(source, tmp_path, capsys):
    out = tmp_path / "augmented"
    assert inline("augment", *BASE, *DIGITS, "--input", source, "--output", out) == 0
    assert written(out) == NAMES
    figure, cards, page = shown(out)
    assert figure
    assert cards == figure <= set(NAMES)
    assert page["class_names"] == NAMES
    assert "<b>five" not in (out / "report.html").read_text(encoding="utf-8")
    assert cli.main(["pack", "--input", str(out / "shards"), "--output", str(tmp_path / "packed")]) == 0
    assert written(tmp_path / "packed") == NAMES
    counts = json.loads((tmp_path / "packed/report.json").read_text(encoding="utf-8"))["classes"]
    assert {name for name, n in counts.items() if n} == figure
    storage.write_json(str(source.parent / "classes.json"), NAMES[::-1])  # other names are another input
    try:
        with pytest.raises(SystemExit):
            inline("augment", *BASE, *DIGITS, "--input", source, "--output", out)
        assert "class_names" in capsys.readouterr().err
    finally:
        storage.write_json(str(source.parent / "classes.json"), NAMES)
    assert inline("augment", *BASE, *DIGITS, "--input", source, "--output", out, "--overwrite") == 0


def lines_of(made):
    return [json.loads(files["json"]) for files in made.values()]


def test_the_models_class_is_that_of_the_same_name(tmp_path, capsys):
    model = tiny(tmp_path / "model", "ddpm", 4)
    class_names.write(model, ["odd", "Nine", "eights", "none of them"])
    pictures, labels = digits()
    for name, digit in (("EIGHT", 8), ("nine", 9), ("seven", 7)):
        for i in np.flatnonzero(labels == digit)[:6]:
            (tmp_path / "in" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name / f"{i}.png").write_bytes(images.encode(pictures[i]))
    base = [*BASE, "--model.name", model, "--pairing.threshold", "0", "--gate", "false"]
    _, made = through(tmp_path / "o", *base, "--input", tmp_path / "in")
    told = {line["parents"][0]["label"]: set(line["prompt"]["target"]) for line in lines_of(made)}
    assert told == {0: {2}, 1: {1}, 2: {None}}
    said = "warning: the model does not know the classes seven: it is told none for them; it knows odd, Nine,"
    assert said in capsys.readouterr().err
    class_names.write(model, ["EIGHT", "nine", "odd", "seven"])
    with pytest.raises(SystemExit):
        inline("augment", *base, "--input", tmp_path / "in", "--output", tmp_path / "o")
    assert "model_classes" in capsys.readouterr().err, "other names of the model are another run"


def test_a_misspelt_class_is_asked_about():
    said = class_names.unknown(["rosses", "orchid"], [2, 2], ["daisy", "roses"], 2)
    assert said is not None
    assert "does not know the classes rosses (did you mean roses?), orchid:" in said


def test_classes_without_names_are_those_of_the_same_number(tmp_path, capsys):
    model = tiny(tmp_path / "model", "ddpm", 9)
    pictures, labels = digits()
    keep = np.flatnonzero(labels >= 7)
    rows = [(f"d{i}", {"png": images.encode(pictures[i]), "cls": b"%d" % labels[i]}) for i in keep]
    write_shard(tmp_path / "in/s.tar", rows)
    base = [
        *BASE,
        "--model.name",
        model,
        "--pairing.threshold",
        "0",
        "--gate",
        "false",
        "--input",
        tmp_path / "in",
    ]
    _, made = through(tmp_path / "o", *base)
    told = {line["parents"][0]["label"]: set(line["prompt"]["target"]) for line in lines_of(made)}
    assert told == {7: {7}, 8: {8}, 9: {None}}
    assert "class" not in capsys.readouterr().err
    class_names.write(model, [f"number {i}" for i in range(9)])
    through(tmp_path / "p", *base)
    assert "its numbers are taken for the model's classes (number 0, number 1" in capsys.readouterr().err


def test_sides_that_number_their_classes_in_different_ways_are_refused(source, tmp_path, capsys):
    pictures, labels = digits()
    rows = [(f"d{i}", {"png": images.encode(pictures[i]), "cls": b"%d" % labels[i]}) for i in range(10)]
    write_shard(tmp_path / "other/shards/s.tar", rows)
    storage.write_json(str(tmp_path / "other/classes.json"), NAMES[::-1])
    jobs = {
        "usefulness": ("evaluate", "usefulness", "--input", source, "--test", tmp_path / "other/shards"),
        "samples": (
            "evaluate",
            "--mode",
            "samples",
            "--input",
            tmp_path / "other/shards",
            "--reference",
            source,
        ),
    }
    for name, words in jobs.items():
        with pytest.raises(SystemExit) as stop:
            cli.main([*map(str, words), "--output", str(tmp_path / name)])
        assert stop.value.code == 2
        assert "the same numbers must mean the same" in capsys.readouterr().err


def test_through_inpaint(source, tmp_path):
    out = tmp_path / "inpainted"
    assert inline("inpaint", *DIGITS, "--input", source, "--output", out, *HARD) == 0
    assert written(out) == NAMES
    figure, cards, _ = shown(out)
    assert cards == figure == set(NAMES)


def test_through_a_model_to_what_it_draws(source, tmp_path):
    model = tmp_path / "model"
    more = ["--model.classes", "10", "--steps", "2"]
    assert cli.main(["train", *arguments(source, model, *more)]) == 0
    assert written(model) == NAMES
    for files in ("shards", "folder"):
        out = tmp_path / files
        drawing = ("--labels", "3,5", "--count", "4", "--sampler.steps", "2", "--files", files)
        assert inline("sample", "--model.name", model, "--output", out, *drawing) == 0
        assert written(out) == NAMES
        assert shown(out)[:2] == ({"trois", "<b>five</b>"}, {"trois", "<b>five</b>"})


def test_words_of_lora(source, tmp_path):
    config = config_of(source, "m", tmp_path / "o", "--data.template", "a {label}, {caption}")
    found, *_ = listing.found_in(config, str(source), "input")
    first = next(f for f in found if f.key == "s-0/d03")
    assert lora_input.caption(config, first) == "a trois,"


def test_without_names_nothing_is_written(tmp_path):
    picture, where = np.zeros((16, 16, 1), np.uint8), block((16, 16), 3, 4, 6, 7)
    files = {"png": images.encode(picture), "mask.png": saved(mask(where), "PNG"), "cls": b"7"}
    write_shard(tmp_path / "in/a.tar", [("a", files), ("b", files)])
    assert inline("inpaint", *DIGITS, "--input", tmp_path / "in", "--output", tmp_path / "o", *HARD) == 0
    assert not (tmp_path / "o/classes.json").exists()
    assert shown(tmp_path / "o")[1] == {"7"}


def test_names_that_differ_or_are_none_are_refused(source, tmp_path, capsys):
    for name, value in (("a", ["x"]), ("b", ["y"])):
        write_shard(tmp_path / name / "s.tar", [("k", {"png": b"x"})])
        storage.write_json(str(tmp_path / name / "classes.json"), value)
    found = shards.find(str(tmp_path / "{a,b}/s.tar"))
    with pytest.raises(ValueError, match=r"^input='i': its shards number their classes in different ways: "):
        class_names.carried_classes("i", found)
    storage.write_json(str(tmp_path / "a/classes.json"), {"x": 1})
    with pytest.raises(ValueError, match=r"classes\.json is no list of class names"):
        class_names.classes_in(str(tmp_path / "a"))
    assert class_names.readable_classes(str(tmp_path / "a")) == []
    assert class_names.classes_in(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("label", "name"),
    [(0, "x"), ("1", "y"), (2, "2"), (-1, "-1"), ("²", "²"), ("cat", "cat"), ("9" * 5000, "9" * 5000)],
)
def test_a_label_without_a_name_is_its_number(label, name):
    assert class_names.shown(label, ["x", "y"]) == name
