"""The controls of the tab Fuse -> the config of ``noiseweave fuse`` that makes the same picture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from noiseweave.cluster import storage
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion.recipes import EditRecipe, RegionRecipe
from noiseweave.engine.networks.recipes import PromptRecipe
from noiseweave.engine.records import JsonMapping
from noiseweave.jobs.fuse import config as fuse
from noiseweave.jobs.studio import commands
from noiseweave.jobs.studio.config import Config
from noiseweave.jobs.studio.pictures import Picture
from noiseweave.jobs.studio.values import number, text, whole

NO_EDIT = "none"
WEIGHTS = ("weight_1", "weight_2", "weight_3", "weight_4")
CONTROLS = (
    *("mode", "ratio", *WEIGHTS, "region", "edit", "strength", "steps", "skip", "noise", "variation", "seed"),
    *("source", "target", "guidance_source", "guidance_target"),
)
"""Names of the controls, in the order that the page sends them."""


def config_of(
    config: Config, controls: JsonMapping, images: Sequence[str], sweep: bool = False
) -> fuse.Config:
    """What the controls say of so many pictures; its output is named by what it is.

    Args:
        controls: value of each of CONTROLS, as a browser sent it.
        images: the pictures' files.

    Raises:
        ValueError: one line: a value that is not allowed, or a number of pictures that does not fit.
    """
    count, edit = len(images), None
    if controls["edit"] != NO_EDIT:
        edit = EditRecipe(name=controls["edit"], strength=number(controls, "strength"))
        images = images[: 2 if edit.name == "style" else 1]
    alone = edit is not None or count < 2
    ratio = number(controls, "ratio") if count == 2 and not alone else None
    weights = tuple(number(controls, name) for name in WEIGHTS[:count])
    everywhere = RegionRecipe()
    region = RegionRecipe(source=controls["region"]) if count == 2 and not alone else everywhere

    def made(output: str) -> fuse.Config:
        return fuse.Config(
            images=tuple(images),
            output=output,
            fusion=fuse.FuseRecipe(
                modes=controls["mode"], ratio=ratio, region=region, variation=number(controls, "variation")
            ),
            weights=weights if count > 2 and not alone else None,
            sweep=sweep,
            edit=edit,
            seed=whole(controls, "seed"),
            size=config.size,
            model=config.model,
            inversion=inversion_of(controls),
            prompt=prompt_of(controls),
        )

    name = hashlib.sha256(commands.yaml_of(made("-")).encode()).hexdigest()[:8]
    return made(storage.join(config.output, f"fuse-{name}"))


def inversion_of(controls: JsonMapping) -> InversionRecipe:
    """How pictures become noise maps."""
    return InversionRecipe(
        num_steps=whole(controls, "steps"), skip=whole(controls, "skip"), noise=controls["noise"]
    )


def prompt_of(controls: JsonMapping) -> PromptRecipe:
    """What a model that reads texts is conditioned on."""
    source, target = (text(controls, name) or None for name in ("source", "target"))
    guided = source is not None or target is not None
    scales = [
        number(controls, name) if guided and controls[name] else None
        for name in ("guidance_source", "guidance_target")
    ]
    return PromptRecipe(source=source, target=target, guidance_source=scales[0], guidance_target=scales[1])


def place_of(config: Config, picture: Picture, origins: Mapping[str, str]) -> str:
    """Where a picture's file is, or is saved to: of the input where it is, of an upload below the output."""
    name = f"{picture.key[:16]}{picture.extension}"
    return origins.get(picture.key, storage.join(config.output, "pictures", name))
