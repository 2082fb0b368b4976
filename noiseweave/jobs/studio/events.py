"""What the tabs' events share: a turn, and whatever comes of it as a line of the page in the browser's language."""

from __future__ import annotations

import html
import sys
import traceback
from collections.abc import Callable
from typing import Any

import gradio as gr
import numpy as np

from noiseweave.jobs.studio.texts import language_of, say
from noiseweave.jobs.studio.turns import Stale, Turns

DRAWINGS = ("fuse", "strip", "repair", "sample")
"""What is asked for to be looked at: of no use once the page is closed. What is saved or started is."""
Answer = tuple[Any, ...]
"""New values of the page's parts, as Gradio takes them."""


class Wanted(Exception):
    """What is still to be chosen: the key of a text."""


def language(request: gr.Request) -> str:
    """The browser's language."""
    return language_of(request.headers.get("accept-language", ""))


def line(text: str, bad: bool = False) -> str:
    """A line of the page; what a file or an error says is no HTML."""
    return f'<p role="{"alert" if bad else "status"}" class="{"bad" if bad else ""}">{html.escape(text)}</p>'


def fault(request: gr.Request, error: Exception) -> str:
    """An error as a line of the page; what nobody expected goes to the terminal whole."""
    from torch import OutOfMemoryError

    lang = language(request)
    if isinstance(error, Wanted):
        return line(say(lang, str(error)))
    if isinstance(error, MemoryError | OutOfMemoryError):
        return line(say(lang, "memory"), bad=True)
    text = " ".join(str(error).split())[:500]
    if isinstance(error, ValueError | OSError):
        return line(say(lang, "error", text=text), bad=True)
    traceback.print_exception(error, file=sys.stderr)
    return line(say(lang, "unexpected", text=f"{type(error).__name__}: {text}"), bad=True)


async def turn(
    turns: Turns, request: gr.Request, tab: str, work: Callable[[], Answer], failed: Callable[[str], Answer]
) -> Answer:
    """What ``work`` gives, or the line of what went wrong; nothing changes for a stale request.

    Args:
        turns: one for all tabs, as the model is.
        tab: what is asked for; a request is stale once the same page asks for it again.
        failed: a line -> the values that go with it, as many as ``work`` gives.
    """
    try:
        return await turns.run(f"{request.session_hash}/{tab}", work)
    except Stale:
        return tuple(gr.skip() for _ in failed(""))
    except Exception as e:  # the page lives on, whatever it was
        return failed(fault(request, e))


def left(turns: Turns, request: gr.Request) -> None:
    """A page was closed, or loaded anew: what it waited for is not drawn to its end."""
    turns.leave(f"{request.session_hash}/{tab}" for tab in DRAWINGS)


def pixels(image_HWC: np.ndarray) -> np.ndarray:
    """A picture as Gradio takes it: grey is [H, W]."""
    return image_HWC[..., 0] if image_HWC.shape[-1] == 1 else image_HWC
