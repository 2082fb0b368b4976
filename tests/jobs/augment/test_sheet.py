"""The contact sheet: rows for every class, and a caption that names it."""

import json
from collections import Counter

import numpy as np
import pytest
from augments import BASE, digits, write_shard
from flows import inline

from noiseweave.engine.pictures import collage, images
from noiseweave.jobs.augment.sheet import ROWS, chosen, shares

WINDOW = ("--pairing.scope", "window", "--pairing.window", "1", "--pairing.overlap", "0")


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([68] * 5, [3, 3, 2, 2, 2]),
        ([100, 1, 100], [6, 1, 5]),
        ([2, 1], [2, 1]),
        ([50], [12]),
        ([9] * 24, [1, 0] * 12),
        ([], []),
    ],
)
def test_rows_are_shared_evenly_by_hand(counts, expected):
    assert shares(counts) == expected
    assert sum(expected) <= ROWS


def test_pictures_of_a_class_are_spread_over_its_units():
    units = {"000000": {"0": 60}, "000001": {"0": 40, "10": 2}, "000002": {"2": 1, "1": 0}}
    found = list(chosen(units))
    assert [name for name, *_ in found] == ["0", "0", "2", "10"], "by number"
    assert found[2:] == [("2", "000002", [0]), ("10", "000001", [0, 1])]
    first, second = found[0][2], found[1][2]
    assert len(first) + len(second) == ROWS - 3
    assert max(first) < 60
    assert max(second) < 40
    assert list(chosen(dict(reversed(units.items())))) == found


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Digits of five classes, in two shards."""
    folder = tmp_path_factory.mktemp("sheet")
    pictures, labels = digits()
    keep = np.flatnonzero(labels < 5).tolist()
    rows = [(f"d{i:02d}", {"png": images.encode(pictures[i]), "cls": b"%d" % labels[i]}) for i in keep]
    for n in range(2):
        write_shard(folder / f"s{n}.tar", rows[n::2])
    (folder / "classes.json").write_text(
        json.dumps(["daisy", "dandelion", "roses", "sunflowers", "tulips" * 9])
    )
    return folder


@pytest.mark.parametrize("more", [(), WINDOW, ("--files", "folder")], ids=["dataset", "window", "folder"])
def test_every_class_has_as_many_rows_and_is_named(more, source, tmp_path, monkeypatch):
    captions = []
    plain = collage.sheet

    def sheet(rows, said, *rest):
        captions.extend(said)
        assert [len(row) for row in rows] == [3] * len(said)
        return plain(rows, said, *rest)

    monkeypatch.setattr(collage, "sheet", sheet)
    how = ("--pairing.max_pairs", "30", "--inversion.num_steps", "2", *more)
    assert inline("augment", *BASE, "--input", source, "--output", tmp_path / "out", *how) == 0
    counts = Counter(caption.partition(": ")[0] for caption in captions)
    assert list(counts) == ["daisy", "dandelion", "roses", "sunflowers", f"{('tulips' * 4)[:23]}…"]
    assert sorted(counts.values()) == [2, 2, 2, 3, 3]
    assert (tmp_path / "out/contact_sheet.png").exists()
