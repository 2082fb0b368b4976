"""Samples blanked in place: nothing of them is left, and all else lies where it lay."""

import pytest

from noiseweave.cluster import shards, storage
from noiseweave.cluster.blanking import blanked


@pytest.mark.parametrize(
    "key", ["b", "b" * 150, "b" * 600, "bé"], ids=["short", "long", "longer", "no ascii"]
)
def test_all_else_stays_where_it_lay(tmp_path, key):
    rows = [
        (k, {"png": f"picture of {k}".encode() * 90, "txt": f"words {k}".encode()}) for k in ("a", key, "c")
    ]
    whole = shards.pack(rows)
    data, gone = blanked(whole, {key, "absent"})
    assert (gone, len(data)) == (1, len(whole))
    assert key.encode() not in data if len(key) > 1 else b"picture of b" not in data
    assert f"words {key}".encode() not in data
    places = {}
    for name, content in (("old", whole), ("new", data)):
        storage.write(str(tmp_path / f"{name}.tar"), content)
        entries, bad = shards.index(str(tmp_path / f"{name}.tar"))
        assert bad == []
        places[name] = {e.key: e.members for e in entries}
    assert {k: m for k, m in places["old"].items() if k in "ac"} == {
        k: m for k, m in places["new"].items() if k in "ac"
    }
    rest = {k for k in places["new"] if k not in "ac"}
    assert len(rest) == 2
    assert all(k.startswith("forgotten-") for k in rest)
    _, bad = shards.locate(str(tmp_path / "new.tar"))
    assert {b.reason for b in bad} == {"no_picture"}


def test_nothing_to_blank_and_a_damaged_tar_stay_as_they_are():
    whole = shards.pack([("a", {"png": b"x"}), ("b", {"png": b"y"})])
    assert blanked(whole, {"c"}) == (whole, 0)
    assert blanked(b"no tar", {"a"}) == (b"no tar", 0)
    cut = whole[:700]
    data, gone = blanked(cut, {"a"})
    assert (len(data), gone) in ((len(cut), 0), (len(cut), 1))
