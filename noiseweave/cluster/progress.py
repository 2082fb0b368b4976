"""What a person watches while a job runs: stage, units and pictures done, pictures/s, time left, workers.

Pictures inside a unit count as they are made: workers say how far they are, a report every half second at most, and
none of a unit that is shorter than that. The bar is full, and no time is left, when every unit is done and not before;
the last count of a phase is what it made.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace

from rich.console import Console
from rich.live import Live
from rich.text import Text

from noiseweave.cluster.polling import repeated

EVERY = 5.0  # seconds between lines where there is no terminal, at least; and of SHARE of the time that has passed
SHARE = 0.02
STILL = 60.0  # seconds between two lines that have nothing new
LOOK = 1.0  # seconds between two looks at what workers say
BAR = 20  # characters
QUIET = 0.5  # seconds between two reports of a worker


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a worker says of the unit that it computes.

    Attributes:
        unit: its id.
        share: of it that is done, 0 to 1.
        size: things that it makes; None where that is not known before.
    """

    unit: str
    share: float
    size: int | None


OnProgress = Callable[[str, Progress | None], None]
"""(worker, report): what a worker is at; None says that it has computed its unit."""


@dataclass
class Meter:
    """Counts of one phase, and the line that shows them."""

    stage: str
    units: int
    workers: int
    noun: str = "images"
    done: int = 0
    produced: int = 0
    quarantined: int = 0
    earlier: int = 0
    start: float = field(default_factory=time.monotonic)
    running: dict[str, Progress] = field(default_factory=dict)
    computed: dict[str, Progress] = field(default_factory=dict)
    shown: int = 0
    over: bool = False
    ended: deque[str] = field(default_factory=lambda: deque(maxlen=1000))

    def add(self, unit: str, produced: int, quarantined: int) -> None:
        """A unit is done."""
        self.done += 1
        self.produced += produced
        self.quarantined += quarantined
        self.drop(unit)

    def drop(self, unit: str) -> None:
        """A unit has ended, in this pass: nothing more counts that is heard of it."""
        self.computed.pop(unit, None)
        self.ended.append(unit)

    def begin_pass(self) -> None:
        """Units that ended without a result begin again."""
        self.computed.clear()
        self.ended.clear()

    def end(self) -> None:
        """The phase is over: what no unit brought to its end counts no more."""
        self.over = True

    def running_now(self, reports: Mapping[str, Progress]) -> None:
        """worker -> what it is at, of all workers. A unit that its worker has left is computed: it counts whole until
        its row comes, so that the display does not fall back while output is written."""
        now = {report.unit: report for report in reports.values() if report.unit not in self.ended}
        for report in self.running.values():
            if report.unit not in now and report.unit not in self.ended:
                self.computed[report.unit] = replace(report, share=1.0)
        self.running = now

    def on_progress(self, worker: str, report: Progress | None) -> None:
        """An ``OnProgress`` for the only worker, in this process."""
        self.running_now({} if report is None else {worker: report})

    def line(self) -> str:
        """Stage, units, pictures, pictures/s, time left and workers, as one line."""
        seconds = max(time.monotonic() - self.start, 1e-6)
        made, share = self._reach()
        whole = self.done >= self.units
        # pictures are not taken back while it runs: a unit may yield fewer than it began
        self.shown = self.produced if whole or self.over else max(self.shown, int(made))
        full = BAR if whole else min(round(BAR * share), BAR - 1)
        bar = "█" * full + "░" * (BAR - full)
        left = seconds * (1 - share) / share if share else None
        if left is not None and not whole:
            left = max(left, 1.0)  # what is computed is not yet written
        parts = [
            f"{self.stage:<9}{bar} {self.done}/{self.units} units",
            f"{self.shown} {self.noun}",
            f"{self.shown / seconds:.1f}/s",
            f"ETA {clock(left)}",
            f"{self.workers} worker{'s' * (self.workers != 1)}",
        ]
        if self.quarantined:
            parts.append(f"{self.quarantined} quarantined")
        if self.earlier:
            parts.append(f"{self.earlier} done before")
        return "  ".join(parts)

    def news(self) -> tuple[float, ...]:
        """What changes when the work goes on; the clock alone changes none of it."""
        return (*self._reach(), self.done, self.quarantined)

    def _reach(self) -> tuple[float, float]:
        """Things made so far, those of running units included, and the share of all work that is done."""
        now = [] if self.over else list((self.computed | self.running).values())
        sizes = [report.size for report in now if report.size is not None]
        made = self.produced + sum(report.share * (report.size or 0) for report in now)
        begun = self.done + len(now)
        if len(sizes) == len(now) and self.produced + sum(sizes) and begun and not self.over:
            # units that have not begun are taken to be like those that have
            return made, made / ((self.produced + sum(sizes)) * max(self.units, begun) / begun)
        share = (self.done + sum(report.share for report in now)) / self.units if self.units else 1.0
        return made, min(share, 1.0)


