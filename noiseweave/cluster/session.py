"""Connect to Ray, or start it, and say what it offers."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from noiseweave.cluster import resources
from noiseweave.cluster.resources import Node

SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
LABEL = re.compile(rf"(?:{WORD}/)?{WORD}")
SELECTOR = re.compile(rf"!?{WORD}|!?in\({WORD}(?:, ?{WORD})*\)")
PATIENCE = 5.0
"""Seconds until an address counts as out of reach; Ray itself would try for minutes."""
NEWS = 30.0
"""Seconds between two lines about what is waited for."""


class Lacking(ValueError):
    """The cluster, as it is, can never offer what was asked for."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where the work runs. Nothing here changes a result.

    Args:
        address: auto joins the Ray that the job was submitted to, or that `ray start` runs on this machine, and
            where there is none starts one here; local always starts one; or host:port, ray://host:port; inline
            does all in this process, without Ray.
        workers: processes that hold the model; 0 picks one a GPU, or one where there is no GPU.
        gpus_per_worker: GPUs that each of them gets, fractions share one; -1 picks 1 where there are GPUs, else 0.
        retries: times a unit is tried again after its worker died.
        accelerator: kind of GPU that the workers need, as Ray names it: H100, A100, L4, T4, AMD-Instinct-MI300X.
        labels: labels of the nodes that the workers may run on, '{"market-type": "on-demand"}'; a value may be
            "!spot", "in(a,b)" or "!in(a,b)" as well.
        wait: seconds that an autoscaler has to bring nodes; without one there is no waiting.
    """

    address: str = "auto"
    workers: int = 0
    gpus_per_worker: float = -1
    retries: int = 2
    accelerator: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    wait: float = 600.0

    def __post_init__(self) -> None:
        if not self.address:
            raise ValueError("cluster.address='': auto, local, inline, host:port or ray://host:port")
        if self.workers < 0:
            raise ValueError(f"cluster.workers={self.workers}: 0 (automatic) or more")
        each = self.gpus_per_worker
        if each != -1 and not (0 <= each <= 1 or (each > 1 and each == int(each))):
            raise ValueError(f"cluster.gpus_per_worker={each}: -1 (automatic), 0 to 1, or a whole number")
        if self.address == "inline":
            self._check_inline()
        if self.retries < 0:
            raise ValueError(f"cluster.retries={self.retries}: 0 or more")
        if not self.wait >= 0:
            raise ValueError(f"cluster.wait={self.wait}: 0 or more seconds")
        for name, value in self.labels.items():
            if not LABEL.fullmatch(name) or not SELECTOR.fullmatch(value):
                raise ValueError(
                    f"cluster.labels={{{name!r}: {value!r}}}: a label's name, and value, !value, in(a,b) or !in(a,b)"
                )

    def _check_inline(self) -> None:
        fits = {
            "workers": self.workers <= 1,
            "gpus_per_worker": self.gpus_per_worker <= 1,
            "accelerator": not self.accelerator,
            "labels": not self.labels,
        }
        for name in (name for name, good in fits.items() if not good):
            value = getattr(self, name)
            raise ValueError(
                f"cluster.{name}={value!r}: cluster.address=inline is one process, with one GPU at most"
            )


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a job may use.

    Attributes:
        workers: processes that hold a model, >= 1.
        gpus_per_worker: GPUs of each, 0 on a CPU.
        threads: torch threads of each on a CPU, >= 1.
        retries: times a unit is tried again after its worker died.
        accelerator: kind of GPU that each needs, "" for any.
        labels: of the nodes that they may run on.
        inline: the one worker is this process.
    """

    workers: int
    gpus_per_worker: float
    threads: int
    retries: int
    accelerator: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    inline: bool = False

    @property
    def place(self) -> dict[str, Any]:
        """Where a worker may run, as Ray's actors and trainers take it; {} for anywhere."""
        kind = {"accelerator_type": self.accelerator} if self.accelerator else {}
        return kind | ({"label_selector": dict(self.labels)} if self.labels else {})


@contextlib.contextmanager
def session(config: ClusterConfig) -> Iterator[Session]:
    """Join Ray for the length of a job, or use this process alone; a Ray that was there before stays.

    Raises:
        ValueError: no Ray answers at the address, or it can never offer what was asked for.
    """
    if config.address == "inline":
        yield _inline(config)
        return
    settle()
    import ray

    ours = not ray.is_initialized()
    if ours:
        _start(ray, config)
    try:
        yield _found(config)
    finally:
        if ours:
            ray.shutdown()


def _inline(config: ClusterConfig) -> Session:
    """This process: its GPU where there is one, all its cores, or as many threads as OMP_NUM_THREADS says."""
    gpu = False
    if config.gpus_per_worker:
        import torch

        gpu = torch.cuda.is_available()
        if config.gpus_per_worker > 0 and not gpu:
            raise Lacking(f"cluster.gpus_per_worker={config.gpus_per_worker:g}: this machine has no GPU")
    given = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(given) if given.isdigit() and int(given) else os.cpu_count() or 1
    return Session(
        workers=1, gpus_per_worker=float(gpu), threads=threads, retries=config.retries, inline=True
    )


