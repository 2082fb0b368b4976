"""The flow of inpaint: a unit is a run of pictures; what the model sees of them is bucketed by size.

Only what the model needs travels to it: a whole picture at its working size, or boxes around the holes. The restored
picture is put together from the file's own bytes afterwards, in the task that writes it.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from noiseweave.cluster import folders, pipeline, shards, stages
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Phase
from noiseweave.cluster.units import Unit
from noiseweave.engine import spans
from noiseweave.engine.checks import NotFinite
from noiseweave.engine.inpainting.patches import resized
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.pictures import files as pictures
from noiseweave.engine.pictures import masks
from noiseweave.jobs.inpaint.config import set_cache
from noiseweave.jobs.inpaint.input import Input, items_of, words
from noiseweave.jobs.inpaint.task import Batch, Loaded, Painted, Region, Result, Task, hole_of, left_out
from noiseweave.jobs.reading import loras
from noiseweave.jobs.reading.places import Item

if TYPE_CHECKING:
    from noiseweave.engine.inpainting.filling import InpaintModel


def run(task: Task, work: Input, book: Ledger, s: Session) -> Outcome:
    """Paint every unit of pictures."""
    return pipeline.run(work.plan, phase(task, s.gpus_per_worker > 0), book, s)


def phase(task: Task, gpu: bool) -> Phase:
    """Pictures and masks are fetched, painted, and written."""
    from noiseweave.jobs.inpaint import output as inpaint_output

    return Phase(
        name="inpaint",
        fetch=partial(_fetch, task),
        make_compute=partial(_make_paint, task, gpu),
        commit=partial(inpaint_output.commit, task),
        size=stages.length_of_first,
    )


# fetch


def _fetch(task: Task, unit: Unit) -> Batch:
    good, bad = [], []
    for item in items_of(unit.payload):
        try:
            good.append(load(task, item))
        except ValueError as e:
            bad.append(left_out(item, str(e)))
    return good, bad


def load(task: Task, item: Item) -> Loaded:
    """Read a picture, its mask and its words, and cut what the model is shown.

    Raises:
        ValueError: ``"reason: detail"`` of a picture, mask or text that is not taken.
    """
    config = task.config
    data = item.picture.read()
    picture = pictures.opened(data, config.max_pixels)
    mask = _mask(item)
    shown_HWC = pictures.visible(picture)
    hole_HW = hole_of(config, mask, shown_HWC.shape[:2])
    own = words(item)
    if hole_HW.any():  # before the model works on it in vain
        extension = pictures.extension_of(picture, item.extension, config.output_format)
        pictures.fitted(picture.image, pictures.EXTENSIONS[extension])
    return Loaded(
        item=item,
        data=data,
        mask=mask,
        prompt=config.prompt if own is None else own,
        label=item.label.read(shards.SIDE_LIMIT) if item.label else None,
        regions=tuple(_region(task, shown_HWC, hole_HW, box) for box in boxes(task, hole_HW)),
    )


def _mask(item: Item) -> bytes:
    try:
        return item.mask.read()
    except ValueError as e:
        raise ValueError(f"bad_mask: {e}") from None


def boxes(task: Task, hole_HW: np.ndarray) -> list[masks.Box]:
    """What the model is shown: nothing, the whole picture, or boxes around the holes."""
    if not hole_HW.any():
        return []
    height, width = hole_HW.shape
    if not task.config.crop_to_mask:
        return [masks.Box(top=0, left=0, bottom=height, right=width)]
    return masks.boxes(hole_HW, task.config.padding, max(8, task.about["multiple"]), long_side(task))


def long_side(task: Task) -> int:
    """The side in pixels that the model paints at."""
    return task.config.size or int(task.about["size"])


def working_size(task: Task, height: int, width: int) -> tuple[int, int]:
    """(h, w) that the model works at for a part of a picture."""
    side, multiple = long_side(task), int(task.about["multiple"])
    return masks.fit_size(height, width, side, multiple) if multiple else (side, side)


def _region(task: Task, shown_HWC: np.ndarray, hole_HW: np.ndarray, box: masks.Box) -> Region:
    part, hole = shown_HWC[box.slices], hole_HW[box.slices]
    size = working_size(task, *hole.shape)
    image = Image.fromarray(part[..., 0] if part.shape[-1] == 1 else part)
    image = image.convert("L" if task.about["channels"] == 1 else "RGB")
    small = np.asarray(resized(image, size))
    # with the same filter: no known pixel holds a share of what is to be replaced
    share = np.asarray(resized(Image.fromarray(hole.astype(np.float32)), size))
    return Region(box=box, image_HWC=small[..., None] if small.ndim == 2 else small, hole_HW=share > 1e-6)


# compute


def _make_paint(task: Task, gpu: bool) -> Callable[[Batch], Result]:
    from noiseweave.engine.inpainting import filling

    set_cache(task.config)
    config = task.config.model
    return painter(task, filling.load(config, "cuda" if gpu else "cpu", loras.adding(config)), gpu)


def painter(task: Task, model: InpaintModel, gpu: bool) -> Painter:
    """What paints with a loaded model, that of the task's config."""
    return Painter(task, model, lambda: _exact(task, gpu))


