"""Whether the GPUs that a job's workers get compute in bfloat16. The driver's machine may have none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from noiseweave.cluster import joined_ray, resources
from noiseweave.cluster.resources import Node
from noiseweave.cluster.session import ClusterConfig, Session, session

WITHOUT = frozenset({"K80", "M60", "P4", "P100", "T4", "V100"})
"""Kinds of GPU, as Ray names them, that only emulate it."""


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """What the workers compute on.

    Attributes:
        any: they have GPUs.
        bfloat16: and each of them computes in bfloat16.
    """

    any: bool
    bfloat16: bool


def workers_gpus(config: ClusterConfig) -> Gpus:
    """What a job with this config computes on: asked of this machine where the job runs on it, else of the cluster.

    Raises:
        ValueError: as of ``session``.
    """
    if config.gpus_per_worker == 0:
        return Gpus(any=False, bfloat16=False)
    if _here(config):
        gpu = _gpu_here()
        return Gpus(any=gpu, bfloat16=gpu and _computes())
    with session(config) as s:
        return _of_cluster(s)


def _here(config: ClusterConfig) -> bool:
    return config.address in ("inline", "local") or (
        config.address == "auto" and joined_ray.running() is None
    )


def _of_cluster(s: Session) -> Gpus:
    if not s.gpus_per_worker:
        return Gpus(any=False, bfloat16=False)
    suited = [node for node in resources.nodes() if node.gpus and node.suits(s.accelerator, s.labels)]
    known = by_name(suited)
    return Gpus(any=True, bfloat16=_asked(s) if known is None else known)


def by_name(suited: Sequence[Node]) -> bool | None:
    """Whether the GPUs of all nodes compute in bfloat16, by their kinds; None where one says no kind."""
    kinds = {node.accelerator for node in suited}
    if kinds & WITHOUT:
        return False
    return None if "" in kinds or not kinds else True


def _asked(s: Session) -> bool:
    """The same of the GPU that a worker gets."""
    import ray

    task = ray.remote(_computes)  # Ray makes one more class of each function
    return bool(ray.get(task.options(num_gpus=s.gpus_per_worker, **s.place).remote()))


def _gpu_here() -> bool:
    import torch

    return torch.cuda.is_available()


def _computes() -> bool:
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
