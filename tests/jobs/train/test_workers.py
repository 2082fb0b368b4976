"""Two workers over gloo see what one sees with twice the batch, and any kill is gone on from."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time

import pytest
import training as helper
from ray import cloudpickle
from training import alone, arguments, assert_same_weights, config_of, log_of, make_digits, make_shards

from noiseweave.cluster import lock, training
from noiseweave.cluster.session import Session
from noiseweave.jobs.cli import main
from noiseweave.jobs.train.loop import loop

os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"
# Workers cannot import a test file: its functions travel whole.
cloudpickle.register_pickle_by_value(helper)
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.slow

KINDS = {
    "ddpm": ["--accumulate", "2"],
    "flow": ["--model.kind", "flow", "--objective.coupling", "optimal_transport", "--model.classes", "10"],
    "vae": ["--model.kind", "vae", "--data.size", "16"],
    "dcgan": ["--model.kind", "dcgan", "--data.size", "16"],
}


def several(tasks, link):
    """Several train loops in the same workers, which are slow to start; each has its own process group."""
    import torch.distributed as dist

    for name, (task, store) in tasks.items():
        if not dist.is_initialized():
            dist.init_process_group(
                "gloo", init_method=f"file://{store}", rank=link.rank, world_size=link.world
            )
        helper.fresh()
        one = helper.Both(link)
        loop(task, one)
        link.post({"name": name, "rows": one.rows})


@pytest.fixture(scope="module")
def both(ray_session, tmp_path_factory):
    """Each kind's config, and its rows as two workers and one worker see them; one shard for all."""
    folder = tmp_path_factory.mktemp("both")
    digits = make_digits(folder / "digits")
    configs = {k: config_of(digits, folder / k, *more) for k, more in KINDS.items()}
    tasks = {k: (helper.task_of(c), str(folder / f"{k}.store")) for k, c in configs.items()}
    session, rows = Session(workers=2, gpus_per_worker=0, threads=1, retries=0), {}
    failure = training.run_training(
        several,
        tasks,
        folder=str(folder) + "/checkpoints",
        session=session,
        max_failures=0,
        keep=1,
        watch=lambda row: rows.update({row["name"]: row["rows"]}),
    )
    assert failure is None
    return {k: (c, rows[k]) for k, c in configs.items()}


@pytest.mark.parametrize("kind", ["ddpm", "flow", "vae"])
def test_two_workers_see_what_one_sees_with_twice_the_batch(kind, both):
    config, rows = both[kind]
    one = alone(config).losses()
    assert len(one) == 20
    assert [row["loss"] for row in rows] == pytest.approx(one, rel=1e-4)


def test_a_dcgan_trains_on_two_workers(both):
    """Batch norm sees a worker's share alone, so the losses are near and not the same."""
    config, rows = both["dcgan"]
    one = alone(config)
    for name in ("loss_d", "loss_g"):
        assert [row[name] for row in rows[:5]] == pytest.approx(one.losses(name)[:5], rel=0.2)


def test_a_killed_driver_resumes_on_two_workers_to_the_same_weights(ray_session, tmp_path):
    shards = make_shards(tmp_path / "shards")
    output, whole = tmp_path / "killed", tmp_path / "whole"
    words = arguments(shards, output, "--cluster.address", "local")
    command = [sys.executable, "-m", "noiseweave", "train", *words]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 600
    while not training.checkpoints(str(output / "_run" / "checkpoints")):
        assert driver.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert not (output / "model_index.json").exists()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert (
            main(["train", *arguments(shards, output), "--cluster.address", "auto", "--cluster.workers", "2"])
            == 0
        )
    assert "finished already" not in said.getvalue()
    link = alone(config_of(shards, whole))
    helper.published(config_of(shards, whole), link, tmp_path / "last")
    assert_same_weights(whole, output, atol=1e-4)
    losses = {step: row["loss"] for step, row in log_of(output).items()}
    undisturbed = dict(enumerate(link.losses(), 1))
    assert losses == pytest.approx(undisturbed, rel=1e-4), "the log goes on, without a gap"


@pytest.mark.parametrize("address", ["inline", "local"])
def test_ctrl_c_ends_it_at_once(address, tmp_path):
    output = tmp_path / "out"
    words = ["train", *arguments(make_shards(tmp_path / "data"), output, "--steps", "100000")]
    command = [*words, "--cluster.address", address]
    code, seconds, said = helper.interrupted(command, output)
    assert code == 130
    assert said.splitlines()[-1] == "stopped; the same command goes on from here"
    assert "Traceback" not in said
    assert seconds < 30  # on a quiet machine 3
    assert not (output / lock.NAME).exists()
