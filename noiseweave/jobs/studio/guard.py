"""What reaches the page: requests of this machine's own browser, for this page, that name no file but uploads.

An ASGI middleware. A page elsewhere could send requests to 127.0.0.1 through a visitor's browser (Origin), or give its
own name this machine's address (Host). A request could name an address to be fetched, or a file that is no upload:
mounted in another app, Gradio copies whatever file a request names to its own folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import unquote

from noiseweave.jobs.studio.pictures import Limits, below

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
JSON_BYTES = 1 << 20
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
)
"""Of the browser too: nothing of this page comes from, or goes to, anywhere else."""


class Guard:
    """The page's app, for requests of its own alone."""

    def __init__(self, app: App, port: int, limits: Limits) -> None:
        names = ("127.0.0.1", "localhost", "[::1]")
        self.app, self.folder, self.upload_bytes = app, limits.folder, limits.size
        self.hosts = {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Hand a request on, or answer what is wrong with it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refused(scope, headers)
        sends = scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if refused is None and sends and not headers.get("content-type", "").startswith("multipart/"):
            body = await _body(receive)
            refused = _refused_body(body, self.folder)
            receive = _again(body or b"", receive)
        if refused is not None:
            await _answer(send, *refused)
            return
        await self.app(scope, receive, _with_policy(send))

    def _refused(self, scope: Message, headers: MutableMapping[str, str]) -> tuple[int, str] | None:
        if headers.get("host", "") not in self.hosts:
            return 403, "this page answers to 127.0.0.1 and localhost alone"
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] not in self.hosts:
            return 403, "a request from another page"
        if headers.get("sec-fetch-site") == "cross-site" and scope["method"] != "GET":
            return 403, "a request from another page"
        path = unquote(scope["path"])
        named = path.partition("file=")[2] or path.partition("file/")[2]
        if ADDRESS.match(named) or "/proxy=" in path:
            return 403, "no address is fetched"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > max(self.upload_bytes, JSON_BYTES) + JSON_BYTES:
            return 413, f"too_large: at most {self.upload_bytes / 2**20:g} MiB"
        return None


def _refused_body(body: bytes | None, folder: str) -> tuple[int, str] | None:
    if body is None:
        return 413, f"too_large: at most {JSON_BYTES} bytes of JSON"
    try:
        content = json.loads(body or b"null")
    except (ValueError, RecursionError):
        return 400, "no JSON"
    if not all(below(folder, path) for path in _paths(content)):
        return 403, "no file is opened but an upload"
    return None


def _paths(content: object) -> Iterable[str]:
    """The ``path`` of every file that a request names."""
    waiting = [content]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if isinstance(part.get("path"), str):
                yield part["path"]
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None where it is too long."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > JSON_BYTES:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read, to be read once more."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> Message:
        return waiting.pop() if waiting else await receive()

    return read


def _with_policy(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            extra = [(b"content-security-policy", POLICY.encode()), (b"referrer-policy", b"no-referrer")]
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return sent


async def _answer(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
