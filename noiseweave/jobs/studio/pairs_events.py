"""What the tab Pairs does: the controls' values in, the pairs of the input, and augment's command, out."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence

import anyio
import gradio as gr

from noiseweave.cluster import storage
from noiseweave.engine.records import Json
from noiseweave.jobs.augment import config as augment
from noiseweave.jobs.studio import batches, commands, fusing, pairs, pairs_tab
from noiseweave.jobs.studio.controls import Control, moved
from noiseweave.jobs.studio.events import Answer, Wanted, fault, language, line, turn
from noiseweave.jobs.studio.features import Features, Table
from noiseweave.jobs.studio.live import Live
from noiseweave.jobs.studio.pairs import Chosen, Pairing
from noiseweave.jobs.studio.pairs_tab import Parts
from noiseweave.jobs.studio.runs_events import RunEvents
from noiseweave.jobs.studio.texts import say
from noiseweave.jobs.studio.turns import Turns

LOOK = 0.5
"""Seconds between two lines about how far the features are."""


class PairsEvents:
    """The events of the tab.

    Attributes:
        features: of the page's input.
        turns: of the requests of all tabs.
        runs: that start a batch.
    """

    def __init__(self, live: Live, turns: Turns, runs: RunEvents) -> None:
        self.config, self.turns, self.runs = live.config, turns, runs
        self.features = Features(live.config, lambda: live.load()[1], turns.alone)
        self._pairing: Pairing | None = None

    async def opened(self, request: gr.Request, *values: object) -> AsyncIterator[Answer]:
        """The tab was opened: read the input, say how far that is, and then show its pairs."""
        lang, features = language(request), self.features
        features.begin()
        while features.busy:
            yield line(reading(lang, features)), *(gr.skip() for _ in range(4))
            await anyio.sleep(LOOK)
        if features.error is not None:
            yield _failed(fault(request, features.error))
            return
        yield await self.draw(request, *values)

    async def draw(self, request: gr.Request, *values: object) -> Answer:
        """Values of the page -> a line, figures, thumbnails, the command, the YAML; a stale request changes nothing."""

        def work() -> Answer:
            lang, table = language(request), self._table()
            config = self._config(values, self.runs.runs.next_folder("augment"))
            chosen = self._of(table).choose(config.pairing, config.seed)
            all_B = self._of(table).histogram(config.pairing.classes)
            bounds = (config.pairing.threshold, config.pairing.upper)
            return (
                line(said(lang, table, chosen)),
                pairs_tab.figures_of(lang, table, chosen, all_B, bounds),
                pairs_tab.ends_of(lang, table, chosen),
                commands.command_of("augment", config, augment.POSITIONAL),
                commands.yaml_of(config),
            )

        return await turn(self.turns, request, "pairs", work, _failed)

    async def save(self, request: gr.Request, *values: object) -> str:
        """Write the YAML below the output; where it is, as a line."""

        def work() -> Answer:
            content = commands.yaml_of(self._config(values, self.runs.runs.next_folder("augment"))).encode()
            name = hashlib.sha256(content).hexdigest()[:8]
            path = storage.join(self.config.output, f"augment-{name}.yaml")
            storage.write(storage.absolute(path), content)
            return (line(say(language(request), "saved", path=path)),)

        return (await turn(self.turns, request, "pairs-save", work, lambda fault: (fault,)))[0]

    async def run(self, request: gr.Request, *values: object) -> str:
        """Start augment on the input with these settings; a line."""

        def work() -> Answer:
            return (
                self.runs.start(
                    request, "augment", lambda output: self._config(values, output), augment.POSITIONAL
                ),
            )

        return (await turn(self.turns, request, "run", work, lambda fault: (fault,)))[0]

    def _table(self) -> Table:
        """The features.

        Raises:
            Wanted: they are not there yet.
            Exception: what went wrong with them.
        """
        if self.features.table is not None:
            return self.features.table
        raise self.features.error or Wanted("still_reading")

    def _of(self, table: Table) -> Pairing:
        if self._pairing is None:
            self._pairing = Pairing(table)
        return self._pairing

    def _config(self, values: Sequence[object], output: str) -> augment.Config:
        """What the controls of both tabs say.

        Raises:
            ValueError: one line: a value that is not allowed.
        """
        controls = dict(zip((*pairs.CONTROLS, *fusing.CONTROLS), values, strict=True))
        table = self.features.table
        recipe = pairs.recipe_of(controls)
        return batches.config_of(self.config, controls, output, recipe, table.space if table else None)


def _failed(fault: str) -> Answer:
    return fault, "", "", "", ""


def reading(lang: str, features: Features) -> str:
    """How far the features are."""
    if features.total is None:
        return say(lang, "reading", n=features.done)
    return say(lang, "reading_of", n=features.done, all=features.total)


def said(lang: str, table: Table, chosen: Chosen) -> str:
    """The counts in a line, and what of the input they are of."""
    about = chosen.about
    text = say(
        lang,
        "pairs_found",
        pairs=chosen.count,
        pictures=len(table),
        most=about.most_uses,
        unused=chosen.unused,
        space=table.space.name,
    )
    if n := about.left_out.get("near_duplicates"):
        text += " " + say(lang, "near_duplicates", n=n)
    if table.bad:
        text += " " + say(lang, "not_opened", n=table.bad)
    if not table.whole:
        text += " " + say(lang, "first_alone", n=len(table))
    return text


def connect(parts: Parts, events: PairsEvents, tab: gr.Tab, fuse: dict[str, Control]) -> None:
    """Bind the tab's parts to what they do.

    Args:
        fuse: the controls of the tab Fuse, which say how pairs are fused.
    """
    values = [*(parts.controls[name] for name in pairs.CONTROLS), *(fuse[name] for name in fusing.CONTROLS)]
    usual: Json = {"inputs": values, "preprocess": False, "concurrency_limit": None}
    outputs = [parts.line, parts.figures, parts.ends, parts.batch.command, parts.batch.yaml]
    tab.select(events.opened, outputs=outputs, show_progress="hidden", api_name="pairs_opened", **usual)
    gr.on(
        [moved(one) for one in parts.controls.values()],
        events.draw,
        outputs=outputs,
        trigger_mode="always_last",
        show_progress="hidden",
        api_name="pairs",
        **usual,
    )
    parts.controls["quota"].input(
        lambda quota: gr.update(visible=quota == "number"),
        inputs=[parts.controls["quota"]],
        outputs=[parts.controls["per_class"]],
        show_progress="hidden",
        queue=False,
        api_visibility="private",
    )
    parts.batch.save.click(events.save, outputs=[parts.batch.saved], api_name="pairs_save", **usual)
    parts.batch.run.click(events.run, outputs=[parts.batch.ran], api_name="pairs_run", **usual)
