"""Connect to Ray, or start it, and say what it offers."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where the work runs. Nothing here changes a result.

    Args:
        address: auto joins the Ray that the job was submitted to, or that `ray start` runs on this machine, and
            where there is none starts one here; local always starts one; or host:port, ray://host:port.
        workers: processes that hold the model; 0 picks one a GPU, or one where there is no GPU.
        gpus_per_worker: GPUs that each of them gets, fractions share one; -1 picks 1 where there are GPUs, else 0.
        retries: times a unit is tried again after its worker died.
    """

    address: str = "auto"
    workers: int = 0
    gpus_per_worker: float = -1
    retries: int = 2

    def __post_init__(self) -> None:
        if not self.address:
            raise ValueError("cluster.address='': local, auto, host:port or ray://host:port")
        if self.workers < 0:
            raise ValueError(f"cluster.workers={self.workers}: 0 (automatic) or more")
        if self.gpus_per_worker != -1 and self.gpus_per_worker < 0:
            raise ValueError(f"cluster.gpus_per_worker={self.gpus_per_worker}: -1 (automatic), 0 or more")
        if self.retries < 0:
            raise ValueError(f"cluster.retries={self.retries}: 0 or more")


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a job may use.

    Attributes:
        workers: processes that hold a model, >= 1.
        gpus_per_worker: GPUs of each, 0 on a CPU.
        threads: torch threads of each on a CPU, >= 1.
        retries: times a unit is tried again after its worker died.
    """

    workers: int
    gpus_per_worker: float
    threads: int
    retries: int


@contextlib.contextmanager
def session(config: ClusterConfig) -> Iterator[Session]:
    """Join Ray for the length of a job; a Ray that was there before stays.

    Raises:
        ValueError: no Ray answers at the address, or it can never offer what was asked for.
    """
    import ray

    ours = not ray.is_initialized()
    if ours:
        _start(ray, config)
    try:
        yield _offer(ray.cluster_resources(), config)
    finally:
        if ours:
            ray.shutdown()


def _start(ray: Any, config: ClusterConfig) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    settle()
    address = running() if config.address == "auto" else config.address
    if address not in (None, "local"):
        try:
            ray.init(address=address, **quiet)
        except Exception as e:
            raise ValueError(f"cluster.address={address!r}: no Ray answers ({type(e).__name__})") from None
        return
    spare = 2  # fetch and commit tasks run beside the workers that hold the models
    cpus = max(os.cpu_count() or 1, config.workers + spare, 1 + spare)
    with _hushed():
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)


def settle() -> None:
    """Ray's settings, before it is first imported; what the environment says already stays."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def running() -> str | None:
    """The Ray that this process belongs to, as in a submitted job, or that `ray start` runs on this machine."""
    from ray._private.utils import read_ray_address

    if given := os.environ.get("RAY_ADDRESS"):
        return given
    found = read_ray_address()  # Ray's own joining rule would take any other job's private Ray as well
    host, _, port = str(found or "").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except (OSError, ValueError):  # left behind by a Ray that is gone
        return None
    return found


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Drop what Ray's C++ part writes to standard error while it starts; its exceptions still come through."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _offer(found: dict[str, float], config: ClusterConfig) -> Session:
    """Pure arithmetic: what the cluster has and what was asked for -> what the job uses."""
    gpus, cpus = found.get("GPU", 0.0), found.get("CPU", 1.0)
    each = config.gpus_per_worker if config.gpus_per_worker >= 0 else float(gpus > 0)
    if each > gpus:
        raise ValueError(f"cluster.gpus_per_worker={each:g}: the cluster has {gpus:g} GPUs")
    most = int(gpus / each + 1e-9) if each else max(1, int(cpus) - 1)
    workers = config.workers or (most if each else 1)
    if workers > most:
        what = f"{gpus:g} GPUs at {each:g} a worker" if each else f"{cpus:g} CPUs, one of them for reading"
        raise ValueError(f"cluster.workers={workers}: at most {most} fit ({what})")
    threads = max(1, (os.cpu_count() or 1) // workers)
    return Session(workers=workers, gpus_per_worker=each, threads=threads, retries=config.retries)
