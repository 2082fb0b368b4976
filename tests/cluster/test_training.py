"""A train loop on Ray Train, or in this process: workers, checkpoints, kills. The loops here need no model."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from ray import cloudpickle
from ray.train import WorkerGroupError

from noiseweave.cluster import allocator, storage, training
from noiseweave.cluster.session import Session

os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"
# Workers cannot import a test file: its loops travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def session(workers, inline=False):
    return Session(workers=workers, gpus_per_worker=0, threads=1, retries=1, inline=inline)


@pytest.fixture(params=["inline", pytest.param("ray", marks=pytest.mark.slow)])
def inline(request):
    """Whether the loop runs in this process; Ray is there where not."""
    return request.param == "inline" or not request.getfixturevalue("ray_session")


def adder(task, link):
    """Adds the ranks of all workers at each step; state is one number in the checkpoint."""
    import torch
    import torch.distributed as dist

    step, total = json.loads(link.load("state.json")) if link.resume else (0, 0)
    link.post({"start": step, "world": link.world})
    assert allocator.environment({}).items() <= os.environ.items(), "as it was started"
    while step < task["steps"]:
        ranks = torch.tensor([float(link.rank + 1)])
        dist.all_reduce(ranks)
        step, total = step + 1, total + int(ranks)
        link.save(step, {"state.json": json.dumps([step, total]).encode()}, {"total": total})
        if step == task.get("die_at") and link.rank == 1 and not os.path.exists(task["dead"]):
            open(task["dead"], "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
    link.post({"total": total})
    if "give_up" in task:
        link.fail(task["give_up"])


def counter(task, link):
    """Counts, with a checkpoint at each step; from ``raise_at`` on it raises, so many times."""
    step = json.loads(link.load("state.json")) if link.resume else 0
    link.post({"start": step, "rank": link.rank, "world": link.world, "gpu": link.gpu})
    while step < task["steps"]:
        step += 1
        link.save(step, {"state.json": json.dumps(step).encode()}, {"step": step})
        if step >= task.get("raise_at", 99) and len(os.listdir(task["raised"])) < task["times"]:
            open(os.path.join(task["raised"], str(step)), "w").close()
            raise ValueError("no luck\nat all")
    if "give_up" in task:
        link.fail(task["give_up"])
    else:
        link.post({"end": step})


def fit(folder, loop, task, workers=1, inline=False):
    rows = []
    failure = training.run_training(
        loop,
        task,
        folder=str(folder) + "/checkpoints",
        session=session(workers, inline),
        max_failures=1,
        keep=2,
        watch=rows.append,
    )
    return failure, rows


@pytest.mark.slow
def test_a_killed_worker_a_torn_checkpoint_and_a_loop_that_gives_up(ray_session, tmp_path):
    task = {"steps": 4, "die_at": 2, "dead": str(tmp_path / "dead")}
    failure, rows = fit(tmp_path, adder, task, workers=2)
    assert failure is None
    assert (tmp_path / "dead").exists()
    starts = [row["start"] for row in rows if "start" in row]
    assert len(starts) == 2, "all begin again, once"
    assert starts[0] == 0
    assert 1 <= starts[1] <= 2, "from the newest checkpoint"
    assert rows[0]["world"] == 2
    assert rows[-1] == {"total": 4 * (1 + 2)}
    folder = tmp_path / "checkpoints"
    assert steps_in(folder) == [3, 4]

    (attempt,) = folder.iterdir()
    (attempt / "checkpoint_manager_snapshot.json").write_text('{"ray_ver')
    storage.write(str(attempt / "step-000000009" / "state.json"), b"[9, ")
    failure, rows = fit(tmp_path, adder, {"steps": 6, "give_up": "no more"})
    assert rows == [{"start": 4, "world": 1}, {"total": 12 + 2}]
    assert failure == "no more", "and it was not tried again"
    assert steps_in(folder) == [5, 6]
    assert len(list(folder.iterdir())) == 1


def test_a_loop_that_raises_goes_on_from_its_last_checkpoint(inline, tmp_path):
    (tmp_path / "raised").mkdir()
    task = {"steps": 5, "raise_at": 2, "times": 1, "raised": str(tmp_path / "raised"), "give_up": "no more"}
    failure, rows = fit(tmp_path, counter, task, inline=inline)
    told = {"rank": 0, "world": 1, "gpu": False}
    assert rows == [{"start": 0, **told}, {"start": 2, **told}]
    assert failure == "no more", "and it was not tried again"
    assert steps_in(tmp_path / "checkpoints") == [4, 5]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1


@pytest.mark.parametrize("inline", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["inline", "ray"])
def test_a_loop_that_raises_again_and_again_is_one_line_and_goes_on_later(inline, request, tmp_path):
    if not inline:
        request.getfixturevalue("ray_session")
    (tmp_path / "raised").mkdir()
    task = {"steps": 9, "raise_at": 6, "times": 3, "raised": str(tmp_path / "raised")}
    with pytest.raises(RuntimeError, match=r"no luck|at all") as error:  # at 6 and, gone on from there, at 7
        fit(tmp_path, counter, task, inline=inline)
    assert "\n" not in str(error.value)
    assert sorted(os.listdir(tmp_path / "raised")) == ["6", "7"]
    failure, rows = fit(tmp_path, counter, {"steps": 8}, inline=inline)
    assert failure is None
    assert [row.get("start", row.get("end")) for row in rows] == [7, 8]
    assert steps_in(tmp_path / "checkpoints") == [7, 8]


KILLED = """
    import os, signal
    from noiseweave.cluster import training
    from noiseweave.cluster.session import Session
    def loop(task, link):
        for step in (1, 2, 3):
            link.save(step, {"state.json": b"%d" % step}, {})
        os.kill(os.getpid(), signal.SIGKILL)
    training.run_training(
        loop, None, folder=FOLDER + "/checkpoints", max_failures=1, keep=2,
        session=Session(workers=1, gpus_per_worker=0, threads=1, retries=1, inline=True),
    )
