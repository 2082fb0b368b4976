"""``noiseweave JOB --config FILE --section.field VALUE``: the one command.

Exit codes: 0 all done, 1 some units failed, or the storage, or Ray died, 2 wrong usage or config, 130 Ctrl-C,
143 SIGTERM.
"""

from __future__ import annotations

import importlib
import os
import sys

from noiseweave import __version__
from noiseweave.cluster import allocator, threads
from noiseweave.cluster.storage import StorageError
from noiseweave.jobs.arguments import JOBS, SECOND, fail, parse, usage
from noiseweave.jobs.options import meant

INTERRUPTED = 130


def command() -> int:
    """``main``, as a process of its own.

    After Ctrl-C it ends as it is, once all is closed: to take torch's and Ray's modules apart takes Python seconds.
    """
    code = main()
    if code == INTERRUPTED:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns the exit code."""
    if "_ARGCOMPLETE" in os.environ:  # a shell asks, between two words, what the next one may be
        from noiseweave.jobs import completion

        return completion.answer()
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"noiseweave {__version__}")
        return 0
    os.environ.update(threads.passive())  # before any job imports torch
    allocator.keep()
    job, *rest = arguments
    if rest and rest[0] in SECOND.get(job, {}):
        job, *rest = rest
    if job not in (*JOBS, "submit") and not any(job in inner for inner in SECOND.values()):
        close = meant(job, (*JOBS, "submit"))
        fail(
            f"no job {job!r}; jobs are {', '.join(JOBS)}, and submit, which sends one of them to a cluster{close}"
        )
    try:
        if job == "submit":
            from noiseweave.jobs import submit

            return submit.main(rest, tuple(JOBS))
        config = parse(job, rest)
        return importlib.import_module(f"noiseweave.jobs.{job}.job").run(config)
    except StorageError as e:
        if os.environ.get("NOISEWEAVE_DEBUG"):
            raise
        print("error: " + " ".join(str(e).split()), file=sys.stderr)
        return 1
    except (ValueError, OSError) as e:
        if os.environ.get("NOISEWEAVE_DEBUG"):
            raise
        fail(str(e))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
