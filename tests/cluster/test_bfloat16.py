"""What the workers' GPUs compute in, where the driver's machine has none."""

import pytest
import torch

from noiseweave.cluster import bfloat16, resources
from noiseweave.cluster.bfloat16 import Gpus
from noiseweave.cluster.resources import Node
from noiseweave.cluster.session import ClusterConfig

NONE = Gpus(any=False, bfloat16=False)


def node(kind, gpus=1.0):
    return Node(address="a", gpus=gpus, cpus=4, accelerator=kind)


def test_every_kind_must_compute_in_it_and_one_that_is_unknown_is_asked():
    assert bfloat16.by_name([node("A100"), node("H100")]) is True
    assert bfloat16.by_name([node("A100"), node("T4"), node("")]) is False
    assert bfloat16.by_name([node("A100"), node("")]) is None
    assert bfloat16.by_name([]) is None


@pytest.mark.parametrize("address", ["inline", "local"])
@pytest.mark.parametrize("native", [True, False])
def test_a_job_on_this_machine_asks_this_machine(address, native, monkeypatch):
    config = ClusterConfig(address=address)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bfloat16.workers_gpus(config) == NONE
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation
    )
    assert bfloat16.workers_gpus(config) == Gpus(any=True, bfloat16=native)
    assert bfloat16.workers_gpus(ClusterConfig(address=address, gpus_per_worker=0)) == NONE


@pytest.mark.slow
def test_a_cluster_is_asked_for_its_workers_gpus(ray_session, monkeypatch):
    """4 logical GPUs, on a machine that has none and drives the job."""
    monkeypatch.setattr(bfloat16.joined_ray, "running", lambda: "some:6379")
    config = ClusterConfig(address="auto")
    for kind, native in (("H100", True), ("T4", False)):
        monkeypatch.setattr(resources, "nodes", lambda kind=kind: [node(kind, 4.0)])
        assert bfloat16.workers_gpus(config) == Gpus(any=True, bfloat16=native)
    monkeypatch.setattr(resources, "nodes", lambda: [node("", 4.0)])
    assert bfloat16.workers_gpus(config) == Gpus(any=True, bfloat16=torch.cuda.is_available())
    monkeypatch.setattr(resources, "nodes", lambda: [node("", 0.0)])
    assert bfloat16.workers_gpus(config) == NONE
