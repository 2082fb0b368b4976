"""A Ray that others started: found, joined with the user's settings, and left as it was."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import urllib.parse
from collections.abc import Callable, Iterator

from noiseweave.cluster import ray_end, threads

PATIENCE = 5.0
"""Seconds until an address counts as out of reach; Ray itself would try for minutes."""
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's setting: seconds that it waits for a head that does not answer, before it ends the driver without a word."""


def running() -> str | None:
    """The Ray that this process belongs to, as in a submitted job, or that `ray start` runs on this machine.

    Where it is the latter, its rule for token authentication is taken up: on, if there is a token and no mode is said.
    """
    from ray._private.authentication import authentication_token_setup as setup
    from ray._private.utils import read_ray_address

    if given := os.environ.get("RAY_ADDRESS"):
        return given
    found = read_ray_address()  # Ray's own joining rule would take any other job's private Ray as well
    host, _, port = str(found or "").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except (OSError, ValueError):  # left behind by a Ray that is gone
        return None
    setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    return found


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """Join Ray for the length of a block; when it ends meanwhile, so does this process, with one line and exit code 1.

    Through ray:// its end is an error of the next call instead.

    Raises:
        ValueError: no Ray answers at the address.
    """
    import ray

    _join(address)
    try:
        if "://" in address:
            yield
            return
        node = ray._private.worker._global_node
        assert node is not None
        dead = lost(node.gcs_address, node.raylet_socket_name)
        with ray_end.watched(dead, every=2.0):
            yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    """Join; the code travels and how threads wait, unless the job came by Ray's job server and brought both along."""
    import ray

    options = dict(ray_end.QUIET)
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        options["runtime_env"] = {
            "py_modules": [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))],
            "env_vars": {name: os.environ[name] for name in threads.OWN if name in os.environ},
        }
    try:
        _knock(address)
        with ray_end.hushed():
            ray.init(address=address, **options)
    except Exception as e:
        why = " ".join(str(e).split())[:200]
        raise ValueError(f"cluster.address={address!r}: no Ray answers ({type(e).__name__}: {why})") from None


def _knock(address: str) -> None:
    """OSError where nothing listens at host:port or ray://host:port; other spellings are left to Ray."""
    parts = urllib.parse.urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname and parts.port and parts.scheme in ("", "ray"):
        socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE).close()


def lost(gcs: str, raylet: str) -> Callable[[], bool]:
    """Whether a Ray that others started is gone, for ``watched``.

    Args:
        gcs: the head's host:port. It counts as gone after four fifths of the time that Ray itself would wait, for a
            head whose tables are kept elsewhere may come back.
        raylet: path of the socket of Ray's process on this machine, which never comes back.
    """
    host, _, port = gcs.rpartition(":")
    patience = 0.8 * float(os.environ.get(RECONNECT) or 60)
    heard = time.monotonic()

    def gone() -> bool:
        nonlocal heard
        with contextlib.suppress(OSError):
            socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
            heard = time.monotonic()
        return time.monotonic() - heard > patience or not _listens(raylet)

    return gone


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as end:
        try:
            end.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # it is busy
            return True
    return True
