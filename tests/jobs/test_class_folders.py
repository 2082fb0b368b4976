"""Names of strangers as names of files."""

import unicodedata

import numpy as np
import pytest

from noiseweave.jobs import class_folders


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("daisy", "daisy"),
        ("St. Bernard (dog)", "St. Bernard (dog)"),
        ("蒲公英", "蒲公英"),
        ("e\u0301te\u0301", "\u00e9t\u00e9"),
        ("..", ""),
        ("../../etc/passwd", "etc-passwd"),
        ("c:\\windows", "c_-windows"),
        ("a\0b\n", "a_b_"),
        ("__pycache__", "pycache__"),
        ("tail. ", "tail"),
        ("con", ""),
        ("Com1.txt", ""),
        ("concert", "concert"),
        ("é" * 100, "é" * 75),
    ],
)
def test_a_plain_name(name, wanted):
    found = class_folders.plain(name)
    assert found == wanted
    assert class_folders.plain(found) == found
    assert unicodedata.is_normalized("NFC", found)


def test_folders_differ_whatever_the_classes_are_called():
    names = ["cat", "CAT", "cat", "unlabelled", "..", "", "5", "é", "e\u0301", "x" * 400, "x" * 401]
    found = {label: class_folders.folder_of(label, names) for label in (*range(len(names)), 11, 12, None)}
    assert found[None] == "unlabelled"
    assert (found[11], found[12]) == ("11", "12")
    assert len({class_folders.same(name) for name in found.values()}) == len(names) + 3
    assert all((name and class_folders.plain(name) == name) or "--" in name for name in found.values())
    assert class_folders.folder_of(1, ["1"]) not in ("1", class_folders.folder_of(0, ["1"]))


def test_a_marked_name_cannot_be_had_by_asking_for_it():
    taken = class_folders.stem_of("0", "..", "a.tar").name
    asked = class_folders.stem_of("0", taken, "a.tar")
    assert asked.name != taken
    assert asked.changed == "plain"


def test_names_that_come_twice_are_found_over_all_parts():
    def numbers(*keys):
        return np.array([class_folders.number_of("0", key) for key in keys], np.uint64)

    found = class_folders.repeated([numbers("a", "b/c"), numbers("B-C", "d"), numbers()])
    assert found.tolist() == numbers("b-c").tolist()
    assert class_folders.repeated([]).tolist() == []
    twice = frozenset(found.tolist())
    stems = [class_folders.stem_of("0", key, s, twice) for key, s in (("b/c", "x"), ("B-C", "y"), ("a", "x"))]
    assert [s.changed for s in stems] == ["twice", "twice", None]
    assert len({s.name.casefold() for s in stems}) == 3
