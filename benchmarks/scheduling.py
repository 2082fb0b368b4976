"""What scheduling costs: the batch flow with its compute replaced by a sleep, and its driver's memory.

Efficiency is the useful time, units x seconds / GPUs, over the wall time of the phase: once with the start of the
actors, and once from the moment when the last of them was ready; the others wait for it. The end is that of the
phase: every marker written and read back. The GPUs are logical, so all actors share this machine's cores.

Memory is the growth of the driver's peak RSS while 1,000,000 units are planned, and while the first of them run; and
in that time the growth of the head's processes, GCS, raylet and agents, at their peak, each one's own pages alone: the
object store, which they share, has a size of its own.

    python benchmarks/scheduling.py [--gpus 1 4 16 64] [--each 10] [--seconds 1] [--plan 1000000] [--out FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from noiseweave.cluster import local_ray, pipeline
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.session import Session, settle
from noiseweave.cluster.stages import Phase
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine.records import Quarantined

WORKER_MIB = 120  # of memory that an actor without torch needs


def unit(i: int) -> Unit:
    return Unit(index=i, id=f"u{i:07d}", payload=i)


def fetch(u: Unit) -> int:
    return u.payload


def make_sleep(seconds: float, meeting: str, workers: int) -> Callable[[int], dict[str, float]]:
    """Ready when all workers are: else the first would have done all before the last of many is up."""
    worker = os.getpid()
    Path(meeting, f"{worker}.up").touch()
    while len(list(Path(meeting).glob("*.up"))) < workers:
        time.sleep(0.1)
    ready = time.monotonic()

    def sleep(_: int) -> dict[str, float]:
        begin = time.monotonic()  # one clock for all processes of a machine
        time.sleep(seconds)
        return {"worker": worker, "ready": ready, "begin": begin}

    return sleep


def commit(u: Unit, result: dict[str, float]) -> tuple[UnitReport, list[Quarantined]]:
    return UnitReport(id=u.id, produced=1, extra=result), []


def phase_of(seconds: float, meeting: str, workers: int) -> Phase:
    return Phase(
        name="sleep",
        fetch=fetch,
        make_compute=partial(make_sleep, seconds, meeting, workers),
        commit=commit,
        noun="units",
    )


def session_of(gpus: int) -> Session:
    return Session(workers=gpus, gpus_per_worker=1, threads=1, retries=2)


def measure(gpus: int, each: int, seconds: float) -> dict[str, Any]:
    """Run ``gpus * each`` units of ``seconds`` on the Ray that is there."""
    with tempfile.TemporaryDirectory() as folder:
        ledger, units = Ledger(output=folder), gpus * each
        start = time.monotonic()
        phase = phase_of(seconds, folder, gpus)
        outcome = pipeline.run(Plan(length=units, unit=unit), phase, ledger, session_of(gpus))
        assert outcome.produced == units, outcome.failed
        told = [record["extra"] for record in ledger.records("sleep")]
    return {
        "gpus": gpus,
        "units": units,
        "wall_s": round(outcome.seconds, 2),
        "efficiency_with_start": round(units * seconds / gpus / outcome.seconds, 4),
        **since_ready(told, start + outcome.seconds, gpus, seconds),
        "start_s": round(max(t["ready"] for t in told) - start, 2),
    }


def since_ready(told: list[dict[str, float]], end: float, gpus: int, seconds: float) -> dict[str, float]:
    """Share of the time since the last actor was ready that was slept, and where the rest went."""
    began = defaultdict(list)
    for t in told:
        began[t["worker"]].append(t["begin"])
    ready = max(t["ready"] for t in told)
    useful = sum(max(0.0, t["begin"] + seconds - max(ready, t["begin"])) for t in told)
    gaps = [b - a - seconds for row in began.values() for a, b in itertools.pairwise(sorted(row))]
    return {
        "workers_seen": len(began),
        "efficiency": round(useful / gpus / (end - ready), 4),
        "first_unit_after_s": round(statistics.mean(min(row) for row in began.values()) - ready, 2),
        "gap_ms_median": round(1000 * statistics.median(gaps or [0.0]), 1),
        "gap_ms_most": round(1000 * max(gaps, default=0.0), 1),
        "tail_s": round(end - max(t["begin"] for t in told) - seconds, 2),
    }


def resident(what: str) -> float:
    """VmRSS or VmHWM (its peak) of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def growth(work: Callable[[], Any]) -> tuple[Any, float]:
    """What ``work`` returns, and by how many MiB it raised this process's memory at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = resident("VmRSS")
    result = work()
    return result, round(resident("VmHWM") - before, 1)


@contextlib.contextmanager
def head_growth() -> Iterator[dict[str, float]]:
    """By how many MiB each kind of process of the Ray on this machine grew at its peak, once the block has ended."""
    found: dict[str, float] = {}
    before, peak, ended = head_pages(), Counter[str](), threading.Event()

    def follow() -> None:
        while not ended.wait(0.2):
            for name, mib in head_pages().items():
                peak[name] = max(peak[name], mib)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
        after = head_pages()
        found |= {n: round(max(peak[n], after[n]) - before[n], 1) for n in sorted(before)}


def head_pages() -> Counter[str]:
    """MiB that are a process's own, summed by kind: gcs_server, raylet, agents; no workers."""
    pages: Counter[str] = Counter()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            # a worker not yet named has its script as an early word; raylet names it in one long option
            if not words or words[0].startswith("ray::") or any(w.endswith("worker.py") for w in words[:4]):
                continue
            kind = os.path.basename(words[0])
            memory = process.memory_info()
            pages[kind if kind in ("gcs_server", "raylet") else "agents"] += (
                memory.rss - memory.shared
            ) / 2**20
    return pages


