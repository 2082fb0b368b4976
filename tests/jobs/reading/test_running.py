"""How a model runs is settled once: before a run's identity is taken, and a run that goes on keeps it."""

import json
from dataclasses import replace

import pytest

from noiseweave.cluster import bfloat16
from noiseweave.cluster.bfloat16 import Gpus
from noiseweave.cluster.ledger import open_run
from noiseweave.cluster.session import ClusterConfig, Session
from noiseweave.engine.identity import identity_of
from noiseweave.engine.networks import tuning
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.jobs.reading import running

MODEL, CLUSTER = ModelConfig(name="digits-ddpm"), ClusterConfig(address="inline")
NEW, OLD, NO = Gpus(any=True, bfloat16=True), Gpus(any=True, bfloat16=False), Gpus(any=False, bfloat16=False)


@pytest.fixture
def on(monkeypatch):
    """Workers with these GPUs."""
    return lambda gpus: monkeypatch.setattr(bfloat16, "workers_gpus", lambda config: gpus)


@pytest.mark.parametrize(("gpus", "precision"), [(NEW, "bf16"), (OLD, "fp32"), (NO, "fp32")])
def test_a_new_run_takes_what_its_workers_are_good_at(on, gpus, precision, tmp_path, capsys):
    on(gpus)
    settled = running.with_precision(MODEL, CLUSTER, str(tmp_path), False)
    assert settled == replace(MODEL, precision=precision)
    said = capsys.readouterr().out
    assert said == ("precision: bf16 (model.precision auto)\n" if precision == "bf16" else "")
    assert identity_of(settled)["precision"] == precision


@pytest.mark.parametrize("began", ["bf16", "fp32", "fp16"])
def test_a_run_that_goes_on_elsewhere_keeps_what_it_began_with(on, began, tmp_path):
    output = str(tmp_path)
    open_run(output, {"job": "augment", "model": {"name": "digits-ddpm", "precision": began}})
    for gpus in (NEW, NO):
        on(gpus)
        assert running.with_precision(MODEL, CLUSTER, output, False).precision == began
    on(NEW)
    assert running.with_precision(MODEL, CLUSTER, output, True).precision == "bf16"
    chosen = replace(MODEL, precision="fp16")
    assert running.with_precision(chosen, CLUSTER, output, False) == chosen


def test_what_is_no_run_of_a_model_says_nothing(on, tmp_path):
    on(NEW)
    (tmp_path / "_run").mkdir()
    for content in ({}, {"model.precision": "auto"}, {"model.precision": ["bf16"]}, {"model.precision": 3}):
        (tmp_path / "_run/config.json").write_text(json.dumps(content))
        assert running.recorded(str(tmp_path)) is None
    unnamed = ModelConfig(name="")
    assert running.with_precision(unnamed, CLUSTER, str(tmp_path), False) == unnamed


def test_all_workers_compile_where_each_ones_share_of_the_rows_repays_it(monkeypatch, capsys):
    cost = tuning.Compiling(seconds=10, gain=0.5, rate=tuning.memory.flop_of_a_row(tuning_facts()))
    monkeypatch.setitem(tuning.COMPILING, "cpu", cost)  # a row a second: 20 rows and a thread
    s = Session(workers=2, gpus_per_worker=0, threads=3, retries=0)
    assert running.with_compiling(MODEL, None, 119, s).compile is False
    assert capsys.readouterr().out == ""
    assert running.with_compiling(MODEL, None, 121, s).compile is True
    assert capsys.readouterr().out == "the network is compiled, which 121 rows repay (model.compile auto)\n"
    assert running.with_compiling(MODEL, None, 10**9, replace(s, gpus_per_worker=1)).compile is False
    for chosen in (True, False):
        model = replace(MODEL, compile=chosen)
        assert running.with_compiling(model, None, 121, s) is model


def tuning_facts():
    from noiseweave.engine.networks import facts

    return facts.read_facts("digits-ddpm")
