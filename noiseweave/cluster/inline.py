"""The executor behind ``cluster.address: inline``: all units in this process, without Ray."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.progress import OnProgress
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Commit, Compute, Fetch, Phase
from noiseweave.cluster.units import Plan
from noiseweave.engine.records import Json


def rows(
    plan: Plan, left: np.ndarray, phase: Phase, ledger: Ledger, session: Session, on_progress: OnProgress
) -> Iterator[Json]:
    """In this process, one unit after another; the next is fetched while one is computed."""
    fetch, commit = Fetch(plan, phase.fetch), Commit(phase.name, phase.commit, ledger)
    compute = Compute(phase.make_compute, session.threads, phase.size, on_progress)
    for row in _ahead(fetch, [{"index": i} for i in left.tolist()]):
        yield commit(compute.row(row))


def _ahead(fetch: Callable[[Json], Json], rows: Sequence[Json]) -> Iterator[Json]:
    """``map(fetch, rows)``, one ahead in a thread that does not outlive this process, whatever it waits for."""
    ready: queue.Queue[Json] = queue.Queue(maxsize=1)
    wanted = threading.Semaphore(0)
    left = iter(rows)

    def work() -> None:
        for row in left:
            wanted.acquire()
            ready.put(fetch(row))

    threading.Thread(target=work, daemon=True).start()
    wanted.release()
    for _ in rows:
        row = ready.get()
        wanted.release()
        yield row
