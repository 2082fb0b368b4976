"""What the tab Fuse does: the controls' values in, a picture, a line and a command out."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import anyio
import gradio as gr
import numpy as np
from gradio import processing_utils

from noiseweave.cluster import storage
from noiseweave.engine.fusion.recipes import MODES
from noiseweave.engine.pictures import collage
from noiseweave.engine.records import Json
from noiseweave.jobs.fuse import config as fuse
from noiseweave.jobs.studio import batches, commands, drawing, fusing, input, masking
from noiseweave.jobs.studio.controls import Parts, moved
from noiseweave.jobs.studio.events import Answer, Wanted, fault, language, line, pixels, turn
from noiseweave.jobs.studio.live import Live
from noiseweave.jobs.studio.pictures import Picture
from noiseweave.jobs.studio.runs_events import RunEvents
from noiseweave.jobs.studio.texts import say
from noiseweave.jobs.studio.turns import Turns
from noiseweave.jobs.studio.values import file, files_of

PLACES = 4
WORDS = ("source", "target", *fusing.LABELS)
"""Controls of models that are conditioned on something."""


class FuseEvents:
    """The events of the tab.

    Attributes:
        live: the model and all that it keeps.
        turns: of the requests of all tabs.
        runs: that start a batch.
    """

    def __init__(self, live: Live, turns: Turns, runs: RunEvents) -> None:
        self.live, self.turns, self.runs = live, turns, runs
        self._input: input.Input | None = None

    async def draw(self, request: gr.Request, *values: object) -> Answer:
        """Values of the page -> the picture, a line, the command, the YAML; a stale request changes nothing."""

        def work() -> Answer:
            start = time.perf_counter()
            pictures, config, mask = self._read(values)
            shown = self.live.fuse(config, pictures, mask)
            took = round(1000 * (time.perf_counter() - start))
            text = say(language(request), "inverted" if shown.inverted else "drawn", ms=took)
            command, yaml = commands.command_of("fuse", config, "images"), commands.yaml_of(config)
            return pixels(shown.image_FHWC[0]), line(text), command, yaml

        return await turn(self.turns, request, "fuse", work, lambda fault: (None, fault, "", ""))

    async def strip(self, request: gr.Request, *values: object) -> Answer:
        """Values of the page -> every mode at every ratio, as fuse's sweep.png has them, and a line."""

        def work() -> Answer:
            pictures, config, mask = self._read(values, sweep=True)
            cells, width = self.live.fuse(config, pictures, mask).image_FHWC[1:], len(config.ratios)
            rows = [list(cells[i : i + width]) for i in range(0, len(cells), width)]
            heads = [f"ratio {r:g}" for r in config.ratios]
            tile = max(96, min(cells.shape[1], 256))
            return np.asarray(collage.sheet(rows, MODES, heads, tile)), gr.skip()

        return await turn(self.turns, request, "strip", work, lambda fault: (None, fault))

    async def save(self, request: gr.Request, *values: object) -> str:
        """Write uploads and the YAML below the output; where they are, as a line."""

        def work() -> Answer:
            pictures, config, mask = self._read(values)
            if mask is not None:
                storage.write(storage.absolute(str(config.fusion.region.mask)), mask)
            for path, picture in zip(config.images, pictures, strict=True):
                if picture.key not in self._origins:
                    storage.write(storage.absolute(path), self.live.pictures.read(picture.path))
            file = f"{config.output}.yaml"
            storage.write(storage.absolute(file), commands.yaml_of(config).encode())
            return (line(say(language(request), "saved", path=file)),)

        return (await turn(self.turns, request, "save", work, lambda fault: (fault,)))[0]

    async def run(self, request: gr.Request, *values: object) -> str:
        """Start augment on the input, its pairs fused as these controls say; a line."""

        def work() -> Answer:
            controls = dict(zip(fusing.CONTROLS, values[PLACES:-1], strict=True))
            if controls["edit"] != fusing.NO_EDIT:
                raise Wanted("no_batch_edit")
            config = self.live.config
            return (
                self.runs.start(
                    request, "augment", lambda output: batches.config_of(config, controls, output), "input"
                ),
            )

        return (await turn(self.turns, request, "run", work, lambda fault: (fault,)))[0]

    async def next_pair(self, request: gr.Request, number: int) -> Answer:
        """Number of a pair of the input -> the next number, the pair's two pictures, and a line where it has none."""
        try:
            found = await anyio.to_thread.run_sync(self._pair, number)
        except Exception as e:  # the page lives on, with the pair after it
            return number + 1, gr.skip(), gr.skip(), fault(request, e)
        return number + 1, *found, gr.skip()

    def _pair(self, number: int) -> list[str]:
        config = self.live.config
        if self._input is None:
            assert config.input is not None
            limits = self.live.pictures.limits
            self._input = input.read(config.input, limits.size, limits.pixels)
        folder = self.live.pictures.limits.folder
        return [
            processing_utils.save_bytes_to_cache(data, os.path.basename(name), folder)
            for name, data in self._input.pair(number)
        ]

    @property
    def _origins(self) -> dict[str, str]:
        """Files of the input that are offered, by their content; one that is gone is saved as an upload is."""
        known = self._input.origins if self._input else {}
        return {key: path for key, path in known.items() if os.path.isfile(storage.absolute(path))}

    def _read(
        self, values: Sequence[object], sweep: bool = False
    ) -> tuple[list[Picture], fuse.Config, bytes | None]:
        """The pictures that are chosen, the config of what the controls say of them, and the mask that it names.

        Raises:
            Wanted: something is still to be chosen.
            ValueError: as of ``Live.picture`` and ``fusing.config_of``.
        """
        chosen = [value["path"] for value in values[:PLACES] if isinstance(value, dict)]
        controls, painted = dict(zip(fusing.CONTROLS, values[PLACES:-1], strict=True)), values[-1]
        if not chosen:
            raise Wanted("need_picture")
        if len(chosen) == 1 and controls["edit"] == fusing.NO_EDIT and not controls["target"]:
            raise Wanted("need_second")
        if sweep and (len(chosen) == 1 or controls["edit"] != fusing.NO_EDIT):
            raise Wanted("no_strip")
        pictures = [self.live.picture(path) for path in chosen]
        places = [fusing.place_of(self.live.config, one, self._origins) for one in pictures]
        mask = None
        if controls["region"] == "file" and len(chosen) == 2 and controls["edit"] == fusing.NO_EDIT:
            mask = self._mask(painted, pictures[1])
        place = None if mask is None else masking.place_of(self.live.config, mask)
        config = fusing.config_of(self.live.config, controls, places, sweep, place)
        return pictures[: len(config.images)], config, mask

    def _mask(self, painted: object, second: Picture) -> bytes:
        """What is painted of the second picture, as a mask.

        Raises:
            Wanted: nothing is.
        """
        layers = [self.live.pictures.read(path) for path in files_of(painted)]
        painted_HW = masking.strokes(layers, masking.size_painted_on(*second.image_HWC.shape[:2]))
        if not painted_HW.any():
            raise Wanted("need_region")
        return masking.encoded(painted_HW)

    async def opened(self, request: gr.Request) -> Answer:
        """Whether the model fuses, as a line; whether it takes prompts, and its classes."""
        try:
            facts, _, _ = await anyio.to_thread.run_sync(self.live.load)
        except Exception as e:  # the page says it, and asks for it again with the next picture
            return fault(request, e), *(gr.skip() for _ in range(1 + len(WORDS)))
        reads, classes = facts.conditioning == "text", drawing.classes_of(facts)
        texts = (gr.update(visible=reads) for _ in range(2))
        labels = (gr.update(visible=bool(classes), choices=classes) for _ in fusing.LABELS)
        return gr.skip(), gr.update(visible=reads or bool(classes)), *texts, *labels

    async def region(self, request: gr.Request, second: object, region: object) -> object:
        """The second picture, to be painted on where the region is painted."""

        def work() -> Answer:
            path = file(second)
            if region != "file" or path is None:
                return (gr.update(visible=region == "file"),)
            shown = pixels(masking.painted_on(self.live.picture(path).image_HWC))
            return (gr.update(visible=True, value={"background": shown, "layers": [], "composite": None}),)

        return (await turn(self.turns, request, "region", work, lambda fault: (gr.skip(),)))[0]


