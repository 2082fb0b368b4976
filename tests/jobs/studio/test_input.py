"""The pairs of the page's input: the most similar first, of one class, of a folder or of shards."""

import hashlib

import numpy as np
import pytest
from fusing import png

from noiseweave.cluster import shards
from noiseweave.jobs.studio import input

LIMITS = (1 << 20, 10_000)


def files():
    """Key -> file: two classes, each with two pictures that are alike, and one that is not."""
    rng = np.random.default_rng(0)
    found = {}
    for label in ("0", "1"):
        base = rng.integers(0, 200, (16, 16, 3), np.uint8)
        for name, image in (("a", base), ("b", base + 3), ("c", rng.integers(0, 255, (16, 16, 3), np.uint8))):
            found[f"{label}/{name}"] = png(image)
    return found


@pytest.fixture
def folder(tmp_path):
    for key, data in files().items():
        path = tmp_path / "in" / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    return tmp_path / "in"


def names(found, number):
    return {name for name, _ in found.pair(number)}


def test_the_pairs_of_a_folder_and_where_they_are(folder):
    found = input.read(str(folder), *LIMITS)
    assert names(found, 0) | names(found, 1) == {"0/a.png", "0/b.png", "1/a.png", "1/b.png"}
    assert all(len({name[0] for name in names(found, i)}) == 1 for i in range(len(found.pairs)))
    assert found.pair(0) == found.pair(len(found.pairs))
    data = (folder / "0/a.png").read_bytes()
    assert found.origins[hashlib.sha256(data).hexdigest()] == f"{folder}/0/a.png"


def test_shards_give_the_same_pairs_and_no_files(folder, tmp_path):
    samples = [(k.replace("/", "-"), {"png": d, "cls": k[0].encode()}) for k, d in files().items()]
    (tmp_path / "x.tar").write_bytes(shards.pack(samples))
    found, same = input.read(str(tmp_path / "x.tar"), *LIMITS), input.read(str(folder), *LIMITS)
    assert [[d for _, d in found.pair(i)] for i in range(2)] == [
        [d for _, d in same.pair(i)] for i in range(2)
    ]
    assert found.origins == {}


def test_no_pictures_are_one_line(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="two pictures at least"):
        input.read(str(tmp_path / "in"), *LIMITS)
    with pytest.raises(ValueError, match="no such folder or shard"):
        input.check(str(tmp_path / "nothing"))
