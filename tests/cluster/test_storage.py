"""Paths and URLs are used alike; a write is whole or not there."""

import errno
import json
import os
import pickle
import resource
import time
import uuid
from pathlib import Path

import pytest

from noiseweave.cluster import processes, storage, temporaries
from noiseweave.cluster.storage import StorageError


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path / "deep" / "er")
        return
    url = f"memory://{uuid.uuid4().hex}/deep"
    yield url
    storage.remove(url)


def test_read_back(folder):
    path = storage.join(folder, "a.bin")
    assert not storage.exists(path)
    storage.write(path, b"0123456789")
    assert storage.exists(path)
    assert storage.size_of(path) == 10
    assert storage.read(path) == b"0123456789"
    assert storage.read(path, 3, 4) == b"3456"
    assert storage.read(path, 7) == b"789"
    assert storage.read(path, 8, 40) == b"89"
    with storage.open_read(path) as f:
        f.seek(5)
        assert f.read(2) == b"56"


def test_read_ranges_in_any_order(folder):
    path = storage.join(folder, "a.bin")
    storage.write(path, bytes(range(200)))
    assert storage.read_ranges(path, [(100, 2), (0, 1), (199, 1), (0, 1)]) == [b"de", b"\0", b"\xc7", b"\0"]
    assert storage.read_ranges(path, iter([])) == []


def test_read_all_in_the_order_asked(folder):
    names = ["b*[1].json", "a.json", "c d+e@f.json"]  # nothing in a name is a pattern
    for name in names:
        storage.write(storage.join(folder, name), name.encode())
    paths = [storage.join(folder, name) for name in names]
    assert storage.read_all(paths) == [name.encode() for name in names]
    assert storage.read_all([]) == []
    with pytest.raises(FileNotFoundError):
        storage.read_all([*paths, storage.join(folder, "none")])


def test_a_missing_file_is_an_error_everywhere(folder):
    path = storage.join(folder, "none")
    for call in (
        storage.read,
        storage.size_of,
        storage.open_read,
        lambda p: storage.read_ranges(p, [(0, 1)]),
    ):
        with pytest.raises(FileNotFoundError):
            call(path)
    storage.remove(path)  # and nothing to remove is none


def test_write_replaces(folder):
    path = storage.join(folder, "a")
    storage.write(path, b"old and long")
    storage.write(path, b"new")
    assert storage.read(path) == b"new"
    assert storage.names_in(folder) == ["a"]


def test_names_are_those_of_files(folder):
    for name in ("b", "a", "sub/c"):
        storage.write(storage.join(folder, name), b"x")
    assert storage.names_in(folder) == ["a", "b"]
    assert storage.names_in(storage.join(folder, "nothing")) == []
    assert storage.is_folder(folder)
    assert not storage.is_folder(storage.join(folder, "a"))
    storage.remove(folder)
    assert storage.names_in(folder) == []


def test_json_holds_any_file_name(folder):
    path = storage.join(folder, "a.json")
    value = {"b": "é", "a": [1, None], "odd": os.fsdecode(b"\xff.jpg")}
    storage.write_json(path, value)
    assert storage.read_json(path) == value
    assert list(json.loads(storage.read(path))) == ["a", "b", "odd"]  # sorted: the same bytes each time
    assert "é".encode() in storage.read(path)


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path, monkeypatch):
    path = str(tmp_path / "a")
    storage.write(path, b"old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        storage.write(path, b"new")
    assert os.listdir(tmp_path) == ["a"]
    assert storage.read(path) == b"old"


def test_nothing_but_temporaries_is_swept(tmp_path, monkeypatch):
    storage.write(str(tmp_path / "sub" / "kept.tar"), b"x")
    (tmp_path / ".mine.tmp").write_bytes(b"a user's own")
    with monkeypatch.context() as m:  # killed between writing and renaming
        m.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        m.setattr(os, "unlink", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            storage.write(str(tmp_path / "sub" / "b.tar"), b"half")
    (left,) = set(os.listdir(tmp_path / "sub")) - {"kept.tar"}
    storage.sweep_temporaries(str(tmp_path))
    assert left in os.listdir(tmp_path / "sub")  # its writer lives
    monkeypatch.setattr(processes, "started", lambda pid: {os.getpid(): None}.get(pid, 1.0))
    storage.sweep_temporaries(str(tmp_path))
    assert os.listdir(tmp_path / "sub") == ["kept.tar"]
    assert (tmp_path / ".mine.tmp").exists()
    storage.sweep_temporaries(str(tmp_path / "nothing there"))


def test_another_machines_temporaries_stay_while_they_may_grow(tmp_path):
    young, old = (tmp_path / f".{n}.tar.ffffffff0000000700000000{n}.tmp" for n in ("00000001", "00000002"))
    for path in (young, old):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - temporaries.OLD - 5,) * 2)
    storage.sweep_temporaries(str(tmp_path))
    assert os.listdir(tmp_path) == [young.name]