def _exact(task: Task, gpu: bool) -> InpaintModel | None:
    """The same model in float32, for what is not finite in less; None where it was that already."""
    from noiseweave.engine.inpainting import filling

    if task.config.model.precision == "fp32":
        return None
    exact = replace(task.config.model, precision="fp32")
    return filling.load(exact, "cuda" if gpu else "cpu", loras.adding(exact))


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A region, painted: uint8 [h, w, C], the seed that it was painted with, whether it is flagged with that too."""

    patch_HWC: np.ndarray
    seed: int
    flagged: bool


@dataclass(frozen=True, kw_only=True)
class Patches:
    """A region's variants, and the precision that the network ran in."""

    rows: Sequence[Variant]
    precision: str


@dataclass
class Painter:
    """Loaded pictures -> painted ones. ``exact`` gives the model that is tried on what was not finite."""

    task: Task
    model: InpaintModel
    exact: Callable[[], InpaintModel | None]

    def __post_init__(self) -> None:
        self.second: InpaintModel | None = None
        self.asked = False

    def __call__(self, batch: Batch) -> Result:
        """Paint a unit's pictures; what cannot be painted is quarantined."""
        loaded, bad = batch
        patches = self._regions(loaded)
        good: list[Painted] = []
        for n, one in enumerate(loaded):
            found = [patches[n, i] for i in range(len(one.regions))]
            mine = [patch for patch in found if patch is not None]
            if len(mine) < len(found):
                bad.append(left_out(one.item, "not_finite: in float32 too"))
                continue
            painted, flagged = self._painted(one, mine)
            bad += [left_out(one.item, why) for why in flagged]
            if painted.rows:
                good.append(painted)
        return good, bad

    def _painted(self, one: Loaded, regions: Sequence[Patches]) -> tuple[Painted, list[str]]:
        """A picture's variants out of its regions, and why some are missing."""
        seeds, ran = self.task.seeds, {region.precision for region in regions}
        every = range(len(seeds))
        flagged = [row for row in every if any(region.rows[row].flagged for region in regions)]
        rows = tuple(row for row in every if row not in flagged)
        painted = Painted(
            loaded=one,
            rows=rows,
            patches=tuple(tuple(region.rows[row].patch_HWC for region in regions) for row in rows),
            precision="+".join(sorted(ran or {self.task.config.model.precision})),
            again=tuple(
                (row, i, region.rows[row].seed)
                for row in every
                for i, region in enumerate(regions)
                if region.rows[row].seed != seeds[row]
            ),
            truncated=self._truncated(one.prompt) if regions else (),
        )
        why = "by the model's safety checker, and once more with another seed"
        return painted, [f"flagged: {why}; variant {row + 1}, seed {seeds[row]}" for row in flagged]

    def _truncated(self, text: str) -> tuple[str, ...]:
        from noiseweave.engine.networks import text_encoding

        if self.model.text is None:
            return ()
        prompt = Prompt(text=text, key="", negative=self.task.config.negative_prompt)
        return tuple(text_encoding.truncated_ends(self.model.text.pipeline, [prompt]).values())

    def _regions(self, loaded: Sequence[Loaded]) -> dict[tuple[int, int], Patches | None]:
        """(picture, region) -> its variants, None where they are not finite."""
        buckets: dict[tuple[int, ...], list[tuple[int, int]]] = defaultdict(list)
        for n, one in enumerate(loaded):
            for i, region in enumerate(one.regions):
                buckets[region.hole_HW.shape].append((n, i))
        out: dict[tuple[int, int], Patches | None] = {}
        total = sum(map(len, buckets.values()))
        for places in buckets.values():
            parts = [(loaded[n], loaded[n].regions[i], i) for n, i in places]
            with spans.span(len(out) / total, (len(out) + len(places)) / total):
                out |= dict(zip(places, self._bucket(parts), strict=True))
        return out

    def _bucket(self, parts: list[tuple[Loaded, Region, int]]) -> list[Patches | None]:
        """Regions of one size. Where one is not finite, each is tried alone, and then in float32."""
        precision = self.task.config.model.precision
        with contextlib.suppress(NotFinite):
            return [Patches(rows=rows, precision=precision) for rows in self._variants(self.model, parts)]
        if len(parts) > 1:
            return [self._bucket([part])[0] for part in parts]
        return [self._exactly(parts)]

    def _exactly(self, parts: list[tuple[Loaded, Region, int]]) -> Patches | None:
        if not self.asked:
            self.second, self.asked = self.exact(), True
        if self.second is None:
            return None
        try:
            return Patches(rows=self._variants(self.second, parts)[0], precision="fp32")
        except NotFinite:
            return None

    def _variants(self, model: InpaintModel, parts: list[tuple[Loaded, Region, int]]) -> list[list[Variant]]:
        """For each region, its picture with each seed."""
        from noiseweave.engine.inpainting import filling

        config = self.task.config
        image_BHWC = np.stack([region.image_HWC for _, region, _ in parts])
        hole_BHW = np.stack([region.hole_HW for _, region, _ in parts])
        prompts = [
            Prompt(text=one.prompt, key=chance(one.item, i), negative=config.negative_prompt)
            for one, _, i in parts
        ]
        variants = [
            filling.checked(model, image_BHWC, hole_BHW, prompts, config.inpaint, seed)
            for seed in spans.steps(self.task.seeds)
        ]
        return [
            [Variant(patch_HWC=v.drawn[b], seed=v.seeds[b], flagged=bool(v.flagged_B[b])) for v in variants]
            for b in range(len(parts))
        ]


def chance(item: Item, region: int) -> str:
    """What a region's random numbers come from, together with the seed."""
    return f"{folders.printable(item.key)}#{region}"
