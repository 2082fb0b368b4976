"""What a cluster offers and what a job asks: pure arithmetic, one line where it cannot be, workers on their nodes."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest

from noiseweave.cluster import resources, session, training
from noiseweave.cluster.resources import Node
from noiseweave.cluster.session import ClusterConfig, Lacking, Session

HEAD = Node(address="10.0.0.1", gpus=0, cpus=4)
SPOT = Node(address="10.0.0.2", gpus=4, cpus=8, accelerator="T4", labels={"market-type": "spot"})
OWN = Node(address="10.0.0.3", gpus=2, cpus=8, accelerator="H100", labels={"market-type": "on-demand"})
ALL = [HEAD, SPOT, OWN]


def offer(found, **config):
    got = session._offer(found, ClusterConfig(**config))
    return got.workers, got.gpus_per_worker


@pytest.mark.parametrize(
    ("found", "config", "expected"),
    [
        (ALL, {}, (6, 1)),
        (ALL, {"workers": 3}, (3, 1)),
        (ALL, {"gpus_per_worker": 0.5}, (12, 0.5)),
        (ALL, {"gpus_per_worker": 0.3}, (18, 0.3)),  # three on each GPU: a tenth of each stays idle
        (ALL, {"gpus_per_worker": 4}, (1, 4)),  # two on one node and two on another are no four
        (ALL, {"accelerator": "H100"}, (2, 1)),
        (ALL, {"labels": {"market-type": "spot"}}, (4, 1)),
        (ALL, {"labels": {"market-type": "!spot"}}, (2, 1)),
        (ALL, {"labels": {"market-type": "in(spot,on-demand)"}}, (6, 1)),
        (ALL, {"accelerator": "T4", "labels": {"market-type": "spot"}}, (4, 1)),
        (ALL, {"gpus_per_worker": 0}, (1, 0)),
        (ALL, {"gpus_per_worker": 0, "workers": 19}, (19, 0)),
        ([HEAD], {}, (1, 0)),
        ([HEAD], {"workers": 3}, (3, 0)),
    ],
)
def test_offer(found, config, expected):
    assert offer(found, **config) == expected


@pytest.mark.parametrize(
    ("found", "config", "words"),
    [
        (
            ALL,
            {"accelerator": "A100"},
            r"accelerator='A100': no node is so; found 3 nodes \(10.0.0.1: 0 GPUs, 4",
        ),
        (
            ALL,
            {"labels": {"zone": "b"}},
            r"labels=\{'zone': 'b'\}: no node .*4 T4 GPUs, 8 CPUs, market-type=spot",
        ),
        (ALL, {"gpus_per_worker": 8}, r"gpus_per_worker=8: no node has so many GPUs; found 3"),
        (
            ALL,
            {"gpus_per_worker": 4, "accelerator": "H100"},
            r"no node has so many GPUs on nodes with accelerator",
        ),
        (ALL, {"workers": 7}, r"workers=7: at most 6 fit \(6 GPUs at 1 a worker\); found 3 nodes"),
        (ALL, {"workers": 20, "gpus_per_worker": 0}, r"at most 19 fit \(a CPU each, and one for reading\)"),
        ([Node(address="h", gpus=0, cpus=1)], {}, "a worker and reading need a CPU each; found 1 node "),
        ([Node(address="h", gpus=1, cpus=0)], {}, "reading needs a CPU beside them"),
    ],
)
def test_what_can_never_be_says_what_is_asked_and_found(found, config, words):
    with pytest.raises(Lacking, match=words) as told:
        offer(found, **config)
    assert "\n" not in str(told.value)


def test_of_many_nodes_the_first_are_named():
    many = [Node(address=f"n{i}", gpus=0, cpus=1) for i in range(200)]
    assert resources.listing(many).endswith("n5: 0 GPUs, 1 CPUs; and 194 more")


@pytest.mark.parametrize(
    "wrong",
    [
        {"address": ""},
        {"workers": -1},
        {"gpus_per_worker": 1.5},
        {"gpus_per_worker": -2},
        {"wait": -1},
        {"labels": {"a b": "c"}},
        {"labels": {"a": "in()"}},
        {"labels": {"a": "!"}},
        {"retries": -1},
    ],
)
def test_a_wrong_field_is_named(wrong):
    with pytest.raises(ValueError, match=f"cluster.{next(iter(wrong))}="):
        ClusterConfig(**wrong)


def test_selectors_that_are_taken_are_those_that_ray_takes():
    from ray._private.label_utils import validate_label_selector

    words = ["spot", "!spot", "in(a,b)", "in(a, b)", "!in(a,b)", "a b", "in()", "!", "-a", "in(a,,b)", "a_"]
    for word in words:
        ours = bool(session.SELECTOR.fullmatch(word))
        assert ours == (validate_label_selector({"a": word}) is None), word


def test_where_a_worker_may_run_reaches_the_trainer():
    asked = Session(workers=2, gpus_per_worker=1, threads=1, retries=0, accelerator="T4", labels={"a": "b"})
    scaling = training._scaling(asked)
    assert scaling.label_selector == {"a": "b"}
    assert scaling._resources_per_worker_not_none == {"GPU": 1, "accelerator_type:T4": 0.001}
    anywhere = training._scaling(Session(workers=1, gpus_per_worker=0, threads=1, retries=0))
    assert anywhere.label_selector is None
    assert anywhere._resources_per_worker_not_none == {"CPU": 1}


class Autoscaler:
    """In the place of a cluster: nodes come at the third look, when they were asked for."""

    def __init__(self, monkeypatch, coming, scaled=True):
        self.found, self.coming, self.asked, self.looks = [HEAD], coming, [], 0
        monkeypatch.setattr(resources, "nodes", self.nodes)
        monkeypatch.setattr(resources, "autoscaled", lambda: scaled)
        monkeypatch.setattr(resources, "request", lambda *wanted: self.asked.append(wanted))
        monkeypatch.setattr(session.time, "sleep", lambda seconds: None)

    def nodes(self):
        self.looks += 1
        return [*self.found, *(self.coming if self.asked and self.looks > 2 else [])]


def test_an_autoscaler_is_asked_and_the_request_is_taken_back(monkeypatch, capsys):
    there = Autoscaler(monkeypatch, [OWN])
    got = session._found(ClusterConfig(workers=2, accelerator="H100", labels={"market-type": "on-demand"}))
    assert (got.workers, got.gpus_per_worker) == (2, 1)
    bundle = {"GPU": 1.0, "accelerator_type:H100": 0.001}
    assert there.asked == [([bundle, bundle], {"market-type": "on-demand"}), ([], {})]
    assert "waiting for the autoscaler: cluster.accelerator='H100'" in capsys.readouterr().err


def test_an_autoscaler_that_brings_none_is_not_waited_for_longer(monkeypatch):
    there = Autoscaler(monkeypatch, [])
    with pytest.raises(ValueError, match=r"gpus_per_worker=1: no node .*brought none in 0.01 s"):
        session._found(ClusterConfig(gpus_per_worker=1, wait=0.01))
    assert there.asked[-1] == ([], {})


def test_without_an_autoscaler_there_is_no_waiting(monkeypatch):
    there = Autoscaler(monkeypatch, [OWN], scaled=False)
    with pytest.raises(Lacking):
        session._found(ClusterConfig(gpus_per_worker=1))
    assert (there.looks, there.asked) == (1, [])


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"workers": 2}, "cluster.workers=2: cluster.address=inline is one process"),
        (
            {"gpus_per_worker": 2},
            "cluster.gpus_per_worker=2: cluster.address=inline is one process, with one GPU",
        ),
        ({"accelerator": "T4"}, "cluster.accelerator='T4': cluster.address=inline is one process"),
        ({"labels": {"zone": "b"}}, "cluster.labels={'zone': 'b'}: cluster.address=inline is one process"),
    ],
)
def test_what_one_process_cannot_be_is_one_line(config, words):
    with pytest.raises(ValueError) as told:  # noqa: PT011
        ClusterConfig(address="inline", **config)
    assert str(told.value).startswith(words)
    assert "\n" not in str(told.value)


def test_inline_uses_the_gpu_that_is_there_and_refuses_to_wait_for_one(monkeypatch):
    import torch

    def found(**config):
        with session.session(ClusterConfig(address="inline", **config)) as s:
            assert (s.workers, s.inline, s.retries) == (1, True, 2)
            return s.gpus_per_worker

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert found() == found(gpus_per_worker=0) == 0
    with pytest.raises(Lacking, match=r"^cluster.gpus_per_worker=1: this machine has no GPU$"):
        found(gpus_per_worker=1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert found() == found(gpus_per_worker=1) == found(gpus_per_worker=0.5) == 1
    assert found(gpus_per_worker=0) == 0


def test_inline_takes_the_threads_that_the_environment_says(monkeypatch):
    for given, threads in (("3", 3), ("0", os.cpu_count()), ("", os.cpu_count()), ("many", os.cpu_count())):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        with session.session(ClusterConfig(address="inline", gpus_per_worker=0)) as s:
            assert s.threads == threads


@pytest.mark.timeout(60)
def test_an_address_where_nothing_listens_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        code = f"""
            from noiseweave.cluster.session import ClusterConfig, session
            try:
                with session(ClusterConfig(address={address!r})): pass
            except ValueError as e:
                print(e)
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
        )
        assert f"cluster.address='{address}': no Ray answers (ConnectionRefusedError" in done.stdout
        assert done.stdout.count("\n") == 1


