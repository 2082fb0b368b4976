"""What a run says of its pairs, in both scopes: pictures used, pairs of each class, classes that have none."""

import json

import numpy as np
import pytest
from augments import BASE, digits, report, write_shard
from flows import inline

from noiseweave.engine.pictures import images

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
    (tmp_path / "in/classes.json").write_text(json.dumps(["zero", "one", "two", "three"]))
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
    assert found["classes_without_pairs"]["3"].startswith("2 pictures, none selected: no similarity from 0.7")
    assert f"pictures used {found['pictures_used']} of {found['images']}, each in at most" in screen
    assert f"zero {counts['0']}, one {counts['1']}" in screen
    assert "class two: 1 picture, a pair needs 2" in screen
    assert "class three: 2 pictures, none selected" in screen


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
        counted[name] = report(out)["pairs"], report(out)["near_duplicates"]
    assert counted == {"hash": (0, 1), "none": (1, 0)}
