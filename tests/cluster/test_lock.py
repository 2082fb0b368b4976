"""One driver an output folder: the second is refused, the dead one's folder is taken over."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import asdict, replace

import pytest

from noiseweave.cluster import lock, processes, storage
from noiseweave.cluster.lock import Holder, InUseError, held
from noiseweave.cluster.storage import StorageError

HOLD = """
import sys, time
from noiseweave.cluster import lock
lock.BEAT = 0.2
with lock.held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["local", "memory"])
def output(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path / "out")
        return
    url = f"memory://{uuid.uuid4().hex}/out"
    yield url
    storage.remove(url)


@pytest.fixture
def quick(monkeypatch):
    for name, seconds in (("BEAT", 0.1), ("STALE", 0.6), ("LOOK", 0.05), ("SETTLE", 0.05)):
        monkeypatch.setattr(lock, name, seconds)


def put(output, **changes):
    """A lock as somebody else's process would have left it, or holds it."""
    holder = replace(Holder(id="other"), **changes)
    storage.write_json(storage.join(output, lock.NAME), asdict(holder))
    return holder


def elsewhere(output, **changes):
    return put(output, host="far", pid=7, machine="00000000", **changes)


def dead():
    """The number of a process of this machine that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_it_is_there_while_the_block_runs(output):
    with held(output):
        found = storage.read_json(storage.join(output, lock.NAME))
        assert (found["pid"], found["host"]) == (os.getpid(), os.uname().nodename)
    assert storage.names_in(output) == []
    with held(output):  # one process, one run after another
        pass


def test_a_second_driver_is_refused_and_told_of_the_first(output):
    with held(output):
        with (
            pytest.raises(InUseError, match=rf"being written by process {os.getpid()} on ") as error,
            held(output),
        ):
            pytest.fail("two drivers")
        assert "\n" not in str(error.value)
        assert storage.exists(storage.join(output, lock.NAME))


def test_a_second_process_is_refused_at_once(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as first:
        assert first.stdout.readline() == b"held\n"
        start = time.monotonic()
        with pytest.raises(InUseError, match=f"process {first.pid} on"), held(str(tmp_path)):
            pytest.fail("two drivers")
        assert time.monotonic() - start < 5
        first.kill()
        first.wait()
    start = time.monotonic()
    with held(str(tmp_path)):  # killed: its folder is free at once
        assert time.monotonic() - start < 5


def test_a_zombie_is_dead(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as first:
        first.stdout.readline()
        first.send_signal(signal.SIGKILL)
        while processes.started(first.pid) is not None:
            time.sleep(0.01)
        with held(str(tmp_path)):  # nobody has asked for its exit code yet
            pass


def test_of_another_host_a_sign_of_life_refuses(output, quick, monkeypatch, capsys):
    first = elsewhere(output)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: put(output, **asdict(replace(first, beats=1))))
    with pytest.raises(InUseError, match="process 7 on far"), held(output):
        pytest.fail("two drivers")
    assert "process 7 on far may still be writing" in capsys.readouterr().err


def test_of_another_host_silence_is_death(output, quick):
    elsewhere(output)
    start = time.monotonic()
    with held(output):
        assert time.monotonic() - start >= lock.STALE
        assert storage.read_json(storage.join(output, lock.NAME))["pid"] == os.getpid()


def test_what_is_released_meanwhile_is_free(output, quick, monkeypatch):
    elsewhere(output)
    monkeypatch.setattr(lock, "STALE", 60.0)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: storage.remove(storage.join(output, lock.NAME)))
    with held(output):
        pass


def test_a_number_given_again_is_not_taken_for_the_first_process(output, quick):
    put(output, started=processes.started(os.getpid()) - 3600)
    start = time.monotonic()
    with held(output):
        assert time.monotonic() - start >= lock.STALE  # it might be the clock that was set


@pytest.mark.parametrize("text", [b"", b"{", b'{"who": 1}', b"[]"])
def test_a_lock_that_says_nothing_is_watched(text, output, quick):
    storage.check_writable(output)
    storage.write(storage.join(output, lock.NAME), text)
    with held(output):
        pass


def test_of_two_who_take_over_one_remains(output, quick, monkeypatch):
    put(output, pid=dead())
    write = storage.write

    def raced(path, data):
        write(path, data)
        if path.endswith(lock.NAME):
            monkeypatch.setattr(storage, "write", write)
            write(path, json.dumps(asdict(replace(Holder(), id="third"))).encode())

    monkeypatch.setattr(storage, "write", raced)
    with pytest.raises(InUseError), held(output):
        pytest.fail("two drivers")


def test_a_folder_that_goes_is_one_line_at_the_end(output):
    def job():
        with held(output):
            storage.remove(output)
            storage.write(storage.join(output, "a"), b"written into nothing")

    with pytest.raises(StorageError, match="is gone") as error:
        job()
    assert repr(output) in str(error.value)


def test_it_is_the_reason_of_what_fails_then(output):
    def job():
        with held(output):
            storage.remove(output)
            storage.read(storage.join(output, "a"))

    with pytest.raises(StorageError, match="is gone"):
        job()


def test_what_fails_otherwise_keeps_its_words(output):
    with pytest.raises(StorageError, match=r"PermissionError: .*13.* no: 'place'"), held(output):
        raise PermissionError(13, "no", "place")
    with pytest.raises(ValueError, match="mine"), held(output):
        raise ValueError("mine")
    assert storage.names_in(output) == []


def test_a_driver_that_lost_its_folder_ends(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as first:
        assert first.stdout.readline() == b"held\n"
        elsewhere(str(tmp_path / "out"))  # as after a laptop's sleep
        assert first.wait(20) == 1
        said = first.stderr.read().decode()
    assert said.count("\n") == 1
    assert "was taken over by process 7 on far" in said
    assert storage.read_json(str(tmp_path / "out" / lock.NAME))["host"] == "far"


def test_it_beats(output, quick):
    with held(output):
        end = time.monotonic() + 20
        while storage.read_json(storage.join(output, lock.NAME))["beats"] < 3:
            assert time.monotonic() < end
            time.sleep(0.02)


def test_a_store_that_fails_now_and_then_ends_nothing(output, quick, monkeypatch):
    read = storage.read
    with held(output):
        monkeypatch.setattr(storage, "read", lambda path: (_ for _ in ()).throw(TimeoutError("later")))
        time.sleep(0.5)
        monkeypatch.setattr(storage, "read", read)


def test_where_nothing_can_be_written_that_is_said(tmp_path):
    (tmp_path / "file").write_text("a regular file")
    with pytest.raises(ValueError, match="cannot be written"), held(str(tmp_path / "file" / "out")):
        pytest.fail("written")
