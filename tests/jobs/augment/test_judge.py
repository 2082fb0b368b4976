"""augment --gate on digits, and class-conditional models: what is kept, rejected, drawn again, told."""

import json
from collections import Counter

import pytest
from augments import BASE, digits, report, through, write_shard
from flows import inline

from noiseweave.cluster import shards, storage
from noiseweave.engine.networks import base_models
from noiseweave.engine.pictures import images
from noiseweave.engine.training import systems
from noiseweave.engine.training.recipes import (
    Blueprint,
    ModelRecipe,
    ObjectiveRecipe,
    ScheduleRecipe,
    UnetRecipe,
)
from noiseweave.jobs.report import data

GATE = [
    "--gate",
    "true",
    "--quality.classifier.steps",
    "60",
    "--quality.classifier.width",
    "8",
    "--fusion.variation",
    "0.8",
    "--inversion.skip",
    "0",
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    pictures, labels = digits()
    rows = [
        (f"d{i:02d}", {"png": images.encode(p), "cls": b"%d" % y})
        for i, (p, y) in enumerate(zip(pictures, labels, strict=True))
    ]
    write_shard(folder / "s-0.tar", rows[:45])
    write_shard(folder / "s-1.tar", rows[45:])
    return folder


@pytest.fixture(scope="module")
def classes_model(tmp_path_factory):
    """A class-conditional pixel DDPM of 8 x 8 with random weights."""
    plan = Blueprint(
        model=ModelRecipe(classes=10),
        objective=ObjectiveRecipe(),
        schedule=ScheduleRecipe(),
        classes=10,
        unet=UnetRecipe(channels=(8, 16), attention=(), head=8, groups=4),
        size=8,
        channels=1,
        seed=0,
    )
    folder = tmp_path_factory.mktemp("classes") / "model"
    import torch

    base_models.save(systems.build(plan).model, folder, torch.float32)
    return str(folder)


def rejected(output):
    found = sorted(map(str, output.glob("rejected/*.tar")))
    members = [(s, e) for s in found for e in shards.index(s)[0]]
    return [json.loads(storage.read(s, e.members["json"].offset, e.members["json"].size)) for s, e in members]


@pytest.mark.parametrize("scope", ["dataset", "window"])
def test_what_the_gate_rejects_is_drawn_again_then_set_aside(source, tmp_path, scope):
    told, made = through(
        tmp_path / "out",
        *BASE,
        "--input",
        source,
        *GATE,
        "--pairing.scope",
        scope,
        "--quality.drift",
        "0.3",
        "--quality.redraw",
        "1",
    )
    out = rejected(tmp_path / "out")
    assert told["samples"] == len(made) == sum(told["modes"].values())
    assert told["pairs"] == sum(told["pairs_per_class"].values()) == told["asked"]
    assert told["asked"] == len(made) + len(out)
    assert told["pair_ends"] == 2 * told["asked"] >= told["images_inverted"]
    assert told["drawn_again"] >= len(out) == sum(told["rejected"].values()) > 0
    assert len(made) + len(out) == (24 if scope == "dataset" else len(made) + len(out))
    for files in made.values():
        check = json.loads(files["json"])["check"]
        assert check["verdict"] == "kept"
        assert check["drift"] <= 0.3
        assert 0 < check["parent"] <= check["nearest"] <= 0.999
    assert {line["check"]["verdict"] for line in out} <= {"copy", "drifted", "broken"}
    assert all(line["attempt"] == 1 for line in out)


def test_the_same_command_gives_the_same_and_other_settings_are_refused(source, tmp_path, capsys):
    more = [*BASE, "--input", source, *GATE, "--quality.judge", "centroid"]
    one, other = (through(tmp_path / name, *more)[1] for name in "ab")
    assert one == other
    with pytest.raises(SystemExit) as stop:
        inline("augment", *more, "--output", tmp_path / "a", "--quality.drift", "0.1")
    assert stop.value.code == 2
    assert "quality.drift 0.5 -> 0.1" in capsys.readouterr().err


def test_what_is_forgotten_is_no_longer_counted_as_rejected(source, tmp_path):
    output = tmp_path / "out"
    through(output, *BASE, "--input", source, *GATE, "--quality.drift", "0.3", "--quality.redraw", "0")
    key = rejected(output)[0]["parents"][0]["key"]
    gone = [line for line in rejected(output) if key in {p["key"] for p in line["parents"]}]
    before = report(output)
    assert inline("forget", "--input", output, "--key", key) == 0
    left, after = rejected(output), report(output)
    assert len(left) == sum(before["rejected"].values()) - len(gone) > 0
    assert after["rejected"] == dict(Counter(line["check"]["verdict"] for line in left))
    assert (
        after["samples"]
        == sum(after["modes"].values())
        == sum(len(shards.index(str(shard))[0]) for shard in output.glob("shards/augmented*.tar"))
    )


def test_the_screen_and_the_page_tell_pairs_from_pictures_and_add_up(source, tmp_path, capsys):
    output = tmp_path / "out"
    more = (
        "--fusion.per_pair",
        "2",
        "--pairing.max_pairs",
        "8",
        "--quality.drift",
        "0.3",
        "--quality.redraw",
        "0",
    )
    told, made = through(output, *BASE, "--input", source, *GATE, *more)
    screen = " ".join(capsys.readouterr().out.split())
    lost = sum(told["rejected"].values())
    assert (told["pairs"], told["asked"], told["not_made"]) == (8, 16, 0)
    assert told["samples"] == len(made) == 16 - lost < 16
    assert sum(told["pairs_per_class"].values()) == 8
    assert "pairs 8: " in screen
    assert "pictures asked for 16, 2 of each pair" in screen
    assert f" kept {16 - lost}: " in screen
    assert f"rejected by the gate {lost}: " in screen
    page = data.gather(str(output), 20, None)
    tiles = {tile["label"]: (tile["value"], tile["note"]) for tile in page["tiles"]}
    by_reason = ", ".join(f"{n} {name}" for name, n in told["rejected"].items())
    assert tiles["Pairs"] == (8, "")
    assert tiles["Pictures asked for"] == (16, "2 of each pair")
    assert tiles["Kept"] == (16 - lost, f"{lost} rejected: {by_reason}")
    assert sum(n for _, n in page["counts"][0]["rows"]) == 16 - lost, "modes are those of kept pictures"
    assert (page["gallery"]["total"], page["gallery"]["rejected"]) == (16, lost)
    key = next(iter(json.loads(next(iter(made.values()))["json"])["parents"]))["key"]
    assert inline("forget", "--input", output, "--key", key) == 0
    after = report(output)
    settled = after["samples"] + sum(after["rejected"].values()) + after["forgotten"] + after["not_made"]
    assert settled == after["asked"] == 16
    assert after["forgotten"] > 0


def test_without_fresh_noise_a_ratio_of_one_is_a_copy(source, tmp_path):
    told, made = through(
        tmp_path / "out",
        *BASE,
        "--input",
        source,
        "--gate",
        "--quality.classifier.steps",
        "5",
        "--fusion.ratio",
        "1",
        "--quality.drift",
        "1",
        "--quality.keep_rejected",
        "false",
    )
    assert (len(made), told["rejected"], told["drawn_again"]) == (0, {"copy": 24}, 48)
    assert not (tmp_path / "out/rejected").exists()


def test_several_pictures_of_a_pair_differ(source, tmp_path):
    told, made = through(
        tmp_path / "out",
        *BASE,
        "--input",
        source,
        "--fusion.per_pair",
        "3",
        "--fusion.variation",
        "0.5",
        "--pairing.max_pairs",
        "5",
    )
    assert told["samples"] == len(made) == 15
    lines = [json.loads(files["json"]) for files in made.values()]
    ends = {tuple(sorted(p["key"] for p in line["parents"])) for line in lines}
    assert len(ends) == 5
    assert len({files["png"] for files in made.values()}) == 15
    assert {line.get("number", 0) for line in lines} == {0, 1, 2}


def test_a_class_conditional_model_is_told_the_labels(source, tmp_path, classes_model):
    more = [*BASE, "--input", source, "--model.name", classes_model]
    plain, strong = (through(tmp_path / str(g), *more, "--prompt.guidance_target", g)[1] for g in (1, 4))
    assert plain.keys() == strong.keys()
    assert plain != strong
    fresh = through(tmp_path / "fresh", *more, "--fusion.variation", "1")[1]
    shares = [[json.loads(f["json"]).get("variation") for f in made.values()] for made in (plain, fresh)]
    assert shares == [[None] * len(plain), [1.0] * len(fresh)], "no fresh noise unasked"
    for files in strong.values():
        line = json.loads(files["json"])
        labels = [p["label"] for p in line["parents"]]
        assert line["prompt"] == {
            "source": labels,
            "target": labels,
            "guidance_source": 1.0,
            "guidance_target": 4.0,
            "guidance_interval": [0.0, 1.0],
        }


def test_words_are_refused_for_a_class_conditional_model(source, tmp_path, classes_model, capsys):
    command = [*BASE, "--input", source, "--output", tmp_path / "out", "--model.name", classes_model]
    with pytest.raises(SystemExit) as stop:
        inline("augment", *command, "--prompt.target", "a seven")
    assert stop.value.code == 2
    assert "reads no words" in capsys.readouterr().err


def test_the_judge_sees_every_picture(source, tmp_path):
    numbers, made = through(tmp_path / "out", *BASE, "--input", source, *GATE, "--pairing.max_pairs", "8")
    assert numbers["samples"] == len(made)
    assert numbers["samples"] + sum(numbers["rejected"].values()) == 8
    assert numbers["phases"]["judge"]["produced"] == 90
