"""Connect to Ray, or start it, and say what it offers."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from noiseweave.cluster import joined_ray, local_ray, resources, termination
from noiseweave.cluster.resources import Node
from noiseweave.engine.records import Json

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
LABEL = re.compile(rf"(?:{WORD}/)?{WORD}")
SELECTOR = re.compile(rf"!?{WORD}|!?in\({WORD}(?:, ?{WORD})*\)")
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
    def place(self) -> Json:
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
        with termination.on_sigterm():
            yield _inline(config)
        return
    settle()
    import ray

    with contextlib.nullcontext() if ray.is_initialized() else _connected(config):
        yield _found(config)


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


def _connected(config: ClusterConfig) -> contextlib.AbstractContextManager[None]:
    address = joined_ray.running() if config.address == "auto" else config.address
    if address is not None and address != "local":
        return joined_ray.joined(address)
    spare = 2  # fetch and commit tasks run beside the workers that hold the models
    return local_ray.started(num_cpus=max(os.cpu_count() or 1, config.workers + spare, 1 + spare))


def settle() -> None:
    """Ray's settings, before it is first imported; what the environment says already stays."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def _found(config: ClusterConfig) -> Session:
    """What the job uses; where nodes are lacking that an autoscaler may bring, it is asked and waited for.

    Raises:
        ValueError: what is lacking, asked for and found.
    """
    start, reported = time.monotonic(), -NEWS
    try:
        while True:
            try:
                return _offer(resources.nodes(), config)
            except Lacking as e:
                waited = time.monotonic() - start
                if reported < 0 and not resources.autoscaled():
                    raise
                if waited >= config.wait:
                    raise ValueError(f"{e}; the autoscaler brought none in {config.wait:g} s") from None
                if reported < 0:
                    resources.request(*_bundles(config))
                if waited - reported >= NEWS:
                    print(f"waiting for the autoscaler: {e}", file=sys.stderr, flush=True)
                    reported = waited
            time.sleep(1)
    finally:
        if reported >= 0:  # a request stays, and so do the nodes, until it is taken back
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
        workers=workers,
        gpus_per_worker=each,
        threads=threads,
        retries=config.retries,
        accelerator=config.accelerator,
        labels=config.labels,
    )


def _room(found: Sequence[Node], suited: Sequence[Node], each: float) -> int:
    """Workers that fit, none across two nodes, and no fraction across two GPUs.

    On CPUs each takes one, and one of all must stay for reading.
    """
    if each >= 1:
        return sum(int(node.gpus) // int(each) for node in suited)
    if each:
        return sum(int(node.gpus) * int(1 / each + 1e-9) for node in suited)
    return min(sum(int(node.cpus) for node in suited), sum(int(node.cpus) for node in found) - 1)
