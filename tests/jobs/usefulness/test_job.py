"""noiseweave evaluate usefulness from the command to its table, on few digits and a tiny generator."""

import json
from dataclasses import replace

import numpy as np
import pytest
from evaluating import noise, shard
from PIL import Image
from sklearn.datasets import load_digits

from noiseweave.cluster import pipeline, shards, storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.judging.recipes import ClassifierRecipe
from noiseweave.engine.pictures.images import encode
from noiseweave.engine.training.recipes import UnetRecipe
from noiseweave.engine.usefulness.recipes import GeneratorRecipe, GuessRecipe
from noiseweave.jobs import cli
from noiseweave.jobs.usefulness import config as usefulness_config
from noiseweave.jobs.usefulness import flows as usefulness_flows
from noiseweave.jobs.usefulness import job as usefulness
from noiseweave.jobs.usefulness import task as usefulness_task

SMALL = """
protocol: prior
per_class: [3, 5]
subsets: 1
seeds: 2
size: 8
classifiers:
  small: {steps: 15, batch: 16, width: 4}
generator:
  {steps: 3, tuning_steps: 3, batch: 8, unet: {channels: [8, 16], attention: [], head: 8, groups: 4}}
guess: {sure: 0.2, rounds: 2, classifier: {steps: 15, batch: 16, width: 4, classical: [affine]}}
methods:
  real: {}
  affine: {classical: [affine]}
  blend: {made: blend, count: 10}
  pool: {made: pseudo_labels}
  pool blend: {made: blend, parents: guessed, keep_parents: true, count: 8}
  fused: {made: fusion, count: 6, inversion: {num_steps: 3, skip: 1}}
cluster: {address: inline, gpus_per_worker: 0}
"""


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """Shards of 60 digits of 3 classes, and of 30 others; one of the first is no picture."""
    folder = tmp_path_factory.mktemp("sides")
    data = load_digits(n_class=3)
    rows = [
        (f"{i:03d}", {"png": encode(np.rint(x * 255 / 16).astype(np.uint8)[..., None]), "cls": b"%d" % y})
        for i, (x, y) in enumerate(zip(data.images[:90], data.target, strict=False))
    ]
    rows[59][1]["png"] = b"no picture"
    storage.write(f"{folder}/input/a.tar", shards.pack(rows[:60]))
    storage.write(f"{folder}/test/a.tar", shards.pack(rows[60:]))
    storage.write(f"{folder}/other/a.tar", shards.pack(rows[60:80]))
    return folder


def command(sides, output, *more):
    config = output.parent / "small.yaml"
    config.write_text(SMALL)
    return [
        "evaluate",
        "usefulness",
        "--config",
        str(config),
        "--input",
        f"{sides}/input",
        "--test",
        f"{sides}/test",
        "--output",
        str(output),
        *more,
    ]


def test_a_table_a_plot_and_sheets(sides, tmp_path, capsys):
    output = tmp_path / "out"
    assert cli.main(command(sides, output)) == 0
    figures = json.loads((output / "usefulness.json").read_text())
    assert figures["quarantined"] == 1
    assert figures["tables"].keys() == {"small"}
    assert figures["tables"]["small"].keys() == {"3", "5"}
    for rows in figures["tables"]["small"].values():
        assert [r["method"] for r in rows] == ["real", "affine", "blend", "pool", "pool blend", "fused"]
        assert all(0 <= r["accuracy"] <= 100 for r in rows)
        [best] = [r for r in rows if r["reference"]]
        assert best["accuracy"] == max(r["accuracy"] for r in rows[:2])
        added = {r["method"]: r["added"] for r in rows}
        assert 0 < added["pool"] <= 59
        assert added.pop("pool blend") == added.pop("pool") + 8
        assert added == {"real": 0, "affine": 0, "blend": 10, "fused": 6}
        gains = {r["method"]: r["gain"] for r in rows}
        blend = next(r for r in rows if r["method"] == "blend")
        assert gains["blend"] == pytest.approx(blend["accuracy"] - best["accuracy"], abs=0.011)
    assert (
        "small (from nothing, 15 steps), 3 labelled pictures a class"
        in (output / "usefulness.md").read_text()
    )
    assert Image.open(output / "usefulness.png").width > 500
    sheets = {f"{k}-{name}.png" for k in (3, 5) for name in ("blend", "pool", "pool blend", "fused")}
    assert {p.name for p in (output / "sheets").iterdir()} == sheets
    assert (output / "quarantine.jsonl").read_text().count("not_an_image") == 1
    before = (output / "usefulness.md").read_text()
    assert "% of them right" in before
    assert cli.main(command(sides, output)) == 0  # all units are done
    assert (output / "usefulness.md").read_text() == before


