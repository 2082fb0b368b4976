"""The outputs of jobs below a folder: what ran, how far it is by its done-markers, and what went wrong.

Nothing is written, no link is followed, and what a file there says is only ever shown as text.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from noiseweave.cluster import lock, storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.records import Json
from noiseweave.jobs.report.faults import failed_units
from noiseweave.jobs.report.records import Damage, count, objects, report_of
from noiseweave.jobs.studio.pictures import below

MOST = 50
"""Outputs that are shown, the latest first."""
LOOKED = 2000
"""Folders that are looked into."""
DEPTH = 3
"""Of folders below the one that is looked through."""
TAIL = 4096
"""Bytes of a log that are read."""
LINES = 6
"""Last lines of a log that are shown."""
PAGE = "report.html"
LOG = "run.log"
"""In the folder of a run that a page has started: its command, and what it said."""
PROMPT = "$ "
"""Before the command there."""
MAKES = ("generate", "window", "sample", "inpaint")
"""Phases whose units make pictures."""
ORDER = ("embed", "embed-pool", "pool", "pair", "judge", *MAKES)
State = Literal["running", "done", "failed", "stopped"]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """How far a phase is.

    Attributes:
        units: that are done.
        planned: units in all, None where no file says it.
        produced: what they made.
    """

    name: str
    units: int
    produced: int
    planned: int | None = None


@dataclass(frozen=True, kw_only=True)
class Output:
    """An output folder.

    Attributes:
        name: its path below the folder that was looked through.
        job: that wrote it.
        begun: seconds since 1970.
        state: running is that a process holds its lock; stopped is that it did not end.
        pictures: made so far.
        planned: pictures that will be made if all of them are kept, None where no file says it.
        quarantined: pieces of input that were left out.
        errors: of failed units.
        page: whether there is a report.html.
        command: that made it, where a page has started it.
        last: last lines of what it said, where a page has started it.
    """

    name: str
    job: str
    begun: float
    state: State
    phases: tuple[Phase, ...] = ()
    pictures: int = 0
    planned: int | None = None
    quarantined: int = 0
    errors: tuple[str, ...] = ()
    page: bool = False
    command: str = ""
    last: tuple[str, ...] = ()


@dataclass
class _Sums:
    """Of a phase's markers: which are counted, and what they come to."""

    counted: set[str] = field(default_factory=set)
    produced: int = 0
    quarantined: int = 0