def memory(planned: int, done: int, running: int) -> dict[str, Any]:
    """What a plan takes: the driver's growth from nothing, with ``done`` markers, while ``running`` units are done."""
    plan = Plan(length=planned, unit=unit)
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(output=folder)
        _, fresh = growth(lambda: pipeline._left(plan, ledger.done("sleep")))
        markers = Path(ledger.path("done", "sleep"))
        markers.mkdir(parents=True)
        for i in range(done):
            (markers / f"{unit(i * (planned // done)).id}.json").touch()
        left, resumed = growth(lambda: pipeline._left(plan, ledger.done("sleep")))
        assert len(left) == planned - done
        with head_growth() as head:
            rows, streamed = growth(lambda: first(plan, left, Ledger(output=f"{folder}/run"), running))
    return {
        "planned": planned,
        "markers": done,
        "units_run": rows,
        "mib_planned": fresh,
        "mib_planned_with_markers": resumed,
        "mib_while_running": streamed,
        "head_mib_while_running": head,
        "mib_of_a_list_of_the_units": growth(lambda: [unit(i) for i in range(planned)])[1],
    }


def first(plan: Plan, left: Any, ledger: Ledger, count: int) -> int:
    """Do the first units of a plan and break off; how many were done."""
    os.makedirs(ledger.output)
    rows = pipeline._stream(
        plan, left, phase_of(0.0, ledger.output, 1), ledger, session_of(1), False, lambda worker, report: None
    )
    done = sum(not row["error"] for row in itertools.islice(rows, count))
    rows.close()
    return done


def started(gpus: int) -> contextlib.AbstractContextManager[None]:
    settle()
    return local_ray.started(num_cpus=12, num_gpus=gpus, object_store_memory=2 << 30)


def fits(gpus: int) -> bool:
    """Whether the memory that is free holds so many actors, and 2 GiB beside them."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable"))
    if free < gpus * WORKER_MIB + 2048:
        print(f"{gpus} GPUs left out: {free:.0f} MiB are free")
    return free >= gpus * WORKER_MIB + 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--gpus", type=int, nargs="*", default=[1, 4, 16, 64], help="what does not fit is left out"
    )
    parser.add_argument("--each", type=int, default=20, help="units a GPU")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a unit")
    parser.add_argument("--plan", type=int, default=1_000_000, help="units planned; 0: no measure of memory")
    parser.add_argument("--markers", type=int, default=100_000, help="of them done before")
    parser.add_argument("--running", type=int, default=2000, help="of them run")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/scheduling-cpu.json")
    args = parser.parse_args()
    from inversion import hardware  # imports torch

    kept = json.loads(args.out.read_text()) if args.out.is_file() else {}
    result: dict[str, Any] = {"runs": {}} | kept | {"hardware": hardware(), "seconds_a_unit": args.seconds}
    for gpus in filter(fits, args.gpus):
        with started(gpus):
            found = measure(gpus, args.each, args.seconds) | {"load_average": round(os.getloadavg()[0], 1)}
        result["runs"][str(gpus)] = found
        print(json.dumps(found), flush=True)
    if args.plan:
        with started(1):
            measure(1, 2, 0.0)  # what Ray itself loads is no part of the growth
            result["driver"] = memory(args.plan, args.markers, args.running)
        print(json.dumps(result["driver"], indent=1))
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
