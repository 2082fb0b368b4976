"""What the tabs' events share: lines, turns of each tab alone, pictures as Gradio takes them."""

import asyncio
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("gradio", reason="no Gradio here: pip install 'noiseweave[studio]'")
from noiseweave.jobs.studio import events
from noiseweave.jobs.studio.turns import Turns

REQUEST = SimpleNamespace(headers={"accept-language": "en"}, session_hash="a")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (events.Wanted("need_picture"), "Choose a picture"),
        (ValueError("steps=0:\n1 or more <b>"), "Error: steps=0: 1 or more &lt;b&gt;"),
        (MemoryError(), "Out of memory"),
        (RuntimeError("odd"), "RuntimeError: odd"),
    ],
)
def test_an_error_is_one_line(error, said):
    assert said in events.fault(REQUEST, error)


def test_a_newer_request_drops_those_of_its_own_tab_alone():
    async def run():
        turns, first = Turns(), time.sleep

        def asked(tab, value):
            return events.turn(
                turns, REQUEST, tab, lambda: (first(0.01), value)[1:], lambda line: ("failed",)
            )

        return await asyncio.gather(asked("x", 0), asked("fuse", 1), asked("repair", 2), asked("fuse", 3))

    _, stale, other, latest = asyncio.run(run())
    assert (other, latest) == ((2,), (3,))
    assert stale not in ((1,), ("failed",))


def test_grey_and_colour_pictures_are_shown():
    assert events.pixels(np.zeros((4, 4, 1), np.uint8)).shape == (4, 4)
    assert events.pixels(np.zeros((4, 4, 3), np.uint8)).shape == (4, 4, 3)
