"""Jobs that the page starts: processes of this machine, one at a time, each into a new folder below the output."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from noiseweave.cluster import storage
from noiseweave.jobs.studio import commands
from noiseweave.jobs.studio.listing import LOG, PROMPT

PATIENCE = 60.0
"""Seconds that a run has to end by itself after Ctrl-C, as a unit is computed to its end."""
FIRM = 10.0
"""Seconds that it has after SIGTERM, before it is killed."""


class Busy(ValueError):
    """Another run of this page's has not ended."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A job that was started.

    Attributes:
        folder: its output.
        command: as the page shows it, and as a shell takes it.
        process: of it.
    """

    folder: str
    command: str
    process: subprocess.Popen[bytes]

    @property
    def lives(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None


class Runs:
    """The runs of one page.

    Attributes:
        folder: the page's output, that theirs lie in.
        started: so far, the latest last.
        stopped: folders of those that were asked to end.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.started: list[Run] = []
        self.stopped: set[str] = set()
        self._lock = threading.Lock()
        self._closed = False

    def next_folder(self, job: str) -> str:
        """Where the next run of a job would write: the first number above all that are there.

        A folder named by eight digits of a hash is no number."""
        names = storage.folders_in(storage.absolute(self.folder))
        taken = [name.removeprefix(f"{job}-") for name in names if name.startswith(f"{job}-")]
        number = max((int(n) for n in taken if n.isdecimal() and len(n) < 8), default=0) + 1
        return storage.join(self.folder, f"{job}-{number:03d}")

    @property
    def current(self) -> Run | None:
        """The run that has not ended; None where there is none."""
        return self.started[-1] if self.started and self.started[-1].lives else None

    def start(self, job: str, config_of: Callable[[str], Any], positional: str) -> Run:
        """Start a job as a process of its own.

        Args:
            job: its name.
            config_of: output folder -> the job's config.
            positional: the field whose values need no flag on the command line.

        Raises:
            Busy: another run has not ended.
            ValueError: as of ``config_of``.
            OSError: the folder cannot be made.
        """
        with self._lock:
            if self._closed:
                raise Busy("studio is ending")
            if (now := self.current) is not None:
                raise Busy(f"{now.folder} is still running; one run at a time")
            folder = self.next_folder(job)
            command = commands.command_of(job, config_of(folder), positional)
            absolute = storage.absolute(folder)
            os.makedirs(absolute)
            with open(storage.join(absolute, LOG), "ab") as log:
                log.write(f"{PROMPT}{command}\n".encode("utf-8", "backslashreplace"))
                log.flush()
                process = subprocess.Popen(
                    argv_of(command),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                    start_new_session=True,  # Ctrl-C in studio's terminal reaches it through studio alone
                )
            run = Run(folder=folder, command=command, process=process)
            self.started.append(run)
            return run

    def stop(self, run: Run) -> None:
        """End a run that ``start`` gave, as Ctrl-C does, and wait for its end; the same command goes on with it."""
        if not run.lives:
            return
        self.stopped.add(run.folder)
        for number, patience in ((signal.SIGINT, PATIENCE), (signal.SIGTERM, FIRM), (signal.SIGKILL, FIRM)):
            run.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.process.wait(patience)
                return

    def close(self) -> None:
        """End what runs, at the page's end, and say how it is gone on with; nothing starts any more."""
        with self._lock:
            self._closed = True
        if (run := self.current) is not None:
            print(f"studio: ending {run.folder}; it goes on with: {run.command}", flush=True)
            try:
                self.stop(run)
            except KeyboardInterrupt:
                run.process.kill()
                raise


def argv_of(command: str) -> Sequence[str]:
    """A command as the page shows it -> the words of a process: this Python's own noiseweave, without a shell."""
    name, *words = shlex.split(command)
    assert name == "noiseweave", command
    return [sys.executable, "-m", "noiseweave", *words]
