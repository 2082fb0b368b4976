"""The tab Repair: controls -> the config of ``noiseweave inpaint``, and what that job makes of it, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from noiseweave.cluster import storage
from noiseweave.engine.checks import check
from noiseweave.engine.inpainting.recipes import InpaintRecipe
from noiseweave.engine.records import JsonMapping
from noiseweave.jobs.inpaint.config import Config as InpaintConfig
from noiseweave.jobs.studio import commands, masking
from noiseweave.jobs.studio.config import Config
from noiseweave.jobs.studio.held import Held
from noiseweave.jobs.studio.models import Models
from noiseweave.jobs.studio.pictures import MIB
from noiseweave.jobs.studio.values import number, text, whole

if TYPE_CHECKING:
    from noiseweave.jobs.inpaint.task import Painted

CONTROLS = (
    *("mask_mode", "variants", "repair_seed", "crop_to_mask", "padding", "feather", "repair_steps"),
    *("repair_strength", "resample", "repair_prompt", "repair_negative", "repair_guidance"),
    *(LORAS := ("lora_1", "lora_2", "lora_3")),
)
"""Names of the controls, in the order that the page sends them; LORAS are the weights of the first LoRA files."""
MOST = 8
"""Variants at once."""


def config_of(config: Config, controls: JsonMapping, image: str, mask: str) -> InpaintConfig:
    """What the controls say; its output is named by what it is.

    Args:
        controls: value of each of CONTROLS, as a browser sent it.
        image, mask: the files.

    Raises:
        ValueError: one line: a value that is not allowed.
    """
    variants, seed = whole(controls, "variants"), whole(controls, "repair_seed")
    check(1 <= variants <= MOST, "variants", variants, f"1 to {MOST}")
    check(seed >= 1, "seed", seed, "1 or more")
    guidance, model = number(controls, "repair_guidance"), config.model
    if model.loras:
        chosen = [number(controls, name) for name, _ in zip(LORAS, model.loras, strict=False)]
        model = replace(model, lora_weight=(*chosen, *model.lora_weights[len(chosen) :]))

    def made(output: str) -> InpaintConfig:
        return InpaintConfig(
            output=output,
            image=image,
            mask=mask,
            mask_mode=controls["mask_mode"],
            model=model,
            inpaint=InpaintRecipe(
                steps=whole(controls, "repair_steps"),
                guidance=guidance or None,
                strength=number(controls, "repair_strength"),
                resample=whole(controls, "resample"),
            ),
            size=config.size or 0,
            prompt=text(controls, "repair_prompt"),
            negative_prompt=text(controls, "repair_negative"),
            rows=variants,
            seed=seed,
            feather=whole(controls, "feather"),
            crop_to_mask=bool(controls["crop_to_mask"]),
            padding=whole(controls, "padding"),
            max_pixels=config.max_pixels,
        )

    check(controls["mask_mode"] in ("black", "white"), "mask_mode", controls["mask_mode"], "black or white")
    name = hashlib.sha256(commands.yaml_of(made("-")).encode()).hexdigest()[:8]
    return made(storage.join(config.output, f"repair-{name}"))


@dataclass(frozen=True, kw_only=True)
class Repaired:
    """What was painted.

    Attributes:
        before_HWC: uint8, the picture as a person sees it.
        after: the same of each variant.
        files: of each variant, as the job writes them.
        seeds: that they were painted with, as the job counts them.
        extension: of the files, without the dot.
        left_out: why variants are missing.
    """

    before_HWC: np.ndarray
    after: Sequence[np.ndarray]
    files: Sequence[bytes]
    seeds: Sequence[int]
    extension: str
    left_out: Sequence[str]


class Repairs:
    """What ``noiseweave inpaint`` paints, with the model of the page.

    Attributes:
        held: what the model painted, so that a softer edge takes no painting.
    """

    def __init__(self, models: Models, limit: float) -> None:
        self.models = models
        self.held: Held[str, tuple[Painted, tuple[str, ...]]] = Held(int(limit * MIB))

    def draw(self, config: InpaintConfig, image: str, mask: str) -> Repaired:
        """What the job makes of a config.

        Args:
            image, mask: local files of the same contents as the config's, whose names count.

        Raises:
            ValueError: ``"reason: detail"``: a picture or mask that is not taken; nothing is left to be shown.
        """
        from noiseweave.engine.pictures import files
        from noiseweave.jobs.inpaint import draw, output, plan
        from noiseweave.jobs.inpaint.task import Task
        from noiseweave.jobs.reading.places import Item, Place

        known, weights = self.models.known(), config.model.lora_weights
        model = replace(known.config, lora_weight=weights) if weights else known.config
        fitted, about = plan.fitted(replace(config, model=model), known.facts)
        task = Task(
            config=fitted, output="", sheet=None, about=asdict(about), seed=config.seed or 1, model_hash=""
        )
        assert config.image is not None
        key, extension = masking.stem_of(config.image)
        item = Item(key=key, extension=extension, picture=Place(path=image), mask=Place(path=mask))
        name = commands.yaml_of(replace(config, feather=0, output="-"))
        painted, left_out = self.held.get(name) or (None, ())
        if painted is None:
            paint = draw.painter(task, self.models.repairing(weights), known.device == "cuda")
            good, bad = paint(([draw.load(task, item)], []))
            left_out = tuple(f"{one.reason}: {one.detail}" for one in bad)
            if not good:
                raise ValueError("; ".join(left_out))
            painted = good[0]
            size = len(painted.loaded.data) + sum(patch.nbytes for row in painted.patches for patch in row)
            size += sum(region.image_HWC.nbytes for region in painted.loaded.regions)
            self.held.put(name, (painted, left_out), size)
        made = output.restored(task, painted)
        return Repaired(
            before_HWC=files.visible(made.picture),
            after=[files.visible(files.replaced(made.picture, image)) for image in made.images],
            files=made.data,
            seeds=painted.seeds(task),
            extension=made.extension,
            left_out=left_out,
        )
