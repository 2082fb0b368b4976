"""How the network of a job runs, settled once for all its workers: its precision, and whether it is compiled."""

from __future__ import annotations

from dataclasses import replace
from typing import cast, get_args

from noiseweave.cluster import storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.session import ClusterConfig, Session
from noiseweave.engine.networks.recipes import ModelConfig, Precision


def with_precision(model: ModelConfig, cluster: ClusterConfig, output: str, overwrite: bool) -> ModelConfig:
    """A model whose precision is chosen: before the run's identity is taken, as results depend on it.

    Where it is ``auto``, a run in ``output`` that goes on keeps what it began with, wherever it goes on; a new one
    takes what the workers' GPUs are good at.

    Args:
        output: absolute folder or URL.
        overwrite: an earlier run there is not gone on with.

    Raises:
        ValueError: as of ``session``, or the run's config is damaged.
    """
    if model.precision != "auto" or not model.name:
        return model
    chosen = None if overwrite else recorded(output)
    if chosen is None:
        from noiseweave.cluster import bfloat16
        from noiseweave.engine.networks import tuning

        gpus = bfloat16.workers_gpus(cluster)
        chosen = tuning.precision_for(gpus.any, gpus.bfloat16)
    if chosen != "fp32":
        print(f"precision: {chosen} (model.precision auto)", flush=True)
    return replace(model, precision=chosen)


def recorded(output: str) -> Precision | None:
    """What the run in a folder runs in; None where there is no run, or one without a model."""
    path = Ledger(output=output).path("config.json")
    found = storage.read_object(path).get("model.precision") if storage.exists(path) else None
    return cast(Precision, found) if found in get_args(Precision) else None


def with_compiling(model: ModelConfig, size: int | None, rows: int, s: Session) -> ModelConfig:
    """A model that is compiled or not, where that is ``auto``: compiled where a worker's calls repay it.

    Args:
        size: of the pictures, as the job's config has it.
        rows: that go through the network in the whole job: pictures times steps, twice where they are guided.
    """
    if model.compile != "auto":
        return model
    from noiseweave.engine.networks import facts, tuning

    kind = "cuda" if s.gpus_per_worker else "cpu"
    known = facts.read_facts(model.name, size)
    repaid = tuning.compiling_repaid(known, rows / s.workers, kind, s.threads)
    if repaid:
        print(f"the network is compiled, which {rows} rows repay (model.compile auto)", flush=True)
    return replace(model, compile=repaid)
