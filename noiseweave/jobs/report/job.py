"""``noiseweave report DIR``: the output folder of a job that makes pictures -> report.html, one page of it all."""

from __future__ import annotations

import re
import sys
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from noiseweave.jobs.report.config import LOCAL, PICTURES, Config

HERE = re.compile(rf"(?:{'|'.join(map(re.escape, LOCAL))})(?::\d{{1,5}})?")
"""The Host of a request that was meant for this machine."""
PAGE = "report.html"


def run(config: Config) -> int:
    """Do the job. Returns 0.

    Raises:
        ValueError: no job that makes pictures wrote the folder, or the port is taken.
    """
    page = write(config.folder, config.pictures, config.input)
    if config.serve:
        serve(page, config.host, config.port)
    return 0


def write(folder: str, pictures: int = PICTURES, source: str | None = None) -> bytes:
    """Build a folder's page, write it there and say where. Returns the page."""
    from noiseweave.cluster import storage
    from noiseweave.jobs.report import data
    from noiseweave.jobs.report import page as report_page

    folder = storage.absolute(folder)
    record = data.gather(folder, pictures, source)
    page = report_page.html(record)
    path = storage.join(folder, PAGE)
    storage.write(path, page)
    print(f"page: {path}" + (f"; {record['damaged']}" if record["damaged"] else ""))
    return page


def finish_page(folder: str) -> None:
    """The page at the end of a job; when it cannot be built, that is one line and never the job's failure."""
    try:
        write(folder)
    except Exception as e:
        why = " ".join(f"{type(e).__name__}: {e}".split())[:300]
        print(f"{PAGE} was not built ({why}); the job's work is done", file=sys.stderr)


def serve(page: bytes, host: str, port: int) -> None:
    """Show a page until Ctrl-C."""
    try:
        server = server_of(page, host, port)
    except OSError as e:
        raise ValueError(f"port={port}: {host} cannot listen there ({e.strerror or e})") from None
    with server:
        print(f"http://{host}:{server.server_address[1]}/  (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def server_of(page: bytes, host: str, port: int) -> ThreadingHTTPServer:
    """A server of one page. On a local address it answers to local names alone, so that no site can be led to it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if host in LOCAL and not HERE.fullmatch(self.headers.get("Host", "")):
                self.send_error(HTTPStatus.FORBIDDEN)
            elif self.path.partition("?")[0] not in ("/", f"/{PAGE}"):
                self.send_error(HTTPStatus.NOT_FOUND)
            else:
                self._page()

        do_HEAD = do_GET

        def _page(self) -> None:
            self.send_response(HTTPStatus.OK)
            for header, value in (
                ("Content-Type", "text/html; charset=utf-8"),
                ("Content-Length", str(len(page))),
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
                ("X-Frame-Options", "DENY"),
                ("Referrer-Policy", "no-referrer"),
            ):
                self.send_header(header, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:
            pass  # a page a line is noise

    return ThreadingHTTPServer((host, port), Handler)
