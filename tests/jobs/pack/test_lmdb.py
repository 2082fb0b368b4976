"""LSUN's layout: flat LMDBs of 40-hex keys and WebP bytes, one a category."""

import hashlib
import io
import json
import sys

import pytest
from packing import by_key, contents, picture, quarantine, run
from PIL import Image

from noiseweave.cluster import folders
from noiseweave.jobs import cli

lmdb = pytest.importorskip("lmdb")


def lsun(n: int) -> bytes:
    return hashlib.sha1(str(n).encode()).hexdigest().encode()


def write(path, values: dict[bytes, bytes]):
    path.mkdir(parents=True)
    with lmdb.open(str(path), map_size=1 << 26) as env, env.begin(write=True) as transaction:
        for key, value in values.items():
            assert transaction.put(key, value)
    return path


@pytest.fixture
def bedrooms(tmp_path):
    return write(tmp_path / "bedroom_train_lmdb", {lsun(n): picture(n, "WEBP") for n in range(9)})


def test_webp_values_in_the_order_of_their_keys(bedrooms, tmp_path, capsys):
    before = contents(bedrooms)
    assert run(bedrooms, tmp_path / "out", shard_samples=4) == 0
    found = by_key(tmp_path / "out/shards")
    assert list(found) == sorted(lsun(n).decode() for n in range(9))
    for n in range(9):
        sample = found[lsun(n).decode()]
        assert sample["webp"] == picture(n, "WEBP")
        assert json.loads(sample["json"]) == {"source": lsun(n).decode()}
        assert "cls" not in sample
    assert json.loads((tmp_path / "out/report.json").read_text())["shards"] == 3
    assert "as LMDB (1 of them, 9 values)" in capsys.readouterr().out
    assert contents(bedrooms) == before  # no lock file, nothing written


def test_a_folder_of_lmdbs_is_one_class_each(bedrooms, tmp_path):
    for name in ("tower_train_lmdb", "church_outdoor_train_lmdb"):
        write(tmp_path / name, {lsun(n): picture(n, "JPEG") for n in range(2)})
    write(tmp_path / "tower_val_lmdb", {lsun(7): picture(7)})
    with pytest.raises(ValueError, match=r"tower_train_lmdb and tower_val_lmdb are one class.*--split"):
        run(tmp_path, tmp_path / "out")
    assert run(tmp_path, tmp_path / "out", split="train") == 0
    names = json.loads((tmp_path / "out/classes.json").read_text())
    assert names == ["bedroom", "church_outdoor", "tower"]
    found = by_key(tmp_path / "out/shards")
    assert len(found) == 13
    for key, sample in found.items():
        source = json.loads(sample["json"])["source"]
        assert source.startswith(f"{names[int(sample['cls'])]}_train_lmdb/")
        assert key == f"{names[int(sample['cls'])]}__{source[-40:]}"
    assert run(tmp_path, tmp_path / "one", split="train", keep_labels=(2,), renumber=True) == 0
    assert {s["cls"] for s in by_key(tmp_path / "one/shards").values()} == {b"0"}
    assert json.loads((tmp_path / "one/report.json").read_text())["left_out"] == 11


def test_broken_values_are_named_by_their_own_keys(tmp_path):
    values = {b"a": b"", b"b": b"pickled", b"c": picture(1, "WEBP", (200, 200))[:90], b"d\xff/..": picture(3)}
    write(tmp_path / "in", values | {b"e": b"no picture"})
    assert run(tmp_path / "in", tmp_path / "out") == 0
    (sample,) = by_key(tmp_path / "out/shards").values()
    assert sample["png"] == picture(3)
    assert json.loads(sample["json"])["source"] == "d\\xff/.."
    reasons = {"a": "empty_picture", "b": "not_an_image", "c": "truncated_image", "e": "not_an_image"}
    assert quarantine(tmp_path / "out") == reasons


def test_any_keys_become_distinct_safe_ones():
    plain = [b"a", b"a-b", b"0123456789abcdef0123456789abcdef01234567"]
    odd = [b"a.b", b"a_b.", b"a/b", b"../a", b"\x00\xff", b"", b"n" * 300, b"A" * 16, b"0123456789abcdef"]
    assert [folders.key_of(k) for k in plain] == [k.decode() for k in plain]
    keys = [folders.key_of(k) for k in plain + odd]
    keys += [folders.key_of(k.encode()) for k in keys[len(plain) :] if k != "A" * 16]
    assert len(set(keys)) == len(keys)
    assert all(k.replace("-", "").replace("_", "").isalnum() and k.isascii() for k in keys)


def test_sizes_and_the_same_files_again(bedrooms, tmp_path):
    assert run(bedrooms, tmp_path / "a", size=8, image_format="jpg", validation=0.4, threads=1) == 0
    assert run(bedrooms, tmp_path / "b", size=8, image_format="jpg", validation=0.4, threads=3) == 0
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert a == b  # the manifest has the input, not the output
    for sample in by_key(tmp_path / "a/shards").values():
        assert Image.open(io.BytesIO(sample["jpg"])).size == (8, 8)


def one_line(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(["pack", *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    return error


def test_refusals(bedrooms, tmp_path, capsys, monkeypatch):
    to = ["--output", str(tmp_path / "out")]
    assert "no LMDB in it" in one_line(capsys, "--input", str(tmp_path), "--split", "val", *to)
    assert "has no splits" in one_line(capsys, "--input", str(bedrooms), "--split", "val", *to)
    empty = write(tmp_path / "empty", {})
    assert "the LMDB is empty" in one_line(capsys, "--input", str(empty), *to)
    (empty / "data.mdb").write_bytes(b"no LMDB" * 1000)
    assert "no readable LMDB" in one_line(capsys, "--input", str(empty), *to)
    data = (bedrooms / "data.mdb").read_bytes()
    (bedrooms / "data.mdb").write_bytes(data[: len(data) // 2])
    assert "cut short" in one_line(capsys, "--input", str(bedrooms), *to)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    assert "pip install 'noiseweave[sources]'" in one_line(capsys, "--input", str(bedrooms), *to)
    assert not (tmp_path / "out").exists()
