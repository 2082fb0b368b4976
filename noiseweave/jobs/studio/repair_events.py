"""What the tab Repair does: a picture and a mask in, its variants, a line, files and a command out."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import anyio
import gradio as gr
import numpy as np
from gradio import processing_utils
from PIL import Image

from noiseweave.cluster import storage
from noiseweave.engine.pictures import files
from noiseweave.engine.records import Json
from noiseweave.jobs.inpaint.config import Config as InpaintConfig
from noiseweave.jobs.studio import commands, masking, repairing, values
from noiseweave.jobs.studio.controls import moved
from noiseweave.jobs.studio.events import Answer, Wanted, fault, language, line, pixels, turn
from noiseweave.jobs.studio.held import Held
from noiseweave.jobs.studio.live import Live
from noiseweave.jobs.studio.repair_tab import Parts
from noiseweave.jobs.studio.texts import say
from noiseweave.jobs.studio.turns import Turns

SHOWN = 1536
"""Pixels of the longer side, at most, of what is shown; the files have all."""
FIELDS = ("picture", "painted", "mask")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a request asks for.

    Attributes:
        data: contents of the picture's file and the mask's.
        image, mask: those files, as uploads.
        name: of the picture, as it was uploaded.
    """

    config: InpaintConfig
    data: tuple[bytes, bytes]
    image: str
    mask: str
    name: str


class RepairEvents:
    """The events of the tab.

    Attributes:
        live: the model and all that it keeps.
        turns: of the requests of all tabs.
        repairs: what is painted.
    """

    def __init__(self, live: Live, turns: Turns) -> None:
        self.live, self.turns = live, turns
        self.repairs = repairing.Repairs(live.models, live.config.cache_mib)
        self._sizes: Held[str, tuple[int, int]] = Held(1000)

    async def opened(self, request: gr.Request) -> Answer:
        """Whether the model can repair, as a line, whether it takes prompts, and the weights of its LoRA files."""
        try:
            model = await anyio.to_thread.run_sync(self.live.models.repairing)
        except Exception as e:  # a line of this tab; the others may do
            return fault(request, e), gr.skip(), *(gr.skip() for _ in repairing.LORAS)
        lang, config = language(request), self.live.config.model
        named = [say(lang, "lora", file=os.path.basename(os.path.normpath(name))) for name in config.loras]
        weights = [
            gr.update(label=name, value=weight, visible=True)
            for name, weight in zip(named, config.lora_weights, strict=True)
        ]
        weights += [gr.skip() for _ in repairing.LORAS]
        shown = gr.update(visible=model.about.reads_prompts)
        return line(say(lang, "need_picture_to_repair")), shown, *weights[: len(repairing.LORAS)]

    async def picked(self, request: gr.Request, picture: object) -> Answer:
        """A picture -> what is painted on, with nothing painted yet; without one there is no place to paint."""
        nothing = gr.update(visible=False, value=None)

        def work() -> Answer:
            if (path := values.file(picture)) is None:
                return (nothing,)
            seen = files.visible(files.opened(self._read(path), self.live.config.max_pixels))
            shown = pixels(masking.painted_on(seen))
            value = {"background": shown, "layers": [], "composite": None}
            return (gr.update(visible=True, value=value),)

        return (await turn(self.turns, request, "picked", work, lambda fault: (nothing,)))[0]

    async def draw(self, request: gr.Request, *given: object) -> Answer:
        """Values of the page -> before and after, a line, the variants, their files, the command, the YAML."""

        def work() -> Answer:
            start = time.perf_counter()
            asked = self._asked(given)
            made = self.repairs.draw(asked.config, asked.image, asked.mask)
            took = round(1000 * (time.perf_counter() - start))
            before, *after = (_shown(image) for image in (made.before_HWC, *made.after))
            said = " ".join((say(language(request), "drawn", ms=took), *made.left_out))
            names = [f"{masking.stem_of(asked.name)[0]}-{seed}.{made.extension}" for seed in made.seeds]
            folder = self.live.pictures.limits.folder
            kept = [
                processing_utils.save_bytes_to_cache(data, name, folder)
                for data, name in zip(made.files, names, strict=True)
            ]
            tiles = [(image, str(seed)) for image, seed in zip(after, made.seeds, strict=True)]
            command = commands.command_of("inpaint", asked.config, "images")
            which = gr.update(choices=[(str(seed), i) for i, seed in enumerate(made.seeds)], value=0)
            yaml = commands.yaml_of(asked.config)
            return (before, after[0]), line(said), tiles, kept, command, yaml, which

        def failed(fault: str) -> Answer:
            return None, fault, None, None, "", "", gr.update(choices=[], value=None)

        return await turn(self.turns, request, "repair", work, failed)

    async def save(self, request: gr.Request, *given: object) -> str:
        """Write the picture, the mask and the YAML below the output; where they are, as a line."""

        def work() -> Answer:
            asked = self._asked(given)
            for path, data in zip((asked.config.image, asked.config.mask), asked.data, strict=True):
                storage.write(storage.absolute(str(path)), data)
            file = f"{asked.config.output}.yaml"
            storage.write(storage.absolute(file), commands.yaml_of(asked.config).encode())
            return (line(say(language(request), "saved", path=file)),)

        return (await turn(self.turns, request, "save repair", work, lambda fault: (fault,)))[0]

    def _asked(self, given: Sequence[object]) -> Asked:
        """What is chosen.

        Raises:
            Wanted: a picture or a hole is still to be chosen.
            ValueError: as of ``Pictures.read``, ``masking.mask_of`` and ``repairing.config_of``.
        """
        places = dict(zip(FIELDS, given, strict=False))
        controls = dict(zip(repairing.CONTROLS, given[len(FIELDS) :], strict=True))
        if (path := values.file(places["picture"])) is None:
            raise Wanted("need_picture_to_repair")
        data, config = self._read(path), self.live.config
        size = self._size(path, data)
        given_mask = values.file(places["mask"])
        layers = [self._read(layer) for layer in values.files_of(places["painted"])]
        drawn = masking.strokes(layers, masking.size_painted_on(*size))
        mask = masking.mask_of(
            None if given_mask is None else self._read(given_mask),
            drawn,
            "white" if controls["mask_mode"] == "white" else "black",
            size,
            config.max_pixels,
        )
        if mask is None:
            raise Wanted("need_hole")
        image, hole = (masking.place_of(config, one) for one in (data, mask))
        stored = processing_utils.save_bytes_to_cache(mask, "mask.png", self.live.pictures.limits.folder)
        name = places["picture"].get("orig_name") if isinstance(places["picture"], dict) else None
        return Asked(
            config=repairing.config_of(config, controls, image, hole),
            data=(data, mask),
            image=path,
            mask=stored,
            name=name if isinstance(name, str) else image,
        )

    def _read(self, path: str) -> bytes:
        return self.live.pictures.read(path)

    def _size(self, path: str, data: bytes) -> tuple[int, int]:
        """(height, width) of a picture as a person sees it; decoded once, so that what is refused is refused here."""
        known = self._sizes.get(path)
        if known is None:
            seen = files.visible(files.opened(data, self.live.config.max_pixels))
            known = self._sizes.put(path, (len(seen), len(seen[0])), 1)
        return known