def clock(seconds: float | None) -> str:
    """Seconds -> m:ss or h:mm:ss; ``--:--`` when not known yet."""
    if seconds is None:
        return "--:--"
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02}:{s:02}" if hours else f"{m}:{s:02}"


class Display:
    """Draws a Meter: a live line on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, meter: Meter, live: Live | None) -> None:
        self.meter, self.live, self.last = meter, live, -STILL
        self.told: object = None
        self.lock = threading.Lock()  # who looks at workers has a thread of its own

    def __rich__(self) -> Text:
        return Text(self.meter.line())

    def update(self) -> None:
        """Print the line where there is no terminal: seldom of a long run, and where something is new."""
        with self.lock:
            now, news = time.monotonic(), self.meter.news()
            wait = max(EVERY, SHARE * (now - self.meter.start)) if news != self.told else STILL
            if self.live is None and now - self.last >= wait:
                self._print(now, news)

    def end(self) -> None:
        """Print the last line where there is no terminal, unless it stands there already."""
        with self.lock:
            self.meter.end()
            news = self.meter.news()
            if self.live is None and news != self.told:
                self._print(time.monotonic(), news)

    def _print(self, now: float, news: object) -> None:
        self.last, self.told = now, news
        print(self.meter.line(), file=sys.stderr, flush=True)


@contextlib.contextmanager
def watch(meter: Meter, look: Callable[[], Mapping[str, Progress]] | None = None) -> Iterator[Display]:
    """Draw the meter while the block runs.

    Args:
        look: what workers of other processes say; called now and then, on a thread of its own.
    """
    console = Console(stderr=True)
    display = Display(meter, None)

    def follow() -> None:
        with contextlib.suppress(Exception):  # a display that fails fails no job
            if look is not None:
                meter.running_now(look())
            display.update()

    if console.is_terminal:
        with Live(display, console=console, refresh_per_second=4) as live, repeated(follow, LOOK):
            display.live = live
            yield display
            display.end()
        return
    if meter.units:
        display.update()  # the first unit may take its time
    with repeated(follow, LOOK):
        yield display
    display.end()


class Channel:
    """Words from Ray's workers to the driver, by way of Ray's key-value store: no process, no port of their own.

    It travels to the workers; each leaves one value, which replaces its last one.
    """

    def __init__(self) -> None:
        self.prefix = f"noiseweave-{uuid.uuid4().hex}/"
        self.begun, self.said = 0.0, False

    def on_progress(self, worker: str, report: Progress | None) -> None:
        """The worker's side. Says nothing of a unit's first half second, and seldom after that."""
        now = time.monotonic()
        if report is not None and report.share == 0:
            self.begun = now
        if (report is None and not self.said) or (report is not None and now - self.begun < QUIET):
            return
        self.begun, self.said = now, report is not None
        with contextlib.suppress(Exception):  # a lost report costs nothing
            from ray.experimental.internal_kv import _internal_kv_put

            value = b"" if report is None else json.dumps(asdict(report)).encode()
            _internal_kv_put(self.prefix + worker, value, overwrite=True)

    def look(self) -> dict[str, Progress]:
        """The driver's side: worker -> its report, of those that are at something."""
        from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_list

        found = {key.decode(): _internal_kv_get(key) for key in _internal_kv_list(self.prefix)}
        return {key: Progress(**json.loads(value)) for key, value in found.items() if value}

    def close(self) -> None:
        """Take all reports out of the store."""
        with contextlib.suppress(Exception):
            from ray.experimental.internal_kv import _internal_kv_del

            _internal_kv_del(self.prefix, del_by_prefix=True)
