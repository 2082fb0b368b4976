"""What reaches the page: this machine's own browser, no other page, and nobody who asks for an address."""

import asyncio
import json

import pytest

from noiseweave.jobs.studio.guard import JSON_BYTES, Guard
from noiseweave.jobs.studio.pictures import Limits

PORT = 7860


def asked(path="/", method="GET", body=b"", chunk=1 << 16, **headers):
    """Status, headers and body of an answer; the app behind answers 200 and what it got."""
    headers = {"host": f"127.0.0.1:{PORT}", **{k.replace("_", "-"): v for k, v in headers.items()}}
    sent = []

    async def app(scope, receive, send):
        got = b""
        while (message := await receive()).get("more_body") or message.get("body"):
            got += message["body"]
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": got})

    pieces = [body[i : i + chunk] for i in range(0, len(body), chunk)] or [b""]
    waiting = [
        {"type": "http.request", "body": piece, "more_body": i + 1 < len(pieces)}
        for i, piece in enumerate(pieces)
    ]

    async def receive():
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    guard = Guard(app, PORT, Limits(size=1000, pixels=1000, folder="/tmp/uploads"))
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def posted(content, content_type="application/json"):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return asked("/gradio_api/queue/join", "POST", body, content_type=content_type)


@pytest.mark.parametrize("host", [f"127.0.0.1:{PORT}", f"localhost:{PORT}", f"[::1]:{PORT}"])
def test_the_pages_own_names_are_answered(host):
    status, headers, _ = asked(host=host, origin=f"http://{host}")
    assert status == 200
    assert b"default-src 'self'" in headers[b"content-security-policy"]


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": f"evil.example:{PORT}"},
        {"host": "127.0.0.1:1"},
        {"host": ""},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"http://127.0.0.1:{PORT + 1}"},
        {"method": "POST", "sec_fetch_site": "cross-site"},
    ],
)
def test_another_host_and_another_origin_are_not(headers):
    assert asked(**headers)[0] == 403


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/file=http://a.example/x", "/gradio_api/file=HTTPS%3A//a", "/gradio_api/proxy=http://a/"],
)
def test_no_address_is_fetched_by_its_path(path):
    assert asked(path)[0] == 403


def test_a_file_of_the_page_is_handed_out():
    assert asked("/gradio_api/file=/tmp/noiseweave/x.png")[0] == 200


def test_a_request_that_names_uploads_arrives_whole():
    good = {"data": [{"path": "/tmp/uploads/a/x.png", "url": "http://127.0.0.1/x"}, 0.5]}
    assert posted(good)[::2] == (200, json.dumps(good).encode())


@pytest.mark.parametrize(
    "path",
    [
        *("https://a.example/x.png", " FILE:///etc/passwd", "/etc/passwd", "/tmp/uploads/../x.png", "x.png"),
        *("", "/tmp/uploads2/x.png", "/tmp/uploads/\0"),
    ],
)
def test_no_address_and_no_file_but_an_upload_is_named(path):
    assert posted({"data": [{"path": path}]})[0] == 403
    assert posted({"data": [[{"deep": {"path": path}}]]})[0] == 403
    assert posted({"data": [{"path": path}]}, content_type="text/plain")[0] == 403


def test_what_is_no_json_is_refused():
    assert posted(b"{")[0] == 400
    assert posted(b"[" * 100_000)[0] == 400


def test_long_bodies_are_refused():
    assert asked("/upload", "POST", content_length=str(1 + 2 * JSON_BYTES))[0] == 413
    assert asked("/upload", "POST", content_length="many")[0] == 413
    assert posted(b'"' + b"x" * (JSON_BYTES + 1) + b'"')[0] == 413
