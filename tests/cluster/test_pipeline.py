"""The one flow, on either executor: every unit once, errors counted; on Ray, killers of workers survived."""

import os
import platform
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from noiseweave.cluster import allocator, pipeline, storage
from noiseweave.cluster.ledger import Ledger, open_run
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Phase
from noiseweave.cluster.storage import StorageError
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine.records import Quarantined


def unit(i):
    return Unit(index=i, id=f"u{i:03d}", payload=i)


def fetch(folder, u):
    if u.payload == 3:
        raise OSError("no such shard")
    return u.payload


def make_double(folder):
    def double(x):
        if x == 5:
            raise RuntimeError("cannot compute 5")
        if x == 7:  # takes its process with it, each time
            os._exit(1)
        flag = os.path.join(folder, f"tried-{x}")
        if x == 9 and not os.path.exists(flag):  # once only
            open(flag, "w").close()
            os._exit(1)
        return 2 * x

    return double


def make_meeting(folder):
    def meet(x):  # ends when the other unit has begun too
        open(os.path.join(folder, f"begun-{x}"), "w").close()
        end = time.monotonic() + 300
        while not all(os.path.exists(os.path.join(folder, f"begun-{i}")) for i in (0, 1)):
            if time.monotonic() > end:
                raise TimeoutError("the other unit waits behind this one")
            time.sleep(0.05)
        return x

    return meet


def make_settings():
    return lambda x: [x, {name: os.environ.get(name) for name in allocator.SETTINGS}]


def commit_settings(folder, u, result):
    storage.write_json(os.path.join(folder, "settings"), result)
    return UnitReport(id=u.id, produced=1), []


def unit_from_100(i):
    return unit(100 + i)


def make_same():
    return lambda x: x


def make_broken():
    raise ValueError("model 'nothing': no such folder")


def commit(folder, u, result):
    bad = [Quarantined(shard="s", key=u.id, reason="odd")] if u.payload % 2 else []
    with open(os.path.join(folder, "writes"), "a") as f:
        f.write(f"{u.id}\n")
    storage.write(os.path.join(folder, f"{u.id}.txt"), str(result).encode())
    return UnitReport(id=u.id, produced=1, extra={"sum": result}), bad


def phase(folder, make=None):
    return Phase(
        name="double",
        fetch=partial(fetch, folder),
        make_compute=make or partial(make_double, folder),
        commit=partial(commit, folder),
    )