def test_size_and_channels_come_from_the_pictures(tmp_path):
    """Of the input's, brought down to what the generator takes, and to 32; what is given stays."""
    tar = str(shard(tmp_path / "a.tar", noise(3, 45)))
    given = {"input": "", "test": "", "output": ""}

    def settled(**more):
        config, unlike = usefulness.settled(usefulness_config.Config(**given, **more), [tar])
        return config.size, config.channels, unlike

    assert settled() == (32, 3, None)
    assert settled(generator=GeneratorRecipe(unet=UnetRecipe(channels=(8,) * 7, attention=()))) == (
        64,
        3,
        None,
    )
    assert settled(size=8) == (8, 3, None)
    seen = "the pictures are 45x45 in colour (the middle one of 3 looked at)"
    text = "the generator draws 16x16 in grey: they are made smaller and they lose their colour"
    assert settled(size=16, channels=1) == (16, 1, f"{seen}, {text}")


@pytest.fixture
def done(monkeypatch):
    """(phase, units) of each flow that runs."""
    flows, run = [], pipeline.run

    def follow(plan, phase, *rest):
        flows.append((phase.name, plan.length))
        return run(plan, phase, *rest)

    monkeypatch.setattr(pipeline, "run", follow)
    return flows


def test_a_run_goes_on_with_another_method(done, sides, tmp_path):
    output, words = tmp_path / "out", ["--per_class", "[3]", "--seeds", "1"]
    assert cli.main(command(sides, output, *words, "--methods", '{"real": {}}')) == 0
    assert done == [("score", 1)]
    more = '{"real": {}, "pool": {"made": "pseudo_labels"}}'
    assert cli.main(command(sides, output, *words, "--methods", more)) == 0
    assert done[1:] == [("guess", 1), ("make", 1), ("score", 2)]
    both = ["--methods", more, "--only", '["real"]']
    assert cli.main(command(sides, output, *words, *both)) == 0
    assert done[4:] == [("score", 1)]
    rows = json.loads((output / "usefulness.json").read_text())["tables"]["small"]["3"]
    assert [r["method"] for r in rows] == ["real"]
    top = '"top": {"made": "pseudo_labels", "classical": ["flip"]}'
    assert cli.main(command(sides, output, *words, "--methods", f"{more[:-1]}, {top}}}")) == 0
    assert done[5:] == [("guess", 1), ("make", 1), ("score", 3)]  # the same pictures, one more classifier


def test_another_classifier_and_another_test_side_take_what_was_made(done, sides, tmp_path):
    """First on what was put aside to choose by, then on the real test side: the same output, no new pictures."""
    output, words = tmp_path / "out", ["--per_class", "[3]", "--seeds", "1", "--subsets", "2"]
    methods = ["--methods", '{"real": {}, "blend": {"made": "blend", "count": 9}}']
    assert cli.main(command(sides, output, *words, *methods)) == 0
    assert done == [("make", 2), ("score", 4)]
    more = '{"small": {"steps": 15, "batch": 16, "width": 4}, "wide": {"steps": 15, "batch": 16, "width": 8}}'
    assert cli.main(command(sides, output, *words, *methods, "--classifiers", more)) == 0
    first = json.loads((output / "usefulness.json").read_text())["tables"]
    made = {p.name: p.stat().st_mtime_ns for p in (output / "_run" / "made").iterdir()}
    other = command(sides, output, *words, *methods, "--classifiers", more)
    other[other.index("--test") + 1] = f"{sides}/other"
    assert cli.main(other) == 0
    assert {p.name: p.stat().st_mtime_ns for p in (output / "_run" / "made").iterdir()} == made
    scores = [p.name for p in (output / "_run").rglob("*") if "@" in p.name and p.name.endswith("-0.json")]
    assert len(scores) == 2 * 2 * 2 * 2  # choices, methods, classifiers, sides
    second = json.loads((output / "usefulness.json").read_text())["tables"]
    assert second.keys() == first.keys() == {"small", "wide"}
    assert second != first
    assert cli.main(command(sides, output, *words, *methods, "--classifiers", more)) == 0  # all is known
    assert json.loads((output / "usefulness.json").read_text())["tables"] == first


