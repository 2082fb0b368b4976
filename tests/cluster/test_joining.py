"""Files made of others: whole, in order, or not there."""

import pytest

from noiseweave.cluster import joining, storage


def parts_in(folder):
    paths = [storage.join(folder, f"{i}.txt") for i in range(3)]
    for i, path in enumerate(paths):
        storage.write(path, b"%d\n" % i * (i + 1))
    return paths


@pytest.mark.parametrize("place", ["here", "memory://joined"])
def test_a_file_has_all_parts_in_their_order(place, tmp_path):
    folder = str(tmp_path / place) if place == "here" else place
    parts = parts_in(folder)
    path = storage.join(folder, "deeper", "all.txt")
    joining.join_files(parts[::-1], path)
    assert storage.read(path) == b"2\n2\n2\n1\n1\n0\n"
    joining.join_files([], path)
    assert storage.read(path) == b""
    storage.remove(folder)


def test_what_cannot_be_read_to_the_end_leaves_the_old_file_and_nothing_else(tmp_path):
    parts = parts_in(str(tmp_path))
    storage.write(str(tmp_path / "all.txt"), b"old")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(storage.StorageError):
        joining.join_files([*parts, str(tmp_path / "none.txt")], str(tmp_path / "all.txt"))
    assert (tmp_path / "all.txt").read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == before
