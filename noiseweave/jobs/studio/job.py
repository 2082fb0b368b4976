"""``noiseweave studio``: a page on this machine where pictures are fused and edited live."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import threading
from typing import TYPE_CHECKING

from noiseweave.jobs.studio.config import Config

if TYPE_CHECKING:
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

    live = Live(config, uploads)
    threading.Thread(target=_load, args=(live,), daemon=True).start()
    app = page.app(live)
    print(f"studio: http://{HOST}:{config.port} (Ctrl-C ends it)", flush=True)
    server = uvicorn.Server(
        uvicorn.Config(app, host=HOST, port=config.port, log_level="warning", timeout_graceful_shutdown=1)
    )
    signal.signal(signal.SIGTERM, _end)
    with contextlib.suppress(KeyboardInterrupt):
        server.run()


def _end(number: int, frame: object) -> None:
    """End by an exception, so that the uploads' folder goes too."""
    raise SystemExit(128 + number)


def _load(live: Live) -> None:
    """Load the model while the page opens; what is wrong with it the page says, when it is opened."""
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