@pytest.fixture
def ours(ray_session):
    """Functions of this file travel by value: workers cannot import it."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return Session(workers=2, gpus_per_worker=1, threads=1, retries=1)


HERE = Session(workers=1, gpus_per_worker=0, threads=1, retries=1, inline=True)


@pytest.fixture(params=["inline", "ray"])
def either(request):
    """Each executor."""
    return HERE if request.param == "inline" else request.getfixturevalue("ours")


def make_flaky(folder):
    def double(x):
        if x == 5:
            raise RuntimeError("cannot compute 5")
        flag = os.path.join(folder, f"tried-{x}")
        if x == 9 and not os.path.exists(flag):  # once only
            open(flag, "w").close()
            raise OSError("not now")
        return 2 * x

    return double


def test_errors_are_reported_and_the_rest_is_done(either, tmp_path, capsys):
    folder = str(tmp_path)
    flaky = phase(folder, partial(make_flaky, folder))
    outcome = pipeline.run(Plan(length=12, unit=unit), flaky, Ledger(output=folder), either)
    good = [i for i in range(12) if i not in (3, 5)]
    assert outcome.units == 12
    assert sorted(outcome.failed) == ["u003", "u005"]
    assert outcome.failed["u003"].startswith("OSError: no such shard (test_pipeline.py:")
    assert outcome.failed["u005"].startswith("RuntimeError: cannot compute 5 (test_pipeline.py:")
    assert outcome.produced == len(good)
    assert outcome.extra["sum"] == sum(2 * i for i in good)
    assert outcome.quarantined == {"odd": sum(i % 2 for i in good)}
    assert all((tmp_path / f"u{i:03d}.txt").read_text() == str(2 * i) for i in good)
    assert sorted((tmp_path / "writes").read_text().split()) == [f"u{i:03d}" for i in good], "each once"
    assert "double: 3 units without a result are run once more" in capsys.readouterr().err
    records = list(Ledger(output=folder).records("double"))
    assert all(set(r["spent"]) == {"fetch", "compute", "commit"} for r in records)
    host, process = records[0]["worker"].split("/")
    assert host == platform.node()
    assert (int(process) == os.getpid()) == either.inline


@pytest.mark.slow
def test_errors_and_killers_are_reported_and_the_rest_is_done(ours, tmp_path):
    folder = str(tmp_path)
    outcome = pipeline.run(Plan(length=20, unit=unit), phase(folder), Ledger(output=folder), ours)
    good = [i for i in range(20) if i not in (3, 5, 7)]
    assert outcome.units == 20
    assert sorted(outcome.failed) == ["u003", "u005", "u007"]
    assert "no such shard" in outcome.failed["u003"]
    assert "cannot compute 5" in outcome.failed["u005"]
    assert "worker died" in outcome.failed["u007"]
    assert outcome.produced == len(good)
    assert outcome.extra["sum"] == sum(2 * i for i in good)
    assert outcome.quarantined == {"odd": sum(i % 2 for i in good)}
    assert all((tmp_path / f"u{i:03d}.txt").read_text() == str(2 * i) for i in good)
    records = list(Ledger(output=folder).records("double"))
    assert all(set(r["spent"]) == {"fetch", "compute", "commit"} for r in records)
    assert all(abs(sum(r["spent"].values()) - r["seconds"]) < 1e-3 for r in records)
    host, process = records[0]["worker"].split("/")
    assert host == platform.node()
    assert int(process) != os.getpid()


def test_a_worker_is_started_with_the_allocators_settings(ours, tmp_path):
    """Set in the process they would come too late: Ray's threads are there before our code."""
    folder = str(tmp_path)
    kept = replace(phase(folder, make_settings), commit=partial(commit_settings, folder))
    assert pipeline.run(Plan(length=1, unit=unit), kept, Ledger(output=folder), ours).produced == 1
    assert storage.read_json(os.path.join(folder, "settings")) == [0, allocator.environment({})]


def test_no_unit_of_a_short_plan_waits_behind_another_while_a_worker_starts(ours, tmp_path):
    folder = str(tmp_path)
    meeting = phase(folder, partial(make_meeting, folder))
    outcome = pipeline.run(Plan(length=2, unit=unit), meeting, Ledger(output=folder), ours)
    assert (outcome.produced, outcome.failed) == (2, {})
    assert len({r["worker"] for r in Ledger(output=folder).records("double")}) == 2


def test_what_has_a_marker_is_not_done_again(either, tmp_path):
    folder = str(tmp_path)
    book = Ledger(output=folder)
    book.mark("double", UnitReport(id="u000", produced=1, extra={"sum": 100}), [])
    plan = Plan(length=2, unit=unit)
    outcome = pipeline.run(plan, phase(folder), book, either)
    assert (tmp_path / "writes").read_text().split() == ["u001"]
    assert outcome.extra["sum"] == 102
    again = pipeline.run(plan, phase(folder), book, either)
    assert (tmp_path / "writes").read_text().split() == ["u001"]
    assert again.produced == 2


def test_a_model_that_cannot_be_loaded_is_each_units_error(either, tmp_path):
    folder = str(tmp_path)
    broken = phase(folder, make_broken)
    outcome = pipeline.run(Plan(length=2, unit=unit), broken, Ledger(output=folder), either)
    assert sorted(outcome.failed) == ["u000", "u001"]
    assert "no such folder" in outcome.failed["u000"]


def test_what_a_stalled_first_pass_leaves_the_second_does(ours, tmp_path, monkeypatch, capsys):
    import ray.data
    from ray.data.exceptions import ExecutionTimeoutError

    passes, rows = [], ray.data.Dataset.iter_rows

    def stalls_once(dataset):
        passes.append(dataset.context.execution_no_progress_timeout_s)
        if len(passes) == 1:
            raise ExecutionTimeoutError("no progress for 600s\nmore")  # as Ray's guard does; no RayError
        return rows(dataset)

    monkeypatch.setattr(ray.data.Dataset, "iter_rows", stalls_once)
    plan, folder = Plan(length=2, unit=unit), str(tmp_path)
    patient = replace(phase(folder), patience=77.0)
    outcome = pipeline.run(plan, patient, Ledger(output=folder), ours)
    assert (outcome.produced, outcome.failed, passes) == (2, {}, [77.0, 77.0])
    assert "double: pipeline broke off: no progress for 600s\n" in capsys.readouterr().err