class Listing:
    """The outputs below a folder. Each done-marker is read once, for none changes."""

    def __init__(self, root: str) -> None:
        """
        Args:
            root: a local folder; it need not be there.
        """
        self.root = storage.absolute(root)
        self._sums: OrderedDict[tuple[str, float, str], _Sums] = OrderedDict()

    def all(self) -> list[Output]:
        """The outputs, the latest begun first."""
        names = sorted(self.names().items(), key=lambda item: (-item[1], item[0]))
        return [self._read(name, begun) for name, begun in names[:MOST]]

    def names(self) -> dict[str, float]:
        """Path below the root -> when it was begun, of every output."""
        found = {}
        for path in _folders(self.root):
            begun = _begun(path)
            if begun is not None:
                found[os.path.relpath(path, self.root)] = begun
        return found

    def page(self, name: str) -> str | None:
        """The report.html of an output by its name; None where that is none, or it has none."""
        if name not in self.names():
            return None
        path = os.path.join(self.root, name, PAGE)
        good = os.path.isfile(path) and not os.path.islink(path) and below(self.root, path)
        return path if good else None

    def _read(self, name: str, begun: float) -> Output:
        path = os.path.join(self.root, name)
        damage = Damage()
        config = objects(os.path.join(path, "_run", "config.json"), damage)
        report = report_of(path, damage)
        command, last = said(os.path.join(path, LOG))
        job = _job(path, config, command)
        errors = tuple(f"{row['unit']}: {row['error']}" for row in failed_units(report))
        book = Ledger(output=path)
        plan = objects(book.path("groups.json"), damage)
        planned = plan.get("groups") if count(plan.get("groups")) else None
        there = {*storage.folders_in(book.path("done")), *(() if planned is None else ("generate",))}
        ordered = sorted(
            there, key=lambda phase: (ORDER.index(phase) if phase in ORDER else len(ORDER), phase)
        )
        sums = {phase: self._sum(book, name, begun, phase) for phase in ordered}
        phases = [
            Phase(
                name=phase,
                units=len(one.counted),
                produced=one.produced,
                planned=planned if phase == "generate" else None,
            )
            for phase, one in sums.items()
        ]
        left_out = sum((report.get("quarantined") or {}).values())
        return Output(
            name=name,
            job=job,
            begun=begun,
            state=_state(path, job, bool(report), bool(errors)),
            phases=tuple(phases),
            pictures=sum(one.produced for phase, one in sums.items() if phase in MAKES) + (job == "fuse"),
            planned=_planned(plan, config),
            quarantined=left_out or sum(one.quarantined for one in sums.values()),
            errors=errors,
            page=os.path.isfile(os.path.join(path, PAGE)),
            command=command,
            last=last,
        )

    def _sum(self, book: Ledger, name: str, begun: float, phase: str) -> _Sums:
        """The sums of a phase, with the markers taken in that are new."""
        key = (name, begun, phase)
        sums = self._sums.setdefault(key, _Sums())
        self._sums.move_to_end(key)
        while len(self._sums) > 4 * MOST:
            self._sums.popitem(last=False)
        there = book.done(phase)
        if not sums.counted <= there:  # it was begun anew
            sums = self._sums[key] = _Sums()
        for unit in sorted(there - sums.counted):
            marker = objects(book.path("done", phase, f"{unit}.json"), Damage())
            sums.counted.add(unit)
            if count(marker.get("produced")):
                sums.produced += marker["produced"]
            of = marker.get("quarantined")
            sums.quarantined += sum(n for n in (of.values() if isinstance(of, dict) else ()) if count(n))
        return sums


def _folders(root: str) -> Iterator[str]:
    """Folders below one, none inside an output, none by a link, hidden or named with an underscore."""
    waiting = [(root, 0)]
    for _ in range(LOOKED):
        if not waiting:
            return
        here, depth = waiting.pop(0)
        if depth:
            yield here
        if depth == DEPTH or (depth and _begun(here) is not None):
            continue
        try:
            with os.scandir(here) as scan:
                inner = [e.path for e in scan if e.is_dir(follow_symlinks=False) and e.name[0] not in "._"]
        except OSError:
            continue
        waiting += [(path, depth + 1) for path in sorted(inner)]


def _begun(path: str) -> float | None:
    """When the run of an output folder was begun; None where it is none."""
    for file in ("_run/config.json", "fuse.json", LOG):
        try:
            return os.lstat(os.path.join(path, file)).st_mtime
        except OSError:
            continue
    return None


def _state(path: str, job: str, ended: bool, failed: bool) -> State:
    holder = lock.holder(path)
    if holder is not None and holder.lives is not False:
        return "running"
    if failed:
        return "failed"
    return "done" if ended or job == "fuse" else "stopped"


def _planned(plan: Json, config: Json) -> int | None:
    """Pictures of augment's plan."""
    each = config.get("fusion.per_pair", 1)
    return plan["pairs"] * each if count(plan.get("pairs")) and count(each) else None


def _job(path: str, config: Json, command: str) -> str:
    if "job" in config:
        return str(config["job"])[:40]
    if os.path.isfile(os.path.join(path, "fuse.json")):
        return "fuse"
    return [*command.split(), "", ""][1][:40]


def said(path: str) -> tuple[str, tuple[str, ...]]:
    """The command on the first line of a run's log, and its last lines, without a terminal's colours."""
    if os.path.islink(path) or not os.path.isfile(path):
        return "", ()
    with Path(path).open("rb") as stream:
        first = stream.readline(TAIL)
        command = first.decode("utf-8", "replace").removeprefix(PROMPT).strip()
        stream.seek(max(len(first), os.path.getsize(path) - TAIL))
        text = ESCAPES.sub("", stream.read(TAIL).decode("utf-8", "replace"))
    lines = [line.rstrip() for line in text.replace("\r", "\n").split("\n")]
    return command, tuple(line[:300] for line in lines if line.strip())[-LINES:]
