"""``noiseweave submit JOB ...``: the same job, on a Ray cluster; and status, logs, stop and list of such jobs."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING

from noiseweave.cluster import package as cluster_package
from noiseweave.cluster import submit
from noiseweave.jobs.options import meant

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

SHOWN = 10  # files that are named
ACTIONS = {
    "status": "how a job is doing",
    "logs": "its log, as it grows; exits as the job does",
    "stop": "end a job; the same command goes on from there",
    "list": "all jobs of the cluster",
}
CONFIGS = "submitted"
"""Folder in the package for the YAML files that a command names, wherever they lie here."""


def main(words: Sequence[str], jobs: Sequence[str]) -> int:
    """Do what the words after ``noiseweave submit`` say; returns the exit code.

    Raises:
        ValueError: what a user can put right, in one line.
        SystemExit: wrong usage, 2.
    """
    options = _parser(jobs).parse_args(words)
    if options.job in ACTIONS:
        return _act(options)
    if options.job not in jobs:
        close = meant(options.job, (*jobs, *ACTIONS))
        raise ValueError(f"submit: no job {options.job!r}; jobs are {', '.join(jobs)}{close}")
    return _send(options)


def _parser(jobs: Sequence[str]) -> argparse.ArgumentParser:
    actions = "".join(f"\n  {name:<8}{text}" for name, text in ACTIONS.items())
    parser = argparse.ArgumentParser(
        prog="noiseweave submit",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run a job on a Ray cluster: noiseweave submit [options] JOB --config FILE ...\n"
        f"Options of submit stand before JOB; all that follows is the job's own. In place of JOB:{actions}",
    )
    _address(parser)
    parser.add_argument("--working_dir", default=".", help="folder that travels to the cluster (%(default)s)")
    parser.add_argument("--detach", action="store_true", help="do not wait: print the job's id and leave")
    parser.add_argument("--id", help="name of the job on the cluster; one is made up")
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="environment variable of the job; without a value, as it is here; may be given again",
    )
    parser.add_argument("job", metavar="JOB", help=f"{', '.join(jobs)}; or {', '.join(ACTIONS)}")
    parser.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="...", help="the job's own options, or an id"
    )
    return parser


def _address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address",
        help="the cluster: http://HOST:8265, HOST or ray://HOST:PORT; by default "
        "RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or this machine",
    )


# jobs that are there


def _act(options: argparse.Namespace) -> int:
    parser = argparse.ArgumentParser(prog=f"noiseweave submit {options.job}")
    _address(parser)
    parser.set_defaults(address=options.address)
    if options.job != "list":
        parser.add_argument("id", help="the job's name on the cluster")
    given = parser.parse_args(options.rest)
    client = submit.connect(given.address)
    if options.job == "list":
        for job in submit.jobs(client):
            print(_line(job))
        return 0
    if options.job == "status":
        print(_line(submit.look(client, given.id)))
        return 0
    if options.job == "stop":
        ended = not submit.stop(client, given.id)
        print(f"{given.id}: it had ended already" if ended else f"{given.id}: asked to stop")
        return 0
    return _follow(client, given.id)


def _line(job: submit.Job) -> str:
    code = "" if job.exit_code is None else f" (exit code {job.exit_code})"
    return f"{job.id}  {job.status}{code}  {job.entrypoint}"


# a new one


def _send(options: argparse.Namespace) -> int:
    from noiseweave.jobs.arguments import parse

    config = parse(options.job, list(options.rest))  # a mistake is reported here, not after the upload
    if not ("://" in config.output or os.path.isabs(os.path.expanduser(config.output))):
        raise ValueError(
            f"output {config.output!r}: on the cluster this is a folder in the job's copy of the working directory, "
            "which is deleted; give an absolute path that all nodes reach, or a URL"
        )
    variables = _variables(options.env)
    if not os.path.isdir(options.working_dir):
        raise ValueError(f"--working_dir {options.working_dir!r}: no such folder")
    cluster_package.check_folder(options.working_dir)
    if secrets := cluster_package.secrets_of(options.working_dir):
        more = f" and {len(secrets) - SHOWN} more" if len(secrets) > SHOWN else ""
        print(
            f"left here, as they may hold passwords or keys: {', '.join(secrets[:SHOWN])}{more}", flush=True
        )
    client = submit.connect(options.address)
    with tempfile.TemporaryDirectory(prefix="noiseweave-submit-") as package:
        size = cluster_package.pack(options.working_dir, package)
        arguments = [options.job, *_carried(list(options.rest), package)]
        name = submit.send(client, package, arguments, variables, options.id)
    print(f"sent {size / 1e6:.1f} MB as {name}", flush=True)
    return 0 if options.detach else _follow(client, name)


def _variables(given: Sequence[str]) -> dict[str, str]:
    out = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not name or not (equals or name in os.environ):
            raise ValueError(f"--env {word!r}: NAME=VALUE, or the NAME of a variable that is set here")
        out[name] = value if equals else os.environ[name]
    return out


def _carried(arguments: list[str], package: str) -> list[str]:
    """The job's options, with each --config FILE copied into the package and named by its place there."""
    out: list[str] = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        option, equals, file = word.partition("=")
        if before == "--config":
            out.append(_copied(word, package))
        elif option == "--config" and equals:
            out.append(f"--config={_copied(file, package)}")
        else:
            out.append(word)
    return out


def _copied(file: str, package: str) -> str:
    folder = os.path.join(package, CONFIGS)
    os.makedirs(folder, exist_ok=True)
    name = f"{len(os.listdir(folder))}-{os.path.basename(file)}"
    shutil.copyfile(file, os.path.join(folder, name))
    return f"{CONFIGS}/{name}"


def _follow(client: JobSubmissionClient, name: str) -> int:
    """The job's log and exit code; Ctrl-C leaves it running or stops it, as the person says."""
    try:
        job = submit.follow(client, name, _write)
    except KeyboardInterrupt:
        return _interrupted(client, name)
    if job.status != "SUCCEEDED":
        print(f"{name}: {job.status}: {job.message}", file=sys.stderr)
    code = int(job.status != "SUCCEEDED") if job.exit_code is None else job.exit_code
    return code if code >= 0 else 128 - code  # ended by a signal: as a shell has it


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _interrupted(client: JobSubmissionClient, name: str) -> int:
    """Where nobody can be asked the job is left running: nothing that works is lost."""
    answer = "d"
    if sys.stdin.isatty():
        try:
            answer = input("\nleave the job running (d, the default), or stop it (s)? ").strip().lower()
        except (EOFError, KeyboardInterrupt):
            answer = "d"
    if answer.startswith("s"):
        submit.stop(client, name)
        print(f"{name}: asked to stop; the same command goes on from there", file=sys.stderr)
    else:
        print(f"{name}: runs on; `noiseweave submit logs {name}` shows it again", file=sys.stderr)
    return 130
