"""What a person watches while a job runs: stage, units done, images/s, time left, workers."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.text import Text

EVERY = 5.0  # seconds between lines where there is no terminal


@dataclass
class Meter:
    """Counts of one phase, and the line that shows them."""

    stage: str
    units: int
    workers: int
    things: str = "images"
    done: int = 0
    produced: int = 0
    quarantined: int = 0
    earlier: int = 0
    start: float = field(default_factory=time.monotonic)

    def add(self, produced: int, quarantined: int) -> None:
        self.done += 1
        self.produced += produced
        self.quarantined += quarantined

    def line(self) -> str:
        seconds = max(time.monotonic() - self.start, 1e-6)
        left = (self.units - self.done) * seconds / self.done if self.done else None
        share = self.done / self.units if self.units else 1.0
        bar = "█" * round(20 * share) + "░" * (20 - round(20 * share))
        parts = [
            f"{self.stage:<9}{bar} {self.done}/{self.units} units",
            f"{self.produced / seconds:.1f} {self.things}/s",
            f"ETA {clock(left)}",
            f"{self.workers} worker{'s' * (self.workers != 1)}",
        ]
        if self.quarantined:
            parts.append(f"{self.quarantined} quarantined")
        if self.earlier:
            parts.append(f"{self.earlier} done before")
        return "  ".join(parts)


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
        self.meter, self.live, self.last = meter, live, 0.0

    def __rich__(self) -> Text:
        return Text(self.meter.line())

    def update(self) -> None:
        if self.live is None and time.monotonic() - self.last >= EVERY:
            self.last = time.monotonic()
            print(self.meter.line(), file=sys.stderr, flush=True)


@contextmanager
def watch(meter: Meter) -> Iterator[Display]:
    console = Console(stderr=True)
    display = Display(meter, None)
    if console.is_terminal:
        with Live(display, console=console, refresh_per_second=4) as live:
            display.live = live
            yield display
        return
    if meter.units:
        display.update()  # the first unit may take its time
    yield display
    print(meter.line(), file=sys.stderr, flush=True)