def _start(ray: Any, config: ClusterConfig) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    address = running() if config.address == "auto" else config.address
    if address is not None and address != "local":
        _join(ray, address, quiet)
        return
    spare = 2  # fetch and commit tasks run beside the workers that hold the models
    cpus = max(os.cpu_count() or 1, config.workers + spare, 1 + spare)
    with _hushed():
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)


def _join(ray: Any, address: str, quiet: dict[str, Any]) -> None:
    """Join a Ray that runs; the code travels, unless the job came by Ray's job server and brought it along."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        quiet["runtime_env"] = {"py_modules": [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]}
    try:
        _knock(address)
        with _hushed():
            ray.init(address=address, **quiet)
    except Exception as e:
        why = " ".join(str(e).split())[:200]
        raise ValueError(f"cluster.address={address!r}: no Ray answers ({type(e).__name__}: {why})") from None


def _knock(address: str) -> None:
    """OSError where nothing listens at host:port or ray://host:port; other spellings are left to Ray."""
    parts = urllib.parse.urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname and parts.port and parts.scheme in ("", "ray"):
        socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE).close()


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


def _found(config: ClusterConfig) -> Session:
    """What the job uses; where nodes are lacking that an autoscaler may bring, it is asked and waited for.

    Raises:
        ValueError: what is lacking, asked for and found.
    """
    start, told = time.monotonic(), -NEWS
    try:
        while True:
            try:
                return _offer(resources.nodes(), config)
            except Lacking as e:
                waited = time.monotonic() - start
                if told < 0 and not resources.autoscaled():
                    raise
                if waited >= config.wait:
                    raise ValueError(f"{e}; the autoscaler brought none in {config.wait:g} s") from None
                if told < 0:
                    resources.request(*_bundles(config))
                if waited - told >= NEWS:
                    print(f"waiting for the autoscaler: {e}", file=sys.stderr, flush=True)
                    told = waited
            time.sleep(1)
    finally:
        if told >= 0:  # a request stays, and so do the nodes, until it is taken back
            resources.request([], {})


def _bundles(config: ClusterConfig) -> tuple[list[dict[str, float]], Mapping[str, str]]:
    """What each worker asks of Ray, for each that is asked for, and on which nodes."""
    each = config.gpus_per_worker if config.gpus_per_worker >= 0 else float(bool(config.accelerator))
    bundle = {"GPU": each} if each else {"CPU": 1.0}
    if config.accelerator:
        bundle[resources.ACCELERATOR + config.accelerator] = 0.001  # as Ray has it
    return [bundle] * (max(1, config.workers) + (not each)), config.labels  # and a CPU for reading


def _offer(found: Sequence[Node], config: ClusterConfig) -> Session:
    """Pure arithmetic: what the cluster has and what was asked for -> what the job uses.

    Raises:
        Lacking: it can never have it, unless nodes come.
    """
    suited = [node for node in found if node.suits(config.accelerator, config.labels)]
    wanted = [f"accelerator={config.accelerator!r}"] * bool(config.accelerator)
    wanted += [f"labels={config.labels}"] * bool(config.labels)
    there = f"found {len(found)} node{'s' * (len(found) != 1)} ({resources.listing(found)})"
    if not suited:
        raise Lacking(f"cluster.{' and '.join(wanted)}: no node is so; {there}")
    which = f" on nodes with {' and '.join(wanted)}" if wanted else ""
    gpus = sum(node.gpus for node in suited)
    each = config.gpus_per_worker if config.gpus_per_worker >= 0 else float(gpus > 0)
    most = _room(found, suited, each)
    if most == 0 and each:
        raise Lacking(f"cluster.gpus_per_worker={each:g}: no node has so many GPUs{which}; {there}")
    if most <= 0:
        raise Lacking(
            f"cluster.workers={config.workers}: a worker and reading need a CPU each{which}; {there}"
        )
    if sum(node.cpus for node in found) < 1:
        raise Lacking(f"cluster.workers={config.workers}: reading needs a CPU beside them; {there}")
    workers = config.workers or (most if each else 1)
    if workers > most:
        what = f"{gpus:g} GPUs at {each:g} a worker" if each else "a CPU each, and one for reading"
        raise Lacking(f"cluster.workers={workers}: at most {most} fit ({what}){which}; {there}")
    threads = max(1, (os.cpu_count() or 1) // workers)
    return Session(
        workers=workers, gpus_per_worker=each, threads=threads, retries=config.retries,
        accelerator=config.accelerator, labels=config.labels,
    )  # fmt: skip


def _room(found: Sequence[Node], suited: Sequence[Node], each: float) -> int:
    """Workers that fit, none across two nodes, and no fraction across two GPUs.

    On CPUs each takes one, and one of all must stay for reading.
    """
    if each >= 1:
        return sum(int(node.gpus) // int(each) for node in suited)
    if each:
        return sum(int(node.gpus) * int(1 / each + 1e-9) for node in suited)
    return min(sum(int(node.cpus) for node in suited), sum(int(node.cpus) for node in found) - 1)
