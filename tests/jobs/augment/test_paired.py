"""What a run says of its pairs, in both scopes: pictures used, pairs of each class, classes that have none."""

import json

import numpy as np
import pytest
from augments import BASE, digits, report, write_shard
from flows import inline

from noiseweave.engine.pairing.recipes import PairingRecipe
from noiseweave.engine.pictures import images
from noiseweave.jobs.augment import paired

WINDOW = ("--pairing.scope", "window", "--pairing.window", "2", "--pairing.overlap", "0")


@pytest.fixture
def source(tmp_path):
    """Digits of classes 0 and 1, one 2, and two 3 of which one is black: it is like nothing."""
    pictures, labels = digits()
    keep = [i for i, y in enumerate(labels) if y < 2]
    keep += [int(np.flatnonzero(labels == 2)[0]), *np.flatnonzero(labels == 3)[:2].tolist()]
    some = {i: pictures[i] for i in keep}
    some[keep[-1]] = np.zeros_like(pictures[0])
    rows = [(f"d{i:02d}", {"png": images.encode(p), "cls": str(labels[i]).encode()}) for i, p in some.items()]
    write_shard(tmp_path / "in/shards/s.tar", rows)
    names = ["zero", "one", "two", "three", "four"]
    (tmp_path / "in/classes.json").write_text(json.dumps(names))
    return tmp_path / "in/shards"


@pytest.mark.parametrize("scope", [(), WINDOW], ids=["dataset", "window"])
def test_pictures_used_pairs_of_each_class_and_classes_without_one_are_said(scope, source, tmp_path, capsys):
    out = tmp_path / "out"
    assert inline("augment", *BASE, "--input", source, "--output", out, *scope) == 0
    found, screen = report(out), " ".join(capsys.readouterr().out.split())
    counts = found["pairs_per_class"]
    assert set(counts) == {"0", "1"}
    assert counts["0"] == counts["1"] > 2
    assert found["pairs"] == sum(counts.values())
    assert 4 < found["pictures_used"] <= found["images"] - 3
    assert 1 <= found["most_uses"] <= 4
    assert found["classes_without_pairs"]["2"] == "1 picture, a pair needs 2"
    assert found["classes_without_pairs"]["3"].startswith("2 pictures, no similarity from 0.7")
    assert f"pictures used {found['pictures_used']} of {found['images']}, each in at most" in screen
    assert f"zero {counts['0']}, one {counts['1']}" in screen
    assert "class two: 1 picture, a pair needs 2" in screen
    assert "class three: 2 pictures, no similarity" in screen
    assert found["classes_without_pairs"]["4"] == "no picture of it was read"
    assert "without a picture class four: none was read" in screen


def test_a_class_whose_candidates_were_left_out_is_not_called_unlike(source, tmp_path, capsys):
    out, how = tmp_path / "out", ("--pairing.max_pairs", 1, "--pairing.per_class", "null")
    assert inline("augment", *BASE, "--input", source, "--output", out, *how) == 0
    found, screen = report(out), " ".join(capsys.readouterr().out.split())
    (paired_one,) = found["pairs_per_class"]
    other = "1" if paired_one == "0" else "0"
    why = found["classes_without_pairs"][other]
    assert "pictures, none of its " in why
    assert f"class {('zero', 'one')[int(other)]}: {why}" in screen
    assert found["classes_without_pairs"]["3"].startswith("2 pictures, no similarity")


