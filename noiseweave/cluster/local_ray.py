"""A Ray of a run's own, on this machine: nobody else can use it, its end is reported, and none of it is left behind."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil

from noiseweave.cluster import reaper, termination
from noiseweave.cluster.ray_end import QUIET, hushed, watched
from noiseweave.engine.records import Json

LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",  # Ray's own 15 lets a busy machine starve them
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # there Ray stays on 127.0.0.1; the name is history
    "GLOO_SOCKET_IFNAME": LOOPBACK,
    "NCCL_SOCKET_IFNAME": LOOPBACK,
}
"""Of a Ray that is started here; what the environment says already stays."""
TOKENS = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
LOOK = 0.1
"""Seconds between two looks at Ray's processes."""
TRIES = 3
"""Times that Ray is started: it gives up after 30 s, which a busy machine may need."""
CORE = ("gcs_server", "raylet")
"""The processes that Ray cannot do without, as it calls them."""


@contextlib.contextmanager
def started(**options: Any) -> Iterator[None]:
    """Start a Ray for the length of a block, bound to 127.0.0.1 and closed to who has not its token.

    When one of its main processes dies, this process ends with one line and exit code 1: Ray itself would end it, up
    to a minute later and without a word.

    Args:
        options: of ``ray.init``.

    Raises:
        ValueError: it does not start; one line.
    """
    with _environment():
        node = _init(options)
        folder = os.path.realpath(node.get_session_dir_path())
        core = [info.process for name in CORE for info in node.all_processes[name]]
        with _reaper(folder), termination.on_sigterm():
            try:
                with watched(lambda: any(process.poll() is not None for process in core), every=LOOK):
                    yield
            finally:
                _shut_down(folder)


def _init(options: Json) -> Any:
    """Start Ray; returns its node, which knows its processes."""
    import ray

    for tries_left in reversed(range(TRIES)):
        try:
            with hushed(), _clean_on_failure():
                ray.init(address="local", include_dashboard=False, **QUIET, **options)
            break
        except Exception as e:
            if not tries_left:
                why = " ".join(str(e).split())[:200]
                raise ValueError(f"cluster: Ray does not start here ({type(e).__name__}: {why})") from None
    return ray._private.worker._global_node


@contextlib.contextmanager
def _clean_on_failure() -> Iterator[None]:
    """Kill what Ray has started and forgets when it gives up on one of its processes."""
    before = psutil.Process().children(recursive=True)
    try:
        yield
    except BaseException:
        for process in set(psutil.Process().children(recursive=True)) - set(before):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        raise


def _shut_down(folder: str) -> None:
    import ray

    ray.shutdown()
    reaper.end(folder)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """The settings, and a token, while the block runs.

    The token lives in this process and those that it starts: in no file, on no command line, and nowhere afterwards.
    """
    from ray._private import ray_constants

    names = (*SETTINGS, TOKENS[0])
    before, cluster = {name: os.environ.get(name) for name in names}, ray_constants.ENABLE_RAY_CLUSTER
    os.environ |= {name: os.environ.get(name) or value for name, value in SETTINGS.items()}
    if os.environ["RAY_AUTH_MODE"].lower() == "token" and not any(map(os.environ.get, TOKENS)):
        os.environ[TOKENS[0]] = secrets.token_hex(32)
    ray_constants.ENABLE_RAY_CLUSTER = False  # Ray read the variable when it was imported
    _read_again()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        ray_constants.ENABLE_RAY_CLUSTER = cluster
        _read_again()


def _read_again() -> None:
    """Have Ray's C++ part, which keeps what it once read, read its settings and the token of the environment again."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def _reaper(folder: str) -> Iterator[None]:
    """A process that cleans up when this one cannot: a session of its own, so that Ctrl-C does not reach it."""
    command = [sys.executable, "-P", reaper.__file__, str(os.getpid()), folder]
    process = subprocess.Popen(
        command,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()