def test_an_empty_plan_needs_no_pipeline(tmp_path):
    for inline in (False, True):
        session = Session(workers=1, gpus_per_worker=0, threads=1, retries=0, inline=inline)
        outcome = pipeline.run(
            Plan(length=0, unit=unit), phase(str(tmp_path)), Ledger(output=str(tmp_path)), session
        )
        assert outcome.units == outcome.produced == 0


# inline alone


def test_the_next_unit_is_fetched_while_one_is_computed_and_no_other(tmp_path):
    count, threads, fetched = 4, set(), [threading.Event() for _ in range(6)]

    def fetch(u):
        threads.add(threading.get_ident())
        fetched[u.payload].set()
        return u.payload

    def compute(x):
        assert x == count - 1 or fetched[x + 1].wait(60), "the next unit waits until this one is done"
        assert not fetched[x + 2].is_set()
        threads.discard(threading.get_ident())
        return x

    here = replace(phase(str(tmp_path), lambda: compute), fetch=fetch)
    outcome = pipeline.run(Plan(length=count, unit=unit), here, Ledger(output=str(tmp_path)), HERE)
    assert (outcome.produced, outcome.failed) == (count, {})
    assert (tmp_path / "writes").read_text().split() == ["u000", "u001", "u002", "u003"], "in their order"
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_ctrl_c_in_a_unit_ends_the_run_though_the_next_fetch_hangs(tmp_path):
    hangs, for_ever = threading.Event(), threading.Event()

    def fetch(u):
        if u.payload == 1:
            hangs.set()
            for_ever.wait()
        return u.payload

    def compute(x):
        hangs.wait(60)
        raise KeyboardInterrupt

    here = replace(phase(str(tmp_path), lambda: compute), fetch=fetch)
    try:
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(Plan(length=3, unit=unit), here, Ledger(output=str(tmp_path)), HERE)
    finally:
        for_ever.set()
    assert Ledger(output=str(tmp_path)).done("double") == set()


HANGS = """
    import threading
    from noiseweave.cluster import pipeline, stages
    from noiseweave.cluster.ledger import Ledger
    from noiseweave.cluster.session import ClusterConfig, session
    from noiseweave.cluster.units import Plan, Unit
    def fetch(u):
        print("hangs", flush=True)
        threading.Event().wait()
    plan = Plan(length=1, unit=lambda i: Unit(index=i, id="u", payload=i))
    phase = stages.Phase(name="p", fetch=fetch, make_compute=lambda: id, commit=id)
    with session(ClusterConfig(address="inline", gpus_per_worker=0)) as s:
        pipeline.run(plan, phase, Ledger(output=OUTPUT), s)
"""


@pytest.mark.timeout(60)
def test_ctrl_c_ends_the_process_though_a_fetch_hangs(tmp_path):
    code = textwrap.dedent(HANGS).replace("OUTPUT", repr(str(tmp_path)))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as job:
        assert job.stdout.readline() == b"hangs\n"
        job.send_signal(signal.SIGINT)
        assert job.stderr.read().endswith(b"KeyboardInterrupt\n")
    assert job.returncode == -signal.SIGINT


def commit_into_nothing(folder, u, result):
    with open(os.path.join(folder, "tries"), "a") as f:
        f.write(f"{u.id}\n")
    storage.write(os.path.join(folder, "a file", f"{u.id}.txt"), b"")
    return UnitReport(id=u.id, produced=1), []