@pytest.mark.parametrize("scope", [(), WINDOW], ids=["dataset", "window"])
def test_that_the_quota_was_the_limit_is_one_line_with_the_class_that_set_it(scope, tmp_path, capsys):
    pictures, labels = digits()
    keep = [*np.flatnonzero(labels == 0).tolist(), *np.flatnonzero(labels == 1)[:3].tolist()]
    rows = [(f"d{i:02d}", {"png": images.encode(pictures[i]), "cls": str(labels[i]).encode()}) for i in keep]
    write_shard(tmp_path / "in/s.tar", rows)
    (tmp_path / "in/classes.json").write_text(json.dumps(["zero", "one"]))
    out, how = tmp_path / "out", ("--pairing.max_pairs", "null", "--pairing.threshold", "0.3")
    assert inline("augment", *BASE, *how, "--input", tmp_path / "in", "--output", out, *scope) == 0
    found, screen = report(out), " ".join(capsys.readouterr().out.split())
    lost, kept = found["left_out"]["per_class"], found["pairs_per_class"]["1"]
    assert found["candidates"] == found["pairs"] + sum(found["left_out"].values())
    assert (found["pairs_per_class"], found["quota_set_by"]) == ({"0": kept, "1": kept}, {"1": 1})
    assert lost > 0
    held = "in a window no class has more than the one with the fewest, most often class one"
    held = held if scope else f"no class has more than the {kept} of class one"
    assert (
        f"quota {lost} candidates left out by pairing.per_class balanced: {held}; --pairing.per_class null"
        in screen
    )
    assert f"candidates {found['candidates']}, left out: " in screen
    assert f"{lost} beyond the quota" in screen


@pytest.mark.parametrize("scope", [(), WINDOW], ids=["dataset", "window"])
def test_where_every_class_has_one_picture_that_is_why_there_is_none(scope, tmp_path, capsys):
    pictures, labels = digits()
    first = [int(np.flatnonzero(labels == y)[0]) for y in (0, 1)]
    rows = [(f"d{i}", {"png": images.encode(pictures[i]), "cls": b"%d" % labels[i]}) for i in first]
    write_shard(tmp_path / "in/s.tar", [*rows, ("torn", {"png": b"torn", "cls": b"2"})])
    (tmp_path / "in/classes.json").write_text(json.dumps(["zero", "one", "two"]))
    out = tmp_path / "out"
    assert inline("augment", *BASE, "--input", tmp_path / "in", "--output", out, *scope) == 0
    found, screen = report(out), " ".join(capsys.readouterr().out.split())
    assert found["classes_without_pairs"] == {
        "0": "1 picture, a pair needs 2",
        "1": "1 picture, a pair needs 2",
        "2": "no picture of it was read",
    }
    assert found["quarantined"] == {"not_an_image": 1}
    assert "class zero: 1 picture, a pair needs 2" in screen
    assert "contact sheet: none: no class has the 2 pictures that a pair needs" in screen


def test_many_classes_without_a_picture_are_one_row():
    about = paired.Paired(pictures={"3": 2}, used={"3": 2}, pairs={"3": 1}, most_uses=1)
    names = [f"n{i}" for i in range(40)]
    known = {"images": 2, "pairs": 1, **paired.fields(about, PairingRecipe(), names)}
    assert len(known["classes_without_pairs"]) == 39
    (row,) = [
        text for name, text in paired.rows(known, PairingRecipe(), names) if name == "without a picture"
    ]
    assert row.startswith("class n0, n1, n2, n4, ")
    assert row.endswith("n10 and 29 more: none was read")


def test_the_same_picture_twice_is_no_pair(source, tmp_path):
    """Encoded anew a little brighter, so that only the hash or the cosine can tell."""
    picture = np.kron(np.random.default_rng(0).integers(0, 200, (4, 4)), np.ones((4, 4))).astype(np.uint8)
    rows = [
        (f"p{i}", {"png": images.encode(p[..., None]), "cls": b"0"})
        for i, p in enumerate((picture, picture + 9))
    ]
    write_shard(tmp_path / "twice/s.tar", rows)
    counted = {}
    for name, hash in (("hash", "6"), ("none", "null")):
        out = tmp_path / name
        how = ("--pairing.upper", "1", "--pairing.hash", hash)
        assert inline("augment", *BASE, "--input", tmp_path / "twice", "--output", out, *how) == 0
        counted[name] = report(out)["pairs"], report(out)["left_out"].get("near_duplicates", 0)
    assert counted == {"hash": (0, 1), "none": (1, 0)}
