"""One mutation: a folder built, changed and read; and many of them, in processes whose deaths are seen.

A mutation is a function of (seed, number) alone. It may end with a result, with something quarantined, or with an
error that a command turns into one line. Anything else, 20 seconds, or 3 GiB of memory, is a fault.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from noiseweave.cluster.storage import StorageError

ROOT = Path(__file__).parents[2]
SECONDS = 20
MEMORY = 3 << 30
STARTUP = 120.0
"""Seconds of one mutation, address space over what the process has at first, and seconds until that first one."""


class Slow(BaseException):
    """A mutation took too long."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What should not have come of a mutation."""

    number: int
    target: str
    what: str
    where: str = ""

    def __str__(self) -> str:
        return (
            f"mutation {self.number} ({self.target}): {self.what}{f' at {self.where}' if self.where else ''}"
        )


def wrong(e: BaseException) -> str:
    """Why an exception is none that a command turns into one line of ours; "" where it is."""
    if isinstance(e, SystemExit):
        return "" if e.code == 2 else f"exit {e.code}"
    last = traceback.extract_tb(e.__traceback__)[-1].filename
    ours = "noiseweave" in Path(last).parts and "site-packages" not in last
    # json's and codecs' own errors, of which str() names no file
    if (
        isinstance(e, ValueError)
        and ours
        and not isinstance(e, UnicodeError)
        and type(e).__name__ != "JSONDecodeError"
    ):
        return ""
    if isinstance(e, StorageError) or (isinstance(e, OSError) and e.filename is not None):
        return ""
    return f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"


def where(e: BaseException) -> str:
    """The last line of our own code that an exception came through."""
    frames = [f for f in traceback.extract_tb(e.__traceback__) if "noiseweave" in Path(f.filename).parts]
    frames = [f for f in frames if "site-packages" not in f.filename]
    return f"{'/'.join(Path(frames[-1].filename).parts[-3:])}:{frames[-1].lineno}" if frames else ""


def target_of(number: int, names: tuple[str, ...]) -> str:
    return names[number % len(names)]


def changed(folder: Path, pattern: str, draw: Random) -> list[str]:
    """Mutate one to three files of a folder, or what lies there in their place; what was done, in words."""
    from fuzz.mutations import mutated

    done = []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        found = sorted(p for p in folder.glob(pattern) if p.is_file() and not p.is_symlink())
        if not found:
            break
        path = draw.choice(found)
        name, how = str(path.relative_to(folder)), draw.random()
        if how < 0.88:
            before = path.read_bytes()
            path.write_bytes(mutated(path.name, before, draw))
            done.append(f"{name} mutated")
        else:
            done.append(f"{name} {_displaced(path, draw)}")
    return done


