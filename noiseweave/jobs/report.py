"""``noiseweave report DIR``: the output folder of a job that makes pictures -> report.html, one page of it all."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from noiseweave.engine.recipes import check

POSITIONAL = "folder"
POSITIONAL_HELP = "The folder needs no flag: noiseweave report out/augmented --serve"
PAGE = "report.html"
PICTURES = 2000
LOCAL = ("127.0.0.1", "localhost")


@dataclass(frozen=True, kw_only=True)
class Config:
    """A job's output folder -> report.html, a page that needs no other file and no network.

    Args:
        folder: output folder or URL of augment, inpaint, sample or fuse.
        pictures: samples that the gallery shows, spread evenly over all; figures are always over all.
        input: where the job's input lies now, if it moved since: of augment the folder of its shards, of inpaint
            that of its pictures, or its shards. null takes where the job read it.
        serve: also show the page in a browser, until Ctrl-C; nothing else of the folder is served.
        host: address that serve listens at; the default is reached from this machine alone.
        port: of serve; 0 takes any free one.
    """

    folder: str
    pictures: int = PICTURES
    input: str | None = None
    serve: bool = False
    host: str = LOCAL[0]
    port: int = 8765

    def __post_init__(self) -> None:
        check(bool(self.folder.strip()), "folder", self.folder, "a folder or URL")
        check(0 <= self.pictures <= 100_000, "pictures", self.pictures, "0 to 100000")
        check(0 <= self.port < 65536, "port", self.port, "0 to 65535")


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
    from noiseweave.jobs import report_data, report_page

    folder = storage.absolute(folder)
    page = report_page.html(report_data.gather(folder, pictures, source))
    path = storage.join(folder, PAGE)
    storage.write(path, page)
    print(f"page: {path}")
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
            name = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
            if host in LOCAL and name not in LOCAL:
                self.send_error(HTTPStatus.FORBIDDEN)
            elif self.path.partition("?")[0] not in ("/", f"/{PAGE}"):
                self.send_error(HTTPStatus.NOT_FOUND)
            else:
                self._page()

        do_HEAD = do_GET

        def _page(self) -> None:
            self.send_response(HTTPStatus.OK)
            for header, value in (
                ("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(page))),
                ("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"),
                ("X-Frame-Options", "DENY"), ("Referrer-Policy", "no-referrer"),
            ):  # fmt: skip
                self.send_header(header, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(page)

        def log_message(self, format: str, *args: object) -> None:
            pass  # a page a line is noise

    return ThreadingHTTPServer((host, port), Handler)