def test_storage_that_fails_lastingly_ends_the_run_at_once(either, tmp_path, capsys):
    """No second pass, no thousand units for nothing; the line names host and place."""
    (tmp_path / "a file").write_text("where a folder should be")
    broken = replace(phase(str(tmp_path), make_same), commit=partial(commit_into_nothing, str(tmp_path)))
    where = re.escape(f"{platform.node()}: {tmp_path}/a file/u")
    with pytest.raises(StorageError, match=rf"^{where}\d+.txt cannot be written: .*; the same command"):
        pipeline.run(Plan(length=400, unit=unit_from_100), broken, Ledger(output=str(tmp_path)), either)
    assert len((tmp_path / "tries").read_text().split()) < 300
    assert "once more" not in capsys.readouterr().err


# the ledger


def test_another_config_is_refused_and_names_the_fields(tmp_path):
    out = str(tmp_path / "out")
    open_run(out, {"seed": 1, "pairing": {"top_k": 3, "modes": ("a",)}})
    open_run(out, {"seed": 1, "pairing": {"top_k": 3, "modes": ("a",)}})
    with pytest.raises(ValueError, match=r"pairing.top_k 3 -> 4, seed 1 -> 2"):
        open_run(out, {"seed": 2, "pairing": {"top_k": 4, "modes": ("a",)}})


def test_overwrite_deletes_only_what_the_job_owns(tmp_path):
    out = tmp_path / "out"
    open_run(str(out), {"seed": 1})
    (out / "shards").mkdir()
    (out / "shards" / "a.tar").write_text("x")
    (out / "mine.txt").write_text("keep")
    open_run(str(out), {"seed": 2}, overwrite=True, owned=("shards",))
    assert not (out / "shards").exists()
    assert (out / "mine.txt").exists()


def test_what_another_job_or_a_person_put_there_is_never_written_over(tmp_path):
    packed, trained = tmp_path / "packed", tmp_path / "trained"
    (packed / "shards").mkdir(parents=True)
    (packed / "shards" / "shard-000000.tar").write_text("precious")
    open_run(str(trained), {"job": "train"})
    for folder in (packed, trained):
        for overwrite in (False, True):
            with pytest.raises(ValueError, match="which no augment run wrote"):
                open_run(str(folder), {"job": "augment"}, overwrite, ("shards",))
    assert (packed / "shards" / "shard-000000.tar").read_text() == "precious"


@pytest.mark.parametrize(("units", "workers"), [(1, 1), (7, 3), (5000, 1), (20_000, 64), (1_000_000, 64)])
def test_the_blocks_hold_each_unit_once_and_shrink_towards_the_end(units, workers):
    left = np.arange(3, 3 + 2 * units, 2)
    blocks = pipeline._blocks(left, workers)
    np.testing.assert_array_equal(np.concatenate(blocks), left)
    sizes = [len(b) for b in blocks]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == -(-units // 4096)
    least = -(-sizes[0] // 2)
    assert set(sizes[-min(workers, units) : -1]) <= {least}
    assert 1 <= sizes[-1] <= least
    assert len(blocks) < 2 * 4096


def test_tallies_are_added_up_over_units(tmp_path):
    book = Ledger(output=str(tmp_path))
    for i, modes in enumerate((Counter(a=2, b=1), {"a": 1})):
        book.mark("p", UnitReport(id=str(i), produced=1, tallies={"modes": modes}), [])
    outcome = Outcome(units=2)
    for record in book.records("p"):
        outcome.add(record)
    assert outcome.tallies["modes"] == {"a": 3, "b": 1}
    assert outcome.tallies["rejected"] == {}


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"id": 3}'])
def test_a_damaged_done_marker_is_named_and_no_traceback(content, tmp_path):
    book = open_run(str(tmp_path / "out"), {"job": "x"})
    for i in range(2):
        book.mark("phase", UnitReport(id=f"{i:06d}", produced=1), [])
    assert [record["id"] for record in book.records("phase")] == ["000000", "000001"]
    storage.write(book.path("done", "phase", "000001.json"), content)
    with pytest.raises(storage.Damaged, match=r"000001\.json: a damaged done-marker; delete it"):
        list(book.records("phase"))
    assert [record is None for _, record in book.found("phase")] == [False, True]


def test_a_damaged_config_of_a_run_is_named(tmp_path):
    storage.write(str(tmp_path / "out/_run/config.json"), b"{")
    with pytest.raises(storage.Damaged, match=r"config\.json: no JSON"):
        open_run(str(tmp_path / "out"), {"job": "x"})