def connect(parts: Parts, events: FuseEvents, page: gr.Blocks) -> None:
    """Bind the tab's parts to what they do."""
    values = [*parts.pictures, *(parts.controls[name] for name in fusing.CONTROLS), parts.region]
    usual: Json = {"inputs": values, "preprocess": False, "concurrency_limit": None}
    triggers = [one.change for one in parts.pictures]
    triggers += [parts.region.input, *(moved(one) for one in parts.controls.values())]
    outputs = [parts.result, parts.line, parts.batch.command, parts.batch.yaml]
    gr.on(
        triggers,
        events.draw,
        outputs=outputs,
        trigger_mode="always_last",
        show_progress="minimal",
        api_name="fuse",
        **usual,
    )
    parts.strip_do.click(events.strip, outputs=[parts.strip, parts.line], api_name="strip", **usual)
    parts.batch.run.click(events.run, outputs=[parts.batch.ran], api_name="run", **usual)
    parts.batch.save.click(events.save, outputs=[parts.batch.saved], api_name="save", **usual)
    weights = [parts.controls[name] for name in ("ratio", *fusing.WEIGHTS)]
    gr.on(
        triggers[:PLACES],
        _weights_shown,
        inputs=parts.pictures,
        outputs=weights,
        preprocess=False,
        trigger_mode="always_last",
        show_progress="hidden",
        queue=False,
        api_visibility="private",
    )
    own: Json = {"preprocess": False, "concurrency_limit": None, "api_visibility": "private"}
    second = [parts.pictures[1], parts.controls["region"]]
    gr.on(
        [triggers[1], parts.controls["region"].input],
        events.region,
        inputs=second,
        outputs=[parts.region],
        **own,
    )
    words = [parts.controls[name] for name in WORDS]
    page.load(events.opened, outputs=[parts.line, parts.prompts, *words], **own)
    number = gr.State(0)
    if events.live.config.input is not None:
        pair: Json = {"inputs": [number], "outputs": [number, *parts.pictures[:2], parts.line]}
        parts.next_pair.click(events.next_pair, api_name="next_pair", **pair)
        page.load(events.next_pair, api_visibility="private", **pair)


def _weights_shown(*pictures: object) -> list[object]:
    """The ratio of two pictures, or a weight for each of more."""
    count = sum(isinstance(one, dict) for one in pictures)
    return [gr.update(visible=count == 2), *(gr.update(visible=2 < count > i) for i in range(PLACES))]
