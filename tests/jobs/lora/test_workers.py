"""Two workers see what one sees with twice the batch, and a killed driver's run comes to the same adapter."""

import contextlib
import dataclasses
import io
import os
import signal
import subprocess
import sys
import time

import loras
import pytest
import safetensors.torch
import torch
import training as helper
from loras import SMALL, alone, config_of, filled, make
from ray import cloudpickle

from noiseweave.cluster import lock, training
from noiseweave.cluster.session import Session
from noiseweave.jobs.cli import main
from noiseweave.jobs.lora.loop import loop
from noiseweave.jobs.lora.task import Task

os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"
cloudpickle.register_pickle_by_value(helper)
cloudpickle.register_pickle_by_value(loras)
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def followed(task, link):
    helper.fresh()
    both = helper.Both(link)
    loop(task, both)
    link.post({"rows": both.rows})


@pytest.mark.slow
def test_two_workers_see_what_one_sees_with_twice_the_batch(ray_session, hole_folder, tmp_path):
    data, rows = make(tmp_path / "data"), []
    more = ("--steps", "20", "--cache", tmp_path / "cache", "--lr", "1e-3")
    half = config_of(data, hole_folder, tmp_path / "two", *more, "--batch", "2")
    double = config_of(data, hole_folder, tmp_path / "one", *more, "--batch", "4")
    source = filled(double)
    session = Session(workers=2, gpus_per_worker=0, threads=1, retries=0)
    failure = training.run_training(
        followed,
        Task(config=half, source=source, threads=1, workers=2),
        folder=str(tmp_path / "two" / "checkpoints"),
        session=session,
        max_failures=0,
        keep=1,
        watch=lambda row: rows.extend(row["rows"]),
    )
    assert failure is None
    one = alone(double, source).losses()
    assert len(one) == 20
    assert [row["loss"] for row in rows] == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
def test_a_folder_that_one_of_two_workers_cannot_see_ends_both(ray_session, hole_folder, tmp_path):
    config = config_of(make(tmp_path / "data"), hole_folder, tmp_path / "two", "--cache", "off")
    source = filled(config)
    task = Task(config=config, source=source, threads=1, workers=2)
    session = Session(workers=2, gpus_per_worker=0, threads=1, retries=0)
    failure = training.run_training(
        half_blind,
        task,
        folder=str(tmp_path / "two" / "checkpoints"),
        session=session,
        max_failures=0,
        keep=1,
    )
    assert failure.startswith("'/not/here' is not to be seen on node ")


def half_blind(task, link):
    if link.rank == 1:
        task = dataclasses.replace(task, source=dataclasses.replace(task.source, folders=("/not/here",)))
    loop(task, link)


@pytest.mark.slow
def test_a_killed_driver_goes_on_to_the_adapter_of_an_undisturbed_run(ray_session, hole_folder, tmp_path):
    data, output = make(tmp_path / "data"), tmp_path / "killed"
    more = (
        "--steps",
        "30",
        "--checkpoint.every",
        "5",
        "--lora.dropout",
        "0.1",
        "--ema",
        "0.9",
        "--lr",
        "1e-3",
    )
    words = ["--data_root", data, "--model", hole_folder, "--out", output, *SMALL, *more]
    command = ["lora", *map(str, words)]
    driver = subprocess.Popen(
        [sys.executable, "-m", "noiseweave", *command, "--cluster.address", "local"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until = time.monotonic() + 600
    while not training.checkpoints(str(output / "_run" / "checkpoints")):
        assert driver.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert not (output / "report.json").exists()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main([*command, "--cluster.address", "auto"]) == 0
    assert "finished already" not in said.getvalue()
    config = config_of(data, hole_folder, tmp_path / "whole", *more, "--cache", output / "_run" / "cache")
    # as many threads as a driver's worker has: sums in another order part by more than 1e-5 in the end
    link = alone(config, filled(config), threads=os.cpu_count())
    whole = loras.weights(link, 30)
    ours = safetensors.torch.load_file(output / "lora_unet.safetensors")
    assert ours.keys() == whole.keys()
    for name, w in whole.items():
        torch.testing.assert_close(ours[name], w, atol=1e-5, rtol=0, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("address", ["inline", "local"])
def test_ctrl_c_ends_it_at_once(address, hole_folder, tmp_path):
    output = tmp_path / "out"
    words = ["lora", "--data_root", make(tmp_path / "data"), "--model", hole_folder, "--out", output, *SMALL]
    words += ["--steps", "100000", "--checkpoint.every", "5"]
    command = [*list(map(str, words)), "--cluster.address", address]
    code, seconds, said = helper.interrupted(command, output)
    assert code == 130
    assert said.splitlines()[-1] == "stopped; the same command goes on from here"
    assert "Traceback" not in said
    assert seconds < 30  # on a quiet machine 3
    assert not (output / lock.NAME).exists()
