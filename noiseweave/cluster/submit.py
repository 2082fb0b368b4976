"""Jobs sent to a cluster: the working directory travels, the log comes back, the exit code is the job's.

What the nodes need is Python with the dependencies; Noiseweave itself travels along. A Ray cluster's job server is
HTTP, port 8265 of the head node as a rule.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from noiseweave.cluster import threads
from noiseweave.cluster.session import settle

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

PORT = 8265
PATIENCE = 8.0
"""Seconds until a cluster counts as out of reach."""
GONE = 60.0
"""Seconds without an answer after which a job is no longer followed."""
LAST_LOOKS = 3
"""Times that the log of an ended job is asked for, where it cannot be read to its end."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a cluster says of a job.

    Attributes:
        id: its name on the cluster.
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        message: the cluster's own words.
        entrypoint: the command.
        exit_code: of the command, None while it runs or where it never ran.
    """

    id: str
    status: str
    message: str
    entrypoint: str
    exit_code: int | None

    @property
    def ended(self) -> bool:
        """Whether it runs no more."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


def server(address: str | None) -> str:
    """The job server's URL: of http://host:port itself, of host, host:port or ray://host:port port 8265 there.

    None takes RAY_API_SERVER_ADDRESS or RAY_ADDRESS, and else this machine.
    """
    given = address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or "auto"
    if given == "auto":
        return f"http://127.0.0.1:{PORT}"
    if given.startswith(("http://", "https://")):
        return given.rstrip("/")
    host = urllib.parse.urlsplit(given if "://" in given else f"//{given}").hostname
    if not host:
        raise ValueError(f"--address {given!r}: http://host:8265, host:port or ray://host:port")
    return f"http://[{host}]:{PORT}" if ":" in host else f"http://{host}:{PORT}"


def connect(address: str | None) -> JobSubmissionClient:
    """Ray's JobSubmissionClient.

    Raises:
        ValueError: one line, within about ten seconds, when no job server answers.
    """
    url = server(address)
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((str(parts.hostname), port), timeout=PATIENCE / 2).close()
    except OSError as e:
        raise ValueError(
            f"cluster {url}: no answer ({e}); --address names the head node's job server, as "
            f"http://HOST:{PORT}; `ray start --head --dashboard-host=0.0.0.0` starts one"
        ) from None
    settle()
    from ray.job_submission import JobSubmissionClient  # takes seconds that are not the cluster's

    client: Future[JobSubmissionClient] = Future()
    # a daemon: one that waits for ever must not keep the process from ending
    threading.Thread(target=_client, args=(JobSubmissionClient, url, client), daemon=True).start()
    try:
        return client.result(PATIENCE / 2)
    except TimeoutError:
        raise ValueError(f"cluster {url}: something listens there but does not answer as Ray does") from None


def _client(kind: type[JobSubmissionClient], url: str, client: Future[JobSubmissionClient]) -> None:
    """Ray's client has no time limit of its own."""

    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # Ray would prefer them to what it is given
        os.environ.pop(name, None)
    for module in ("job.sdk", "dashboard_sdk"):
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.WARNING)
    logging.getLogger("ray._private.runtime_env.packaging").setLevel(logging.WARNING)
    try:
        client.set_result(kind(url))
    except Exception as e:
        client.set_exception(ValueError(f"cluster {url}: {' '.join(str(e).split())[:300]}"))


# jobs


def send(
    client: JobSubmissionClient,
    folder: str,
    arguments: Sequence[str],
    variables: Mapping[str, str],
    name: str | None,
) -> str:
    """Start ``python -m noiseweave ARGUMENTS`` on the cluster, in a copy of a packed folder; returns the job's id.

    Raises:
        ValueError: the cluster refuses it.
    """
    command = shlex.join(["python", "-m", "noiseweave", *arguments])
    environment = {"working_dir": folder, "env_vars": threads.passive(variables) | dict(variables)}
    with _one_line():
        return str(client.submit_job(entrypoint=command, runtime_env=environment, submission_id=name))


def look(client: JobSubmissionClient, name: str) -> Job:
    """What a job is doing.

    Raises:
        ValueError: the cluster knows no such job.
    """
    with _one_line():
        return _job(client.get_job_info(name))


def jobs(client: JobSubmissionClient) -> list[Job]:
    """All jobs that were sent to the cluster, the newest last."""
    with _one_line():
        found = [job for job in client.list_jobs() if job.submission_id]
    return [_job(job) for job in sorted(found, key=lambda job: job.start_time or 0)]


def _job(details: JobDetails) -> Job:
    message = " ".join(str(details.message or "").partition(", last available logs")[0].split())
    status = getattr(details.status, "value", details.status)
    return Job(
        id=details.submission_id or "",
        status=str(status),
        message=message,
        entrypoint=details.entrypoint,
        exit_code=details.driver_exit_code,
    )


def stop(client: JobSubmissionClient, name: str) -> bool:
    """Ask a job to end; False where it had ended already."""
    with _one_line():
        return bool(client.stop_job(name))


def follow(client: JobSubmissionClient, name: str, write: Callable[[str], object]) -> Job:
    """Write a job's log as it grows, from its start, until the job ends. A lost connection is taken up again.

    Raises:
        ValueError: the cluster knows no such job, or has not answered for a minute.
    """
    import aiohttp

    job, heard, log, ends = look(client, name), time.monotonic(), _Log(write), 0
    while ends < LAST_LOOKS:
        whole = False
        with contextlib.suppress(RuntimeError, OSError, aiohttp.ClientError):
            asyncio.run(log.tail(client, name))
            whole = True  # the job's server closes the log when the job has ended
        try:
            job, heard = look(client, name), time.monotonic()
        except ValueError:
            if time.monotonic() - heard > GONE:
                raise
        else:
            ends += job.ended * (LAST_LOOKS if whole else 1)
        if ends < LAST_LOOKS:
            time.sleep(0.5)
    return job


@dataclass
class _Log:
    """What of a log has been written; Ray tells it from its start each time."""

    write: Callable[[str], object]
    seen: int = 0

    async def tail(self, client: JobSubmissionClient, name: str) -> None:
        at = 0
        async for text in client.tail_job_logs(name):
            at += len(text)
            if at > self.seen:
                self.write(text[len(text) - (at - self.seen) :])
                self.seen = at


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """What the cluster answers to a request that it refuses -> ValueError, one line."""
    try:
        yield
    except (RuntimeError, OSError) as e:
        lines = [
            line for line in str(e).splitlines() if line.strip(" .")
        ]  # a traceback of the server's, often
        raise ValueError(f"cluster: {' '.join((lines or [''])[-1].split())[:300]}") from None
