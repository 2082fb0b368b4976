"""``noiseweave studio``: a page on this machine where pictures are fused and edited live."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import tempfile
import threading
import time
from typing import TYPE_CHECKING

from noiseweave.jobs.studio.config import Config

if TYPE_CHECKING:
    import uvicorn

    from noiseweave.jobs.studio.live import Live

HOST = "127.0.0.1"


def run(config: Config) -> int:
    """Serve the page until Ctrl-C. Returns 0.

    Raises:
        ValueError: what a user can put right, in one line.
    """
    check_extra()
    from noiseweave.cluster import storage
    from noiseweave.jobs.studio import input

    if config.input is not None:
        input.check(config.input)
    storage.check_writable(storage.absolute(config.output))
    check_port(config.port)
    with tempfile.TemporaryDirectory(prefix="noiseweave-studio-") as uploads:
        os.environ |= {"GRADIO_TEMP_DIR": uploads, "GRADIO_ANALYTICS_ENABLED": "False"}
        os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1"}
        _serve(config, uploads)
    return 0


def _serve(config: Config, uploads: str) -> None:
    import uvicorn

    from noiseweave.jobs.studio import page
    from noiseweave.jobs.studio.live import Live
    from noiseweave.jobs.studio.running import Runs

    live, runs = Live(config, uploads), Runs(config.output)
    server = uvicorn.Server(
        uvicorn.Config(
            page.app(live, runs),
            host=HOST,
            port=config.port,
            log_level="warning",
            timeout_graceful_shutdown=1,
        )
    )
    # a page that is open when the server ends is cut off; uvicorn has a traceback for it
    logging.getLogger("uvicorn.error").addFilter(lambda record: not server.should_exit)
    print(f"studio: http://{HOST}:{config.port} (Ctrl-C ends it)", flush=True)
    threading.Thread(target=_load, args=(live, server), daemon=True).start()
    signal.signal(signal.SIGTERM, _end)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            server.run()
    finally:
        runs.close()


def _end(number: int, frame: object) -> None:
    """End by an exception, so that the uploads' folder goes too."""
    raise SystemExit(128 + number)


def _load(live: Live, server: uvicorn.Server) -> None:
    """Load the model once the page is there: to import torch beside it would hold the page up.

    What is wrong with the model the page says, when it is opened.
    """
    while not server.started:
        time.sleep(0.05)
    with contextlib.suppress(Exception):
        live.load()


def check_extra() -> None:
    """Raise ValueError where Gradio is not installed."""
    import importlib.util

    if importlib.util.find_spec("gradio") is None:
        raise ValueError("studio needs Gradio: pip install 'noiseweave[studio]'")


def check_port(port: int) -> None:
    """Raise ValueError where a port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as e:
            raise ValueError(f"port={port}: {e.strerror}; name another with --port") from None
