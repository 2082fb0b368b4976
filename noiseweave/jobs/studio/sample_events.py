"""What the tab Sample does: classes or prompts in, pictures, a filmstrip, a line and a command out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import gradio as gr
import numpy as np

from noiseweave.cluster import storage
from noiseweave.engine.networks.recipes import BASELINES
from noiseweave.engine.pictures import collage
from noiseweave.engine.records import Json
from noiseweave.jobs.sample.config import Config as SampleConfig
from noiseweave.jobs.studio import batches, commands, drawing
from noiseweave.jobs.studio.controls import moved
from noiseweave.jobs.studio.drawing import Drawn
from noiseweave.jobs.studio.events import Answer, Wanted, fault, language, line, pixels, turn
from noiseweave.jobs.studio.live import Live
from noiseweave.jobs.studio.models import Models
from noiseweave.jobs.studio.runs_events import RunEvents
from noiseweave.jobs.studio.sample_tab import Parts
from noiseweave.jobs.studio.texts import say
from noiseweave.jobs.studio.turns import Turns
from noiseweave.jobs.studio.values import text

if TYPE_CHECKING:
    from noiseweave.engine.networks.facts import ModelFacts

ROWS = 8
"""Pictures, at most, whose way is shown."""
SHAPED = ("classes", "sample_prompts", "sample_negative", "sample_guidance", "sample_steps", "kept", "count")
"""Controls that not every model has, and the count, which is of each prompt where there are any."""


class SampleEvents:
    """The events of the tab.

    Attributes:
        live: the model and all that it keeps.
        turns: of the requests of all tabs.
        runs: that start a batch.
    """

    def __init__(self, live: Live, turns: Turns, runs: RunEvents) -> None:
        self.live, self.turns, self.runs = live, turns, runs

    async def opened(self, request: gr.Request) -> Answer:
        """Whether the model can draw, as a line, and the controls that it has."""
        try:
            facts = await anyio.to_thread.run_sync(_loaded, self.live.models)
        except Exception as e:  # a line of this tab; the others may do
            return fault(request, e), *(gr.skip() for _ in SHAPED)
        reads, steps = facts.conditioning == "text", facts.family not in BASELINES
        choices, guided = drawing.classes_of(facts), facts.conditioning != "none"
        return (
            line(say(language(request), "need_sample")),
            gr.update(choices=choices, visible=bool(choices)),
            *(gr.update(visible=reads) for _ in range(2)),
            gr.update(visible=guided),
            *(gr.update(visible=steps) for _ in range(2)),
            gr.update(label=say(language(request), "count_each" if reads else "count")),
        )

    async def draw(self, request: gr.Request, *given: object) -> Answer:
        """Values of the page -> pictures, a filmstrip, a line, the command, the YAML; a stale one changes nothing."""

        def work() -> Answer:
            start = time.perf_counter()
            config = self._asked(given)
            drawn = drawing.draw(self.live.models, config)
            took = round(1000 * (time.perf_counter() - start))
            said = say(language(request), "drawn", ms=took)
            if drawn.left_out:
                said = f"{said} {say(language(request), 'flagged', count=drawn.left_out)}"
            tiles = [(pixels(x), name or None) for x, name in zip(drawn.image_BHWC, drawn.names, strict=True)]
            command = commands.command_of("sample", config, "prompts")
            return tiles, film(drawn), line(said), command, commands.yaml_of(config)

        return await turn(self.turns, request, "sample", work, lambda fault: (None, None, fault, "", ""))

    async def save(self, request: gr.Request, *given: object) -> str:
        """Write the YAML below the output; where it is, as a line."""

        def work() -> Answer:
            config = self._asked(given)
            file = f"{config.output}.yaml"
            storage.write(storage.absolute(file), commands.yaml_of(config).encode())
            return (line(say(language(request), "saved", path=file)),)

        return (await turn(self.turns, request, "save sample", work, lambda fault: (fault,)))[0]

    async def run(self, request: gr.Request, *given: object) -> str:
        """Start sample with these settings, into a new folder; a line."""

        def work() -> Answer:
            asked = self._asked(given)

            def config_of(output: str) -> SampleConfig:
                return replace(asked, output=output, cluster=batches.cluster())

            return (self.runs.start(request, "sample", config_of, "prompts"),)

        return (await turn(self.turns, request, "run", work, lambda fault: (fault,)))[0]

    def _asked(self, given: Sequence[object]) -> SampleConfig:
        facts = self.live.models.known().facts
        controls = dict(zip(drawing.CONTROLS, given, strict=True))
        if facts.conditioning == "text" and not text(controls, "sample_prompts"):
            raise Wanted("need_prompt")
        return drawing.config_of(self.live.config, controls, facts)


def _loaded(models: Models) -> ModelFacts:
    models.drawing()
    return models.known().facts


def film(drawn: Drawn) -> np.ndarray | None:
    """A row for each picture: what the network believed in on the way, and what came of it."""
    if drawn.beliefs_KBHWC is None:
        return None
    ways_BKHWC = drawn.beliefs_KBHWC.swapaxes(0, 1)[:ROWS]
    rows = [[*way, image] for way, image in zip(ways_BKHWC, drawn.image_BHWC, strict=False)]
    return np.asarray(collage.sheet(rows, drawn.names[:ROWS] if any(drawn.names) else ()))


def connect(parts: Parts, events: SampleEvents, page: gr.Blocks) -> None:
    """Bind the tab's parts to what they do."""
    given = [parts.controls[name] for name in drawing.CONTROLS]
    usual: Json = {"inputs": given, "preprocess": False, "concurrency_limit": None}
    triggers = [parts.do.click, *(moved(one) for one in parts.controls.values())]
    gr.on(
        triggers,
        events.draw,
        outputs=[parts.drawn, parts.film, parts.line, parts.batch.command, parts.batch.yaml],
        trigger_mode="multiple",  # a newer one ends what is drawn now
        show_progress="minimal",
        api_name="sample",
        **usual,
    )
    parts.batch.save.click(events.save, outputs=[parts.batch.saved], api_name="save_sample", **usual)
    parts.batch.run.click(events.run, outputs=[parts.batch.ran], api_name="run_sample", **usual)
    shaped = [parts.controls[name] for name in SHAPED]
    page.load(events.opened, outputs=[parts.line, *shaped], api_visibility="private", concurrency_limit=None)