LEVERS = """{
  real: {},
  samples: {made: samples, count: 6, confidence: 0.3, weights: hard, inversion: {num_steps: 2, skip: 0}},
  varied: {made: variations, parents: guessed, keep_parents: true, count: 6, smoothing: 0.1, share: 0.2,
    skips: [0, 1, 2], inversion: {num_steps: 3, skip: 0}, fusion: {variation: 1}}
}"""


def test_the_levers_on_photos_in_latents(tmp_path):
    """Tiny photos through the command: latents, a fine-tuned classifier, and each lever in a method."""
    for name, start in (("input", 0), ("test", 100)):
        rows = [(f"{i:03d}", {"png": encode(colours(start + i)), "cls": b"%d" % (i % 2)}) for i in range(14)]
        storage.write(f"{tmp_path}/{name}/a.tar", shards.pack(rows))
    output = tmp_path / "out"
    words = [
        "--per_class",
        "[3]",
        "--seeds",
        "1",
        "--size",
        "32",
        "--flip",
        "true",
        "--generator.kind",
        "flow",
    ]
    words += ["--generator.vae", "taesd", "--generator.precision", "bf16"]
    words += ["--guess.features.name", "pixels", "--guess.rounds", "1", "--guess.sure", "0.5"]
    tuned = (
        '{"tuned": {"pretrained": "efficientnet-lite0", "blocks": 1, "resize": 32, "steps": 2, "batch": 8}}'
    )
    words += ["--classifiers", tuned, "--methods", LEVERS]
    assert cli.main(command(tmp_path, output, *words)) == 0
    figures = json.loads((output / "usefulness.json").read_text())
    assert figures["seconds"].keys() == {"encode", "prior", "see", "guess", "tune", "make", "score"}
    rows = {r["method"]: r for r in figures["tables"]["tuned"]["3"]}
    assert rows["samples"]["added"] + rows["samples"]["rejected"].get("unsure", 0) == 6
    assert 6 < rows["varied"]["added"] <= 20
    assert "tuned (fine-tuned, 2 steps)" in (output / "usefulness.md").read_text()
    assert np.load(output / "_run" / "latents-0.npy").shape == (2, 14, 4, 4, 4)


