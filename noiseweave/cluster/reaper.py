"""Ends what a Ray that a run started leaves behind, however the run ended.

Ray ends its processes one after another, each when it misses another one: after a kill some are there for a minute.
They cannot be found by descent, which is lost with the process between. But all of them write their logs into the
folder of the Ray that they belong to, and what else keeps a file open there for writing?

As a script (``python reaper.py PID FOLDER``) it waits for the driver's end, also by SIGKILL, and then cleans up.
It needs nothing of Noiseweave, so that it starts in no time.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time

import psutil

LOOK = 0.5
"""Seconds between two looks at the driver."""
GRACE = 1.0
"""Seconds that what is left has to end by itself, as most of it does."""
ROUNDS = 5
"""Times that the processes are looked for: a worker that is being started may show up after the first."""


def left_of(folder: str) -> list[psutil.Process]:
    """This user's processes, but for this one, that write into a folder (links resolved), and all that they started."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and _writes(process, folder):
                for each in (process, *process.children(recursive=True)):
                    found[each.pid] = each
    return list(found.values())


def _writes(process: psutil.Process, folder: str) -> bool:
    if process.uids().real != os.getuid() or process.status() == psutil.STATUS_ZOMBIE:
        return False
    # who only reads a log, as tail does, is none of Ray's; where a system does not tell, the file is enough
    return any(
        file.path.startswith(folder + os.sep) and getattr(file, "mode", "w") != "r"
        for file in process.open_files()
    )


def end(folder: str, grace: float = GRACE) -> None:
    """Kill what ``left_of`` finds and what is still there after ``grace`` seconds."""
    for _ in range(ROUNDS):
        left = left_of(folder)
        _, left = psutil.wait_procs(left, timeout=grace)
        if not left:
            return
        for process in left:
            with contextlib.suppress(
                psutil.Error
            ):  # psutil looks whether the number is another process's by now
                process.kill()
        psutil.wait_procs(left, timeout=GRACE)
        grace = 0.0


def main(driver: str, folder: str) -> None:
    """Wait for the end of the driver (its process id), then end the Ray of a session folder."""
    while os.getppid() == int(driver):
        time.sleep(LOOK)
    end(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
