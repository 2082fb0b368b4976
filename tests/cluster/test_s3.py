"""S3, by a server of moto's on this machine: what storage promises holds there, and a whole job writes there."""

import io
import json
import os
import subprocess
import sys
import tarfile
import uuid

import pytest

from noiseweave.cluster import ledger, lock, shards, storage, training
from noiseweave.cluster.units import UnitReport
from noiseweave.jobs import cli

pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def endpoint():
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as m:
        m.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        m.setenv("AWS_ACCESS_KEY_ID", "nobody")
        m.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        m.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint):
    """URL of an empty bucket."""
    import s3fs

    name = f"bucket-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    return f"s3://{name}"


def elsewhere(path, data):
    """Written by another process, as far as this one's file system knows."""
    import s3fs

    s3fs.S3FileSystem(skip_instance_cache=True).pipe_file(path, data)


def test_what_storage_promises(bucket):
    path = storage.join(bucket, "deep/er/a.bin")
    assert not storage.exists(path)
    storage.write(path, bytes(range(200)))
    assert storage.exists(path)
    assert storage.size_of(path) == 200
    assert storage.read(path, 3, 4) == b"\3\4\5\6"
    assert storage.read(path, 198) == b"\xc6\xc7"
    assert storage.read_ranges(path, [(100, 2), (0, 1), (199, 1)]) == [b"de", b"\0", b"\xc7"]
    with storage.open_read(path) as f:
        f.seek(100)
        assert f.read(2) == b"de"
    storage.write(path, b"new")
    assert storage.read(path) == b"new"
    storage.write(storage.join(bucket, "deep/er/sub/b"), b"x")
    assert storage.names_in(storage.join(bucket, "deep/er")) == ["a.bin"]
    assert storage.folders_in(storage.join(bucket, "deep/er")) == ["sub"]
    assert storage.names_in(storage.join(bucket, "nothing")) == storage.folders_in(f"{bucket}/nothing") == []
    assert storage.is_folder(storage.join(bucket, "deep"))
    with pytest.raises(FileNotFoundError):
        storage.read(storage.join(bucket, "none"))
    storage.remove(storage.join(bucket, "deep"))
    storage.remove(storage.join(bucket, "deep"))
    assert not storage.exists(path)
    assert not storage.is_folder(storage.join(bucket, "deep"))


def test_a_large_object_is_whole_or_not_there(bucket, monkeypatch):
    """Above 100 MB s3fs sends parts; an upload that breaks off leaves the old object."""
    fs, name = storage.system(f"{bucket}/large")
    storage.write(f"{bucket}/large", b"old")
    part, sent = fs._call_s3, []

    async def breaks(method, *words, **more):
        sent.append(method)
        if sent.count("upload_part") == 2:
            raise OSError("the line is cut")
        return await part(method, *words, **more)

    data = os.urandom(1 << 20) * 12
    with monkeypatch.context() as m:
        m.setattr(fs, "_call_s3", breaks)
        with pytest.raises(OSError, match="cut"):
            fs.pipe_file(name, data, chunksize=5 << 20)
    assert storage.read(f"{bucket}/large") == b"old"
    fs.pipe_file(name, data, chunksize=5 << 20)
    assert storage.read(f"{bucket}/large") == data


def test_what_others_write_is_seen(bucket):
    book = ledger.open_run(f"{bucket}/run", {"seed": 1})
    book.mark("p", UnitReport(id="u0", produced=1), [])
    assert book.done("p") == {"u0"}
    assert not storage.exists(book.path("done/p/u1.json"))
    elsewhere(book.path("done/p/u1.json"), b"{}")
    assert storage.exists(book.path("done/p/u1.json"))
    assert book.done("p") == {"u0", "u1"}
    elsewhere(book.path("done/p/u2.json"), b"{}")
    storage.remove(book.path("done"))
    assert book.done("p") == set()


def test_one_creates_and_one_driver_writes(bucket):
    assert storage.create(f"{bucket}/a", b"first")
    assert not storage.create(f"{bucket}/a", b"second")
    assert storage.read(f"{bucket}/a") == b"first"
    second = lock.held(f"{bucket}/run")
    with lock.held(f"{bucket}/run"), pytest.raises(lock.InUseError, match=f"process {os.getpid()} on"):
        second.__enter__()
    assert not storage.exists(f"{bucket}/run")


def test_a_checkpoint_counts_once_its_marker_is_there(bucket):
    run = f"{bucket}/checkpoints"
    step = storage.join(run, "attempt-a", training.name_of(5))
    elsewhere(storage.join(step, "model"), b"weights")
    assert training.latest(run) is None
    elsewhere(storage.join(step, training.COMPLETE), json.dumps({"step": 5, "files": ["model"]}).encode())
    assert training.latest(run) == step
    attempt, copy = training.begin_attempt(run)
    assert attempt != "attempt-a"
    assert storage.read(storage.join(copy, "model")) == b"weights"
    assert storage.folders_in(run) == [attempt]


def test_a_data_set_is_packed_found_and_read(bucket, capsys):
    output = f"{bucket}/digits"
    assert (
        cli.main(["pack", "--dataset", "digits", "--size", "8", "--shard_samples", "900", "--output", output])
        == 0
    )
    found = shards.find(f"{output}/shards")
    assert found == [f"{output}/shards/shard-{i:06d}.tar" for i in range(2)]
    assert (
        shards.find(f"{output}/shards/shard-*.tar")
        == shards.find(f"{output}/shards/shard-00000{{0..1}}.tar")
        == found
    )
    with pytest.raises(ValueError, match=r"no such shard: .*shard-000002.tar \(1 missing\)"):
        shards.find(f"{output}/shards/shard-00000{{0..2}}.tar")
    places, bad = shards.locate(found[1])
    assert (len(places), bad) == (897, [])
    picture = storage.read(places[0].shard, places[0].offset, places[0].size)
    with tarfile.open(fileobj=io.BytesIO(storage.read(found[1]))) as tar:
        assert tar.extractfile(f"{places[0].key}.png").read() == picture
    assert storage.read_json(f"{output}/report.json")["samples"] == 1797
    with pytest.raises(SystemExit) as ended:
        cli.main(["pack", "--dataset", "digits", "--size", "9", "--output", output])
    assert ended.value.code == 2
    assert "holds another packing" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(90)
def test_a_dead_endpoint_is_one_line(endpoint):
    words = ["pack", "--dataset", "digits", "--output", "s3://bucket/digits"]
    dead = os.environ | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "noiseweave", *words], capture_output=True, text=True, env=dead
    )
    assert done.returncode == 2
    # whichever ends first: our own patience or the library's tries
    assert done.stderr.startswith("error: output 's3://bucket/digits' cannot be written: ")
    assert done.stderr.count("\n") == 1
