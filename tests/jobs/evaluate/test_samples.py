"""evaluate of generated samples: the gate's own figures, copies, strangers, broken ones, lineage of any kind."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from augments import BASE, digits, through
from evaluating import quarantine, refused, shard
from flows import inline

from noiseweave.cluster import shards, storage
from noiseweave.engine.pictures import images

JUDGE = ("--quality.classifier.steps", "40", "--quality.classifier.width", "8", "--quality.drift", "0.3")
CENTROID = ("--mode", "samples", "--quality.judge", "centroid")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """90 labelled digits in two shards."""
    folder = tmp_path_factory.mktemp("digits")
    pictures, labels = digits()
    for n, rows in enumerate((range(45), range(45, 90))):
        some = {f"d{i:02d}": pictures[i] for i in rows}
        shard(folder / f"s-{n}.tar", some, **{f"d{i:02d}": {"cls": b"%d" % labels[i]} for i in rows})
    return folder


@pytest.fixture(scope="module")
def gated(source, tmp_path_factory):
    """Made of them by augment with its gate: shards and rejected."""
    output = tmp_path_factory.mktemp("gated") / "out"
    through(
        output,
        *BASE,
        "--input",
        source,
        "--gate",
        "true",
        *JUDGE,
        "--quality.redraw",
        "0",
        "--fusion.variation",
        "0.8",
        "--inversion.skip",
        "0",
    )
    return output


def rows(output):
    lines = [json.loads(line) for line in (output / "samples.jsonl").read_text().splitlines()]
    return {line["key"]: line for line in lines}


def lineages(folder):
    found = [(str(s), e) for s in folder.glob("*.tar") for e in shards.index(str(s))[0]]
    return {
        e.key: json.loads(storage.read(s, e.members["json"].offset, e.members["json"].size)) for s, e in found
    }


def test_the_figures_are_those_of_the_gate(evaluate, source, gated, tmp_path):
    for folder in ("shards", "rejected"):
        output = tmp_path / folder
        report = evaluate(
            "--mode", "samples", "--input", gated / folder, "--reference", source, *JUDGE, output=output
        )
        told, found = lineages(gated / folder), rows(output)
        assert found.keys() == told.keys()
        for key, line in told.items():
            ours = {name: found[key][name] for name in line["check"]}
            assert ours == pytest.approx(line["check"], abs=2e-4)
            assert (found[key]["parents"], found[key]["found"]) == (2, 2)
        assert report["warnings"] == []
        assert sum(report["verdicts"]["all"].values()) == report["figures"]["drift"]["samples"] == len(told)
    assert "kept" not in report["verdicts"]["all"]


def test_copies_of_the_input_among_the_samples_are_warned_of(evaluate, source, tmp_path):
    """By the name of their shard, and by their own .json where they were packed anew; in sets as in samples."""
    through(tmp_path / "o", *BASE, "--input", source, "--samples.copy_original", "true")
    copies = tmp_path / "o/originals"
    found = sorted(copies.glob("*.tar"))
    anew = [(str(s), e) for s in found for e in shards.index(str(s))[0]]
    rows = [(e.key, {x: storage.read(s, m.offset, m.size) for x, m in e.members.items()}) for s, e in anew]
    storage.write(str(tmp_path / "anew/shard-000000.tar"), shards.pack(rows))
    text = "input holds originals that augment copied ({}): they are not made pictures, and the figures are of both"
    both = f"{tmp_path}/o/{{shards,originals}}"
    for n, (given, first) in enumerate(
        ((both, found[0]), (tmp_path / "anew", tmp_path / "anew/shard-000000.tar"))
    ):
        sets = ("--input", given, "--reference", source, "--features.size", 4, "--bootstrap", 0)
        assert text.format(first) in evaluate(*sets, output=tmp_path / f"sets{n}")["warnings"]
        report = evaluate(*CENTROID, "--input", given, "--reference", source, output=tmp_path / f"samples{n}")
        assert report["warnings"][0] == text.format(first)
    only = ("--input", tmp_path / "o/shards", "--reference", copies, "--features.size", 4, "--bootstrap", 0)
    assert not any("originals" in w for w in evaluate(*only, output=tmp_path / "only")["warnings"])


def test_samples_without_lineage_are_held_against_the_whole_reference(evaluate, source, tmp_path):
    pictures, labels = digits()
    soft = (pictures[50] * 0.9 + pictures[51] * 0.1).astype(np.uint8)
    made = {
        "copied": pictures[3],
        "flat": np.full_like(soft, 90),
        "soft": soft,
        "called": soft,
        "torn": b"no",
    }
    known = {"soft": {"cls": b"%d" % labels[50]}, "called": {"cls": b"%d" % ((labels[50] + 1) % 10)}}
    given = shard(tmp_path / "made.tar", made, **known)
    report = evaluate(*CENTROID, "--input", given, "--reference", source, "--quality.copy", "0.9999")
    found = rows(tmp_path / "out")
    assert {key: row["verdict"] for key, row in found.items()} == {
        "copied": "copy",
        "flat": "broken",
        "soft": "kept",
        "called": "drifted",
    }
    assert (found["copied"]["nearest_key"], found["soft"]["nearest_key"]) == ("s-0.tar#d03", "s-1.tar#d50")
    assert {row["parent"] for row in found.values()} == {None}
    assert found["copied"]["drift"] is None
    assert report["verdicts"] == {"all": {"kept": 1, "copy": 1, "drifted": 1, "broken": 1}}
    assert "parent" not in report["figures"]
    assert [w.split(" samples")[0] for w in report["warnings"]] == ["4 of 4", "2 of 4"]
    assert [(q["set"], q["key"]) for q in quarantine(tmp_path / "out")] == [("input", "torn")]


def test_parents_are_found_by_shard_or_key_and_by_their_files_hash(evaluate, source, tmp_path):
    pictures, _ = digits()
    shutil.copy(source / "s-0.tar", tmp_path / "s-0.tar")
    twice = {f"d{i:02d}": pictures[i] for i in range(40, 60)}  # d40 to d44 come twice
    shard(tmp_path / "sub/s-1.tar", twice)
    right, wrong = (hashlib.sha256(images.encode(pictures[i])).hexdigest() for i in (3, 4))

    def line(*parents):
        return {"json": json.dumps({"parents": list(parents), "mode": "linear"}).encode()}

    known = {
        "name": line({"shard": "s-0.tar", "key": "d03", "sha256": right}, {"shard": "s-0.tar", "key": "d40"}),
        "moved": line({"shard": "elsewhere/s-1.tar", "key": "d50"}, {"shard": "old.tar", "key": "d51"}),
        "twice": line({"shard": "old.tar", "key": "d40"}, {"shard": "s-0.tar", "key": "gone"}),
        "other": line({"shard": "s-0.tar", "key": "d03", "sha256": wrong}),
        "odd": {"json": b'{"parents": [3, {"key": 5}, {"key": "d03", "label": "?", "shard": 1}]}'},
        "none": {"json": b'[{"parents": 1}]'},
    }
    given = shard(tmp_path / "in/made.tar", dict.fromkeys(known, pictures[20]), **known)
    report = evaluate(*CENTROID, "--input", given, "--reference", f"{tmp_path}/{{s-0,sub/s-1}}.tar")
    found = {key: (row["found"], row["parents"]) for key, row in rows(tmp_path / "out").items()}
    assert found == {
        "name": (2, 2),
        "moved": (2, 2),
        "twice": (0, 2),
        "other": (0, 1),
        "odd": (1, 1),
        "none": (0, 0),
    }
    assert list(report["verdicts"]) == ["all", "linear", "no mode"]
    assert sum("other files" in w or "is not in the reference" in w for w in report["warnings"]) == 2


def test_a_run_goes_on_and_other_limits_need_no_figure_again(source, gated, tmp_path):
    output = tmp_path / "out"
    command = ["evaluate", *CENTROID, "--input", gated / "shards", "--reference", source, "--output", output]
    assert inline(*command) == 0
    first = (output / "samples.jsonl").read_bytes()
    marks = sorted((output / "_run/done/samples").iterdir())
    marks[0].unlink()
    kept = [path.stat().st_mtime_ns for path in marks[1:]]
    assert inline(*command) == 0
    assert (output / "samples.jsonl").read_bytes() == first
    assert [path.stat().st_mtime_ns for path in marks[1:]] == kept
    assert inline(*command, "--quality.copy", "0.5") == 0
    assert {row["verdict"] for row in rows(output).values()} == {"copy"}


def test_bad_input_is_one_clear_line(evaluate, source, tmp_path, capsys):
    broken = shard(tmp_path / "broken.tar", {"a": b"no", "b": b""})
    storage.write(str(tmp_path / "folder/a.png"), images.encode(digits()[0][0]))
    for arguments, words in (
        (("--input", source), "reference=None: needed for mode samples"),
        (("--input", source, "--reference", source), "other shards than input's"),
        (("--input", tmp_path / "folder", "--reference", source), "input"),
        (("--input", source, "--reference", tmp_path / "folder"), "a folder of pictures; mode samples needs"),
        (
            ("--input", broken, "--reference", source),
            "could be read: 1 empty_picture, 1 not_an_image: broken.tar#b (empty_picture), broken.tar#a (not",
        ),
        (("--input", source, "--reference", broken), "reference"),
        (("--input", source, "--reference", broken, "--metrics", "[fd]"), "for mode samples: null"),
        (
            ("--input", source, "--reference", broken, "--quality.redraw", "3"),
            "quality.redraw=3: for augment",
        ),
    ):
        assert words in refused(capsys, evaluate, *CENTROID, *arguments, "--overwrite"), words
    sets = ("--input", source, "--reference", source, "--quality.drift", "0.1")
    assert "for mode samples alone" in refused(capsys, evaluate, *sets)
