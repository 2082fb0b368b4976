"""Uploads that most browsers cannot show, HEIF of a phone and TIFF, shown as PNG; the file stays as it is."""

from __future__ import annotations

from pathlib import Path

import anyio
import numpy as np
from PIL import Image
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from noiseweave.engine import formats
from noiseweave.engine.pictures import images
from noiseweave.jobs.studio.pictures import Limits, below

FILE = "/gradio_api/file="
HIDDEN = ("HEIF", "TIFF")
"""Formats that not every browser shows."""
SIDE = 1536
"""Pixels of the longer side, at most."""


class Previews:
    """The page's app, whose images (Sec-Fetch-Dest) are what a browser can show; a download is the file."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand the request on."""
        wanted = scope["type"] == "http" and (b"sec-fetch-dest", b"image") in scope["headers"]
        if wanted and scope["path"].startswith(FILE):
            data = await anyio.to_thread.run_sync(self._png, scope["path"].removeprefix(FILE))
            if data is not None:
                await Response(data, media_type="image/png")(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _png(self, path: str) -> bytes | None:
        """A PNG of an upload; None where the browser shows it itself, or nothing can."""
        if not below(self.limits.folder, path):
            return None
        try:
            data = Path(path).read_bytes()
            if formats.format_of(data) not in HIDDEN:
                return None
            shown = Image.fromarray(images.decode(data, 3, self.limits.pixels))
        except (OSError, ValueError):
            return None
        shown.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        return images.encode(np.asarray(shown))