TWO_NODES = """
    import os, sys, tempfile
    from noiseweave.cluster import pipeline, session, stages
    session.settle()
    import ray
    from ray.cluster_utils import Cluster
    from noiseweave.cluster.ledger import Ledger
    from noiseweave.cluster.units import Plan, Unit, UnitReport

    small = dict(num_cpus=2, num_gpus=1, object_store_memory=80_000_000)
    cluster = Cluster(initialize_head=True, head_node_args=small | dict(include_dashboard=False))
    cluster.add_node(**small, labels={"market-type": "spot"}, resources={"accelerator_type:T4": 1})
    cluster.add_node(**small, labels={"market-type": "spot"})
    def unit(i): return Unit(index=i, id=f"u{i}", payload=i)
    def make():
        labels = ray.get_runtime_context().get_node_labels()
        kinds = [n for n in ray.nodes() if n["NodeID"] == ray.get_runtime_context().get_node_id()]
        t4 = "accelerator_type:T4" in kinds[0]["Resources"]
        return lambda data: (labels.get("market-type") == "spot") + 10 * t4
    def commit(unit, result): return UnitReport(id=unit.id, produced=1, extra={"where": result}), []
    phase = stages.Phase(name="p", fetch=lambda u: u.payload, make_compute=make, commit=commit)
    asked = dict(address=cluster.address, labels={"market-type": "spot"}, accelerator="T4")
    with session.session(session.ClusterConfig(**asked)) as s, tempfile.TemporaryDirectory() as folder:
        outcome = pipeline.run(Plan(length=3, unit=unit), phase, Ledger(output=folder), s)
        print(s.workers, outcome.failed, outcome.extra["where"])
    try:
        with session.session(session.ClusterConfig(**asked | dict(workers=2))): pass
    except ValueError as e:
        print(e)
    cluster.shutdown()
"""


@pytest.mark.slow
def test_workers_run_on_the_nodes_that_were_asked_for():
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(TWO_NODES)], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[:1] == ["1 {} 33"], done.stderr[-3000:]
    assert "workers=2: at most 1 fit" in lines[1]
