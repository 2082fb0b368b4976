"""The three stages of a unit, fetch, compute and commit, as either executor runs them: an exception becomes the unit's
error, and a unit's output is whole before its done-marker is written."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

from noiseweave.cluster import allocator
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.progress import OnProgress, Progress
from noiseweave.cluster.storage import StorageError
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine import spans
from noiseweave.engine.records import Json, JsonMapping, Quarantined

Data = TypeVar("Data")
Result = TypeVar("Result")
T = TypeVar("T")
Committed = tuple[UnitReport, list[Quarantined]]
"""What a commit gives back: what is recorded of the unit, and what was quarantined in it."""


@dataclass(frozen=True, kw_only=True)
class Phase(Generic[Data, Result]):
    """What is done to each unit of a plan. All callables travel to the workers.

    Attributes:
        name: of the phase; done-markers lie under it.
        fetch: unit -> data; runs in a CPU task.
        make_compute: () -> (data -> result); called once in each actor, it loads the model.
        commit: (unit, result) -> (report, quarantined); runs in a CPU task and writes the unit's output.
        noun: what a report's ``produced`` counts, for the progress display.
        size: data, as fetched -> how many of them will be made of it, for the same; None where that is not known.
        patience: seconds without the end of any unit after which a hang is assumed; None is ``STALL``.
    """

    name: str
    fetch: Callable[[Unit], Data]
    make_compute: Callable[[], Callable[[Data], Result]]
    commit: Callable[[Unit, Result], Committed]
    noun: str = "images"
    size: Callable[[Data], int] | None = None
    patience: float | None = None


def length_of_first(data: tuple[Sized, ...]) -> int:
    """A ``Phase.size``: of data whose first part holds what is counted."""
    return len(data[0])


def payload(unit: Unit) -> Any:
    """A ``Phase.fetch``: of units that hold their data."""
    return unit.payload


def unchanged() -> Callable[[Data], Data]:
    """A ``Phase.make_compute``: of phases that only fetch and commit."""
    return _same


def _same(data: Data) -> Data:
    return data


class Fetch:
    """Number of a unit -> unit and its data."""

    def __init__(self, plan: Plan, fetch: Callable[[Unit], object]) -> None:
        self.plan, self.fetch = plan, fetch

    def __call__(self, row: Json) -> Json:
        """A row with a unit's index -> the unit and its data, or its error."""
        start = time.monotonic()
        unit = self.plan.unit(int(row["index"]))
        data, error, stop = _attempt(self.fetch, unit)
        took = time.monotonic() - start
        return {"unit": Box(unit), "data": Box(data), "error": error, "stop": stop, "fetch": took}


class Compute:
    """Holds what ``make_compute`` loaded, one process a GPU."""

    def __init__(
        self,
        make_compute: Callable[[], Callable[[Any], object]],
        threads: int,
        size: Callable[[Any], int] | None,
        on_progress: OnProgress,
    ) -> None:
        self.size, self.on_progress = size, on_progress
        self.name = f"{platform.node()}/{os.getpid()}"
        os.environ["OMP_NUM_THREADS"] = str(threads)  # for a torch that is imported from now on
        allocator.keep()
        _limit(threads)
        # a model that cannot be loaded is each unit's error, not a worker that dies and comes back for ever
        made, self.broken, self.stop = _attempt(make_compute)
        self.compute = made or _same  # which is not called
        _limit(threads)  # another variable may have set the torch that make_compute imported otherwise

    def __call__(self, batch: Json) -> Json:
        """A batch of one, as Ray Data hands it over."""
        return {name: [value] for name, value in self.row({n: v[0] for n, v in batch.items()}).items()}

    def row(self, row: Json) -> Json:
        """One fetched unit -> its result, or its error, with the seconds that it took."""
        start = time.monotonic()
        data, error, stop = row["data"].value, str(row["error"]) or self.broken, row["stop"] or self.stop
        if not error:
            with self._reporting(row["unit"].value.id, data):
                data, error, stop = _attempt(self.compute, data)
        return {
            "unit": row["unit"],
            "data": Box(data),
            "error": error,
            "stop": stop,
            "fetch": row["fetch"],
            "compute": time.monotonic() - start,
            "worker": self.name,
        }

    @contextlib.contextmanager
    def _reporting(self, unit: str, data: object) -> Iterator[None]:
        """While the block computes a unit, say how far it is."""
        size = self.size(data) if self.size else None
        self.on_progress(self.name, Progress(unit=unit, share=0.0, size=size))
        with spans.listening(
            lambda share: self.on_progress(self.name, Progress(unit=unit, share=share, size=size))
        ):
            yield
        self.on_progress(self.name, None)


def _limit(threads: int) -> None:
    """Set torch's threads where torch is there; a compute without it stays light."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


class Commit:
    """Writes a unit's output, then its done-marker."""

    def __init__(
        self, name: str, commit: Callable[..., tuple[UnitReport, list[Quarantined]]], ledger: Ledger
    ) -> None:
        self.name, self.commit, self.ledger = name, commit, ledger

    def __call__(self, row: Json) -> Json:
        """A computed row -> what is known of the unit: its counts, or its error."""
        start = time.monotonic()
        unit, result, error, stop = row["unit"].value, row["data"].value, row["error"], row["stop"]
        report = UnitReport(id=unit.id, produced=0)
        if not error:
            done, error, stop = _attempt(self._write, unit, result, row, start)
            report = done or report
        return {
            "id": unit.id,
            "error": error,
            "stop": stop,
            "produced": report.produced,
            "quarantined": sum(report.quarantined.values()),
        }

    def _write(self, unit: Unit, result: object, row: JsonMapping, start: float) -> UnitReport:
        report, bad = self.commit(unit, result)
        counts = Counter(b.reason for b in bad)
        took = {"fetch": row["fetch"], "compute": row["compute"], "commit": time.monotonic() - start}
        report = replace(
            report,
            quarantined=dict(counts),
            seconds=float(sum(took.values())),
            spent={name: round(float(seconds), 4) for name, seconds in took.items()},
            worker=str(row["worker"]),
        )
        self.ledger.mark(self.name, report, bad)
        return report


@dataclass(frozen=True)
class Box:
    """Keeps Ray Data from looking into a value and making a tensor column of it."""

    value: Any


class _Attempt(NamedTuple, Generic[T]):
    """What came of a call: its result, or one line about the exception, and whether the whole run must stop."""

    result: T | None
    error: str = ""
    stop: bool = False


def _attempt(f: Callable[..., T], *arguments: object) -> _Attempt[T]:
    """Call it; a line about an exception says where it came from. Storage that fails lastingly stops the run."""
    try:
        return _Attempt(f(*arguments))
    except StorageError as e:
        return _Attempt(None, f"{platform.node()}: {e}", e.lasting)
    except Exception as e:
        frame = traceback.extract_tb(e.__traceback__)[-1]
        where = f"{os.path.basename(frame.filename)}:{frame.lineno}"
        return _Attempt(None, f"{type(e).__name__}: {' '.join(str(e).split())[:500]} ({where})")
