"""A record -> one HTML page that holds its own style, script, data and pictures, and loads nothing.

All text from keys, captions and files is data: the script puts it on the page as text, never as markup. The
content security policy lets the page's own style and script run, by their hashes, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files

from noiseweave.engine.records import JsonMapping

SAFE = 2**53 - 1  # largest integer that a script keeps


def html(record: JsonMapping) -> bytes:
    """The page, UTF-8."""
    style, script = _part("page.css"), _part("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": escape(f"{record['name']}: {record['job']}"),
        "style": style,
        "script": script,
        "data": embed(record),
    }
    page = re.sub("@([a-z]+)@", lambda found: parts[found[1]], _part("page.html"))
    return page.encode()


def embed(value: object) -> str:
    """JSON that may stand in a script element: pure ASCII, with nothing that HTML reads as markup."""
    text = json.dumps(exact(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def exact(value: object) -> object:
    """The value with the integers that a script would round, seeds above all, and what is no number as text."""
    if isinstance(value, Mapping):
        return {str(name): exact(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [exact(inner) for inner in value]
    rounded = isinstance(value, int) and abs(value) > SAFE
    return str(value) if rounded or (isinstance(value, float) and not math.isfinite(value)) else value


def _digest(text: str) -> str:
    """How a policy names an inline element's text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _part(name: str) -> str:
    return (files("noiseweave.jobs.report") / name).read_text(encoding="utf-8")