def _displaced(path: Path, draw: Random) -> str:
    what = draw.choice(("gone", "a folder", "a link", "a loop", "a pipe", "renamed", "unreadable"))
    data = path.read_bytes()
    path.unlink()
    if what == "a folder":
        path.mkdir()
    elif what == "a link":
        path.symlink_to("/etc/hostname")
    elif what == "a loop":
        path.symlink_to(path.name)
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "renamed":
        stem = draw.choice(
            (b"\xff\xfe", b"x" * 200, b"a b", b"..x", b"-", b"\xc3\xa9", b"%d", b"#", b"[x]", b"{a,b}")
        )
        Path(
            os.fsdecode(os.path.join(os.fsencode(path.parent), stem + os.fsencode(path.suffix)))
        ).write_bytes(data)
    elif what == "unreadable":
        path.write_bytes(data)
        path.chmod(0)
    return what


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise Slow in the block after SECONDS."""

    def ring(number: int, frame: object) -> None:
        raise Slow(f"{SECONDS} s are over")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def one(seed: int, number: int, names: tuple[str, ...], keep: Path | None = None) -> Fault | None:
    """Do a mutation. Its folder is thrown away, unless ``keep`` is where it shall lie."""
    from fuzz.readers import TARGETS

    name, draw = target_of(number, names), Random(f"{seed}:{number}")
    here = os.getcwd()
    base = Path(tempfile.mkdtemp(prefix="fuzz-")) if keep is None else keep
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            TARGETS[name].build(base)
        changed(base, TARGETS[name].files, draw)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return _read(number, name, base)
    finally:
        os.chdir(here)
        if keep is None:
            shutil.rmtree(base, ignore_errors=True)


def _read(number: int, name: str, base: Path) -> Fault | None:
    from fuzz.readers import TARGETS

    try:
        with limited():
            TARGETS[name].read(base)
    except KeyboardInterrupt:
        raise
    except BaseException as e:
        what = wrong(e)
        return Fault(number=number, target=name, what=what, where=where(e)) if what else None
    return None


# many, in processes of their own


def batch(seed: int, start: int, stop: int, names: tuple[str, ...]) -> None:
    """In a process of its own: a line before each mutation, and one after it."""
    import faulthandler

    faulthandler.enable()
    one(-1, 0, (names[start % len(names)],))  # what is imported on the way does not count
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if LINUX else 0
    if held:
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, resource.RLIM_INFINITY))
    out = os.fdopen(os.dup(1), "w", buffering=1)
    for number in range(start, stop):
        print(json.dumps({"begin": number}), file=out)
        if os.environ.get("FUZZ_ABORT_AT") == str(number):  # a test's
            os.abort()
        fault = one(seed, number, names)
        print(json.dumps({"end": number, "fault": fault and vars(fault)}), file=out)


LINUX = sys.platform == "linux"


def run(seed: int, numbers: range, names: tuple[str, ...], each: int = 250) -> Iterator[Fault]:
    """Every mutation of a range, ``each`` of them a process; a process that dies is one fault and goes on after it."""
    at = numbers.start
    while at < numbers.stop:
        stop = min(at + each, numbers.stop)
        reached = yield from _watched(seed, at, stop, names)
        at = reached


def _watched(seed: int, start: int, stop: int, names: tuple[str, ...]) -> Iterator[Fault]:
    """A batch's faults; where it got to is given back."""
    words = ["--seed", seed, "--batch", f"{start}:{stop}", *(w for n in names for w in ("--target", n))]
    more = {"MALLOC_ARENA_MAX": "2", "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    path = os.pathsep.join(str(ROOT / p) for p in (".", "tests", "tests/jobs"))
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        process = subprocess.Popen(
            [sys.executable, "-m", "fuzz", *map(str, words)],
            stdout=subprocess.PIPE, stderr=errors, text=True, cwd=scratch,
            env=os.environ | more | {"PYTHONPATH": path, "TMPDIR": scratch},
        )  # fmt: skip
        dog = _Watchdog(process)
        begun = start
        assert process.stdout is not None
        for line in process.stdout:
            dog.pat()
            said = json.loads(line)
            begun = said.get("begin", begun)
            if said.get("fault"):
                yield Fault(**said["fault"])
            if said.get("end") == stop - 1:
                begun = stop
        process.wait()
        dog.stop()
        if begun == stop:
            return stop
        errors.seek(0)
        last = [line for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
        ours = next(
            (line.strip() for line in last if "/noiseweave/" in line and "site-packages" not in line), ""
        )
        what = "hung, and was killed" if dog.bit else f"the process ended with {process.returncode}"
        yield Fault(
            number=begun, target=target_of(begun, names), what=what, where=ours or " ".join(last[-1:])
        )
        return begun + 1


class _Watchdog:
    """Kills a process that says nothing for too long: C code that hangs sees no alarm."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        import threading

        self.process, self.bit, self.seen, self.over = (
            process,
            False,
            time.monotonic() + STARTUP,
            threading.Event(),
        )
        threading.Thread(target=self._look, daemon=True).start()

    def pat(self) -> None:
        self.seen = time.monotonic()

    def stop(self) -> None:
        self.over.set()

    def _look(self) -> None:
        while not self.over.wait(1):
            if time.monotonic() - self.seen > SECONDS + 10:
                self.bit = True
                self.process.kill()
                return


def summary(faults: list[Fault]) -> Counter[str]:
    """Faults of one kind and place together."""
    return Counter(f"{f.what.partition(':')[0]} at {f.where}" for f in faults)