def _shown(image_HWC: np.ndarray) -> np.ndarray:
    """A picture as the page shows it."""
    image = Image.fromarray(pixels(image_HWC))
    image.thumbnail((SHOWN, SHOWN), Image.Resampling.LANCZOS)
    return np.asarray(image)


def compared(before_and_after: object, variants: object, chosen: object) -> object:
    """Before, and the variant that is chosen by its place."""
    before = values.file(before_and_after[0]) if isinstance(before_and_after, list | tuple) else None
    tiles = variants if isinstance(variants, list) else []
    at = chosen if isinstance(chosen, int) and 0 <= chosen < len(tiles) else None
    after = None if at is None else values.file(tiles[at].get("image"))
    return (before, after) if before and after else gr.skip()


def connect(parts: Parts, events: RepairEvents, page: gr.Blocks) -> None:
    """Bind the tab's parts to what they do."""
    places = [parts.picture, parts.painted, parts.mask]
    given = [*places, *(parts.controls[name] for name in repairing.CONTROLS)]
    usual: Json = {"inputs": given, "preprocess": False, "concurrency_limit": None}
    triggers = [parts.picture.change, parts.painted.input, parts.mask.change]
    weights = [parts.controls[name] for name in repairing.LORAS]
    # another weight loads the model: not while a slider is dragged
    triggers += [
        one.release if isinstance(one, gr.Slider) and one in weights else moved(one)
        for one in parts.controls.values()
    ]
    shown = [parts.compare, parts.line, parts.variants, parts.files]
    gr.on(
        triggers,
        events.draw,
        outputs=[*shown, parts.batch.command, parts.batch.yaml, parts.compared],
        trigger_mode="multiple",  # a newer one ends what is painted now
        show_progress="minimal",
        api_name="repair",
        **usual,
    )
    parts.batch.save.click(events.save, outputs=[parts.batch.saved], api_name="save_repair", **usual)
    own: Json = {"preprocess": False, "concurrency_limit": None, "api_visibility": "private"}
    parts.picture.change(events.picked, inputs=[parts.picture], outputs=[parts.painted], **own)
    seen = [parts.compare, parts.variants, parts.compared]
    parts.compared.input(compared, inputs=seen, outputs=[parts.compare], queue=False, **own)
    page.load(events.opened, outputs=[parts.line, parts.prompts, *weights], **own)