def colours(number):
    """uint8 [32, 32, 3]: red of even numbers, blue of odd ones, with noise."""
    base = np.array([[200, 50, 50], [50, 50, 200]])[number % 2]
    noisy = base + np.random.default_rng(number).integers(-40, 40, (32, 32, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def test_features_to_guess_by_are_taken_once_in_parts(done, sides, tmp_path, monkeypatch):
    monkeypatch.setattr(usefulness_flows, "SEEN", 25)
    output = tmp_path / "out"
    words = [
        "--guess.features.name",
        "pixels",
        "--guess.features.size",
        "8",
        "--guess.rounds",
        "1",
        "--seeds",
        "1",
    ]
    methods = ["--methods", '{"real": {}, "pool": {"made": "pseudo_labels"}}']
    assert cli.main(command(sides, output, *words, *methods)) == 0
    assert done[:2] == [("see", 3), ("guess", 2)]  # 59 pictures, two numbers of the few
    parts = [np.load(output / "_run" / f"seen-{start}.npy") for start in (0, 25, 50)]
    assert np.concatenate(parts).shape == (59, 3 * 8 * 8)


def test_the_closed_protocol_leaves_out_what_needs_the_pool(done, sides, tmp_path, capsys):
    output = tmp_path / "out"
    words = ["--protocol", "closed", "--per_class", "[3]", "--seeds", "1"]
    words += ["--only", '["real", "affine", "blend", "pool", "pool blend", "fused"]']
    assert cli.main(command(sides, output, *words)) == 0
    assert done == [("tune", 1), ("make", 2), ("score", 4)]
    assert "left out pool, pool blend" in capsys.readouterr().out
    rows = json.loads((output / "usefulness.json").read_text())["tables"]["small"]["3"]
    assert [r["method"] for r in rows] == ["real", "affine", "blend", "fused"]


def test_the_pools_own_labels_reach_no_generator(sides, tmp_path):
    found = {side: shards.find(f"{sides}/{side}") for side in ("input", "test")}
    settings = usefulness_config.Config(
        input="",
        test="",
        output=str(tmp_path),
        per_class=(3,),
        size=8,
        channels=1,
        guess=GuessRecipe(sure=0.3, classifier=ClassifierRecipe(steps=15, batch=16, width=4)),
        generator=GeneratorRecipe(
            steps=2,
            tuning_steps=2,
            batch=8,
            unet=UnetRecipe(channels=(8, 16), attention=(), head=8, groups=4),
        ),
    )
    data, _ = usefulness_flows.load(settings, found)
    few = {(3, 0): usefulness_flows.choose(settings, data, 3, 0)}
    made = []
    for shift in (0, 1):
        pool = replace(data["input"], label_N=(data["input"].label_N + shift) % 3)
        task = usefulness_task.Task(config=settings, data=data | {"input": pool}, few=few, classes=3, side="")
        book = Ledger(output=str(tmp_path / str(shift)))
        files = {}
        for name, unit in (("prior", ("prior",)), ("guess", (3, 0)), ("tune", (3, 0))):
            wrote = usefulness_flows.COMPUTE[name](task, book, "cpu", unit).files
            files |= wrote
            for file, content in wrote.items():
                storage.write(book.path(file), content)
        made.append(files)
    assert len(made[0]) == 3
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--per_class", "[99]"], "per_class=99: class 0 has"),
        (["--methods", '{"blend": {"made": "blend"}}'], "at least one without made pictures"),
        (["--protocol", "open"], "protocol"),
        (["--methods", '{"real": {}, "odd": {"made": "magic"}}'], "methods.odd: "),
        (["--methods", '{"real": {}, "odd": {"counts": 3}}'], "counts"),
        (
            ["--methods", '{"real": {}, "odd": {"made": "variations"}}'],
            "methods.odd: methods.fusion.variation=0",
        ),
        (["--classifiers", '{"odd": {"step": 3}}'], "classifiers.odd: no option 'step'; did you mean steps?"),
        (["--classifiers", '{"odd": {"classical": ["flip"]}}'], "classifiers.odd.classical"),
        (["--only", '["real", "fuse"]'], "only='fuse': one of real, affine"),
        (["--only", '["fused"]'], "at least one without made pictures"),
        (["--classifiers", "{}"], "classifiers={}: at least one"),
        (["--generator.vae", "taesd"], "channels=1: 3 with generator.vae"),
        (
            ["--generator.vae", "taesd", "--channels", "3", "--size", "20"],
            "generator: data.size=20: a multiple of 8",
        ),
        (["--generator.vae", "./none", "--channels", "3"], "'./none': no such folder"),
    ],
)
def test_what_cannot_be_is_one_line(sides, tmp_path, capsys, more, message):
    with pytest.raises(SystemExit) as stop:
        cli.main(command(sides, tmp_path / "out", *more))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    *before, last = error.splitlines()
    assert message in last
    assert all(line.startswith("warning: ") for line in before)


def test_a_picture_on_both_sides_is_refused(sides, tmp_path, capsys):
    words = command(sides, tmp_path / "out")
    words[words.index("--test") + 1] = f"{sides}/input"
    with pytest.raises(SystemExit):
        cli.main(words)
    assert "are in input too, pixel for pixel" in capsys.readouterr().err