def test_a_full_disk_is_one_line_that_names_the_place(tmp_path):
    path = str(tmp_path / "a")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(StorageError) as error:
            storage.write(path, b"x" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(error.value) == f"{path} cannot be written: File too large"
    assert os.listdir(tmp_path) == []
    again = pickle.loads(pickle.dumps(error.value))
    assert (str(again), again.lasting) == (str(error.value), True)


@pytest.mark.parametrize(
    ("error", "lasting"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (PermissionError(errno.EACCES, "Permission denied"), True),
        (ConnectionError("reset"), False),
        (RuntimeError("SlowDown\nplease"), False),
    ],
)
def test_which_errors_another_try_meets_again(error, lasting, monkeypatch):
    monkeypatch.setattr(storage, "_write_local", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(StorageError, match=r"/x/y cannot be written: .*") as found:
        storage.write("/x/y", b"")
    assert found.value.lasting is lasting
    assert "\n" not in str(found.value)


def test_one_creates(folder):
    storage.check_writable(folder)
    path = storage.join(folder, "a")
    assert storage.create(path, b"first")
    assert not storage.create(path, b"second")
    assert storage.read(path) == b"first"


@pytest.mark.parametrize("output", ["{file}/out", "{file}/a/b", "nosuchprotocol://x"])
def test_output_that_cannot_be_written(output, tmp_path):
    (tmp_path / "file").write_text("a regular file")
    with pytest.raises(ValueError, match=r"output .* cannot be written: ") as error:
        storage.check_writable(output.format(file=tmp_path / "file"))
    assert "\n" not in str(error.value)


def test_a_writable_output_stays_empty(folder):
    storage.check_writable(folder)
    assert storage.names_in(folder) == []


@pytest.mark.parametrize(
    ("folder", "joined"),
    [
        ("a", "a/x/y"),
        ("a/", "a/x/y"),
        ("/", "/x/y"),
        ("", "x/y"),
        ("/a//", "/a/x/y"),
        ("memory://", "memory://x/y"),
        ("s3://b", "s3://b/x/y"),
        ("s3://b/", "s3://b/x/y"),
    ],
)
def test_join(folder, joined):
    assert storage.join(folder, "x", "y") == joined


def test_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Path(storage.absolute("a/../b")) == tmp_path / "b"
    assert storage.absolute("~") == os.path.expanduser("~")
    assert storage.absolute("s3://b/a/../c") == "s3://b/a/../c"


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xff", b"[" * 100_000, b"1" * 5000])
def test_json_that_is_none_is_an_error_that_names_the_file(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(storage.Damaged, match=r"a\.json: no JSON"):
        storage.read_json(str(tmp_path / "a.json"))


def test_an_object_is_none_of_another_kind(tmp_path):
    (tmp_path / "a.json").write_bytes(b"[1]")
    with pytest.raises(storage.Damaged, match=r"a\.json: a JSON list where an object is expected"):
        storage.read_object(str(tmp_path / "a.json"))


@pytest.mark.timeout(60)
def test_a_named_pipe_is_not_waited_for(tmp_path):
    path = str(tmp_path / "pipe")
    os.mkfifo(path)
    for read in (
        storage.read,
        lambda p: storage.read(p, 0, 5),
        lambda p: storage.read_ranges(p, [(0, 1)]),
        storage.content_of,
        storage.open_read,
    ):
        with pytest.raises(OSError, match="not a regular file"):
            read(path)