"""


@pytest.mark.parametrize("inline", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["inline", "ray"])
def test_a_killed_process_goes_on_from_its_last_checkpoint_on_either_executor(inline, request, tmp_path):
    if not inline:
        request.getfixturevalue("ray_session")
    code = textwrap.dedent(KILLED).replace("FOLDER", repr(str(tmp_path)))
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert steps_in(tmp_path / "checkpoints") == [2, 3]
    failure, rows = fit(tmp_path, counter, {"steps": 4}, inline=inline)
    assert failure is None
    assert [row.get("start", row.get("end")) for row in rows] == [3, 4]


def test_ctrl_c_is_no_failure_to_try_again(tmp_path):
    def stopped(task, link):
        link.save(1, {"state.json": b"1"}, {})
        raise KeyboardInterrupt

    rows = []
    with pytest.raises(KeyboardInterrupt):
        training.run_training(
            stopped,
            None,
            folder=str(tmp_path) + "/c",
            session=session(1, inline=True),
            max_failures=3,
            keep=1,
            watch=rows.append,
        )
    assert steps_in(tmp_path / "c") == [1]


def test_a_failed_run_is_one_line():
    traceback = "Traceback:\n  File x\nKeyError: 'no such thing'"
    for cause, line in [
        (ValueError("too small"), "ValueError: too small"),
        (RuntimeError(traceback), "KeyError: 'no such thing'"),
    ]:
        assert training._first_line(WorkerGroupError("2 workers failed", {1: cause})) == line


def steps_in(folder) -> list[int]:
    return [int(name[-9:]) for name in training.checkpoints(str(folder))]


def put(folder, attempt, step, whole=True):
    checkpoint = folder / attempt / training.name_of(step)
    storage.write(str(checkpoint / "state"), str(step).encode())
    if whole:
        storage.write_json(str(checkpoint / training.COMPLETE), {"step": step, "files": ["state"]})


def test_the_newest_whole_checkpoint_of_any_attempt_is_gone_on_from(tmp_path):
    assert training.latest(str(tmp_path)) is None
    assert training.latest(str(tmp_path / "none")) is None
    assert training.begin_attempt(str(tmp_path / "none"))[1] is None
    put(tmp_path, "b", 9)
    put(tmp_path, "a", 10)
    put(tmp_path, "b", 11, whole=False)
    assert steps_in(tmp_path) == [9, 10]
    attempt, resume = training.begin_attempt(str(tmp_path))
    assert os.listdir(tmp_path) == [attempt]
    assert resume == training.latest(str(tmp_path)) == str(tmp_path / attempt / "step-000000010")
    assert storage.read(f"{resume}/state") == b"10"


def test_a_checkpoint_pruned_under_the_copy_gives_way_to_a_newer_one(tmp_path, monkeypatch):
    """What the workers of a killed driver may do for some seconds."""
    put(tmp_path, "old", 1)
    copy = training._copy

    def prune_then_copy(source, target):
        monkeypatch.setattr(training, "_copy", copy)
        put(tmp_path, "old", 2)
        storage.remove(f"{source}/state")
        try:
            copy(source, target)
        finally:
            storage.remove(source)

    monkeypatch.setattr(training, "_copy", prune_then_copy)
    _, resume = training.begin_attempt(str(tmp_path))
    assert storage.read(f"{resume}/state") == b"2"


def test_what_a_late_writer_leaves_goes_at_the_end(tmp_path):
    for step in (1, 2, 3):
        put(tmp_path, "mine", step)
    put(tmp_path, "late", 4)
    training.keep_newest(str(tmp_path), "mine", keep=2)
    assert training.checkpoints(str(tmp_path)) == ["mine/step-000000002", "mine/step-000000003"]
    assert os.listdir(tmp_path) == ["mine"]
