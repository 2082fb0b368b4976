"""One driver an output folder: a file there says which process of which host writes, and beats while it does.

    <output>/.noiseweave-lock.json   made by whoever begins, deleted at the end

A second driver is refused. What a killed one left is taken over: at once where its process was of this machine and is
dead, otherwise after a minute in which the file does not change. No two hosts' clocks are compared.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace

from noiseweave.cluster import processes, storage
from noiseweave.cluster.polling import leave
from noiseweave.cluster.storage import StorageError

NAME = ".noiseweave-lock.json"
BEAT = 10.0
"""Seconds between two beats."""
STALE = 60.0
"""Seconds without one after which a writer of whom nothing else is known counts as dead."""
LOOK = 1.0
SETTLE = 0.5
"""Seconds between writing over a dead writer's lock and reading it: another may have done so at the same time."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who writes.

    Attributes:
        id: of this claim; a process may make several, one after another.
        host, pid: the process.
        machine, started: which host and process they are, as ``processes`` has it.
        beats: since it began.
    """

    id: str = field(default_factory=lambda: secrets.token_hex(8))
    host: str = field(default_factory=platform.node)
    pid: int = field(default_factory=os.getpid)
    machine: str = field(default_factory=processes.machine)
    started: float = field(default_factory=lambda: processes.started(os.getpid()) or 0.0)
    beats: int = 0

    @property
    def lives(self) -> bool | None:
        """Whether its process does; None where that cannot be seen from here."""
        return processes.lives(self.pid, self.started) if self.machine == processes.machine() else None


class InUseError(ValueError):
    """Another process writes to the output folder."""

    def __init__(self, output: str, holder: Holder) -> None:
        super().__init__(
            f"output {output!r} is being written by process {holder.pid} on {holder.host}; "
            "wait for its end, or give another --output"
        )


@contextlib.contextmanager
def held(output: str) -> Iterator[None]:
    """Be the only driver that writes to a folder, while the block runs.

    A folder that goes, or is taken over by another driver while this process did not run, ends this process with one
    line and exit code 1 within ``BEAT`` seconds.

    Raises:
        ValueError: nothing can be written there, or another driver writes there: which.
        StorageError: the storage failed in the block, or the folder is gone; any OSError in the block becomes one.
    """
    storage.check_writable(output)
    lock = _Lock(output)
    lock.take()
    over = threading.Event()

    def follow() -> None:
        while not over.wait(BEAT):
            if lost := lock.beat():
                leave(f"error: {lost}")

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    except Exception as e:
        if lost := lock.beat():
            raise StorageError(lost) from e
        if isinstance(e, OSError) and not isinstance(e, StorageError):
            raise StorageError(f"{type(e).__name__}: {' '.join(str(e).split())}") from e
        raise
    else:
        if lost := lock.beat():
            raise StorageError(lost)
    finally:
        over.set()
        thread.join()
        lock.release()


def holder(output: str) -> Holder | None:
    """Who a folder's lock names; None where there is none. What is half written is somebody unknown."""
    try:
        text = storage.read(storage.join(output, NAME))
    except FileNotFoundError:
        return None
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return Holder(id="", host="a host not named", pid=0, machine="", started=0.0)


class _Lock:
    """The file, and who this is."""

    def __init__(self, output: str) -> None:
        self.output, self.path, self.mine = output, storage.join(output, NAME), Holder()
        self.turn = threading.Lock()

    def take(self) -> None:
        """Write the file, or raise InUseError."""
        while not storage.create(self.path, self._text()):
            found = self._found()
            if found is None:  # released between the two
                continue
            self._await_death(found)
            with _alone(self.output):
                if self._found() == found:
                    storage.write(self.path, self._text())
            time.sleep(SETTLE)
            if self._is_mine(self._found()):
                return

    def _await_death(self, found: Holder) -> None:
        """Return when its holder is dead; raise InUseError when it is not."""
        if found.lives is None:
            print(
                f"output {self.output!r}: process {found.pid} on {found.host} may still be writing; "
                f"taken over in {STALE:g} s if it gives no sign",
                file=sys.stderr,
                flush=True,
            )
            end = time.monotonic() + STALE
            while time.monotonic() < end:
                time.sleep(LOOK)
                now = self._found()
                if now is None:
                    return
                if now != found:
                    raise InUseError(self.output, now)
            return
        if found.lives:
            raise InUseError(self.output, found)

    def beat(self) -> str:
        """Say that this process lives; why it is no longer the writer, "" while it is."""
        with self.turn, contextlib.suppress(OSError, ValueError):  # a store may fail now and then
            with _alone(self.output):
                found = self._found()
                if self._is_mine(found):
                    self.mine = replace(self.mine, beats=self.mine.beats + 1)
                    storage.write(self.path, self._text())
                    return ""
            if found is None:
                return (
                    f"output {self.output!r} is gone: it was removed or unmounted while this run wrote to it"
                )
            return (
                f"output {self.output!r} was taken over by process {found.pid} on {found.host}, as this one gave no "
                f"sign for {STALE:g} s"
            )
        return ""

    def release(self) -> None:
        """Delete the file, where it is this one's still."""
        with contextlib.suppress(OSError, ValueError):
            if self._is_mine(self._found()):
                storage.remove(self.path)

    def _text(self) -> bytes:
        return (json.dumps(asdict(self.mine), indent=1) + "\n").encode()

    def _found(self) -> Holder | None:
        return holder(self.output)

    def _is_mine(self, found: Holder | None) -> bool:
        return found is not None and found.id == self.mine.id


@contextlib.contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Between reading the file and writing it no other process of a local folder does so; elsewhere that may be."""
    if "://" in folder:
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield
        return
    try:
        with contextlib.suppress(OSError):  # some network drives cannot
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
