"""The controls of the tab Fuse -> the config of ``noiseweave fuse`` that makes the same picture."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal, cast, get_args

from noiseweave.cluster import storage
from noiseweave.engine.checks import check
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion.recipes import MODES, EditRecipe, Mode, RegionRecipe
from noiseweave.engine.networks.recipes import PromptRecipe
from noiseweave.engine.records import JsonMapping
from noiseweave.jobs.fuse import config as fuse
from noiseweave.jobs.studio import commands
from noiseweave.jobs.studio.config import Config
from noiseweave.jobs.studio.pictures import Picture
from noiseweave.jobs.studio.values import number, one_of, text, whole

NO_EDIT = "none"
Noise = Literal["independent", "shared"]
LABELS = ("label_1", "label_2", "label_3", "label_4")
WEIGHTS = ("weight_1", "weight_2", "weight_3", "weight_4")
CONTROLS = (
    *("mode", "ratio", *WEIGHTS, "region", "edit", "strength", "steps", "skip", "noise", "variation", "seed"),
    *("source", "target", "guidance_source", "guidance_target", *LABELS),
)
"""Names of the controls, in the order that the page sends them."""


def config_of(
    config: Config, controls: JsonMapping, images: Sequence[str], sweep: bool = False, mask: str | None = None
) -> fuse.Config:
    """What the controls say of so many pictures; its output is named by what it is.

    Args:
        controls: value of each of CONTROLS, as a browser sent it.
        images: the pictures' files.
        mask: the file of a region that is painted.

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
    painted = mask if controls["region"] == "file" else None
    region = RegionRecipe(source=controls["region"], mask=painted) if count == 2 and not alone else everywhere
    labels = _labels(controls, len(images))

    def made(output: str) -> fuse.Config:
        return fuse.Config(
            images=tuple(images),
            output=output,
            fusion=fuse.FuseRecipe(
                modes=mode_of(controls), ratio=ratio, region=region, variation=number(controls, "variation")
            ),
            weights=weights if count > 2 and not alone else None,
            sweep=sweep,
            edit=edit,
            seed=whole(controls, "seed"),
            size=config.size,
            model=config.model,
            inversion=inversion_of(controls),
            labels=labels,
            prompt=prompt_of(controls, labels is not None),
        )

    name = hashlib.sha256(commands.yaml_of(made("-")).encode()).hexdigest()[:8]
    return made(storage.join(config.output, f"fuse-{name}"))


def mode_of(controls: JsonMapping) -> Mode:
    """How noise maps are fused."""
    return cast(Mode, one_of(controls, "mode", MODES))


def inversion_of(controls: JsonMapping) -> InversionRecipe:
    """How pictures become noise maps."""
    noise = cast(Noise, one_of(controls, "noise", get_args(Noise)))
    return InversionRecipe(num_steps=whole(controls, "steps"), skip=whole(controls, "skip"), noise=noise)


def _labels(controls: JsonMapping, count: int) -> str | None:
    """The classes that are chosen of so many pictures: the first alone is of all, else each has one."""
    chosen = [controls[name] for name in LABELS[:count]]
    given = [str(number) for number in chosen if type(number) is int]
    if not given:
        return None
    of_all = type(chosen[0]) is int and len(given) == 1
    check(
        of_all or len(given) == count,
        "labels",
        given,
        f"one of picture 1, or of each of the {count} pictures",
    )
    return ",".join(given)


def prompt_of(controls: JsonMapping, labels: bool) -> PromptRecipe:
    """What a model that reads texts is conditioned on, and the guidance of one that has classes.

    Args:
        labels: the pictures' classes are known.
    """
    source, target = (text(controls, name) or None for name in ("source", "target"))
    guided = source is not None or target is not None or labels
    scales = [
        number(controls, name) if guided and controls[name] else None
        for name in ("guidance_source", "guidance_target")
    ]
    return PromptRecipe(source=source, target=target, guidance_source=scales[0], guidance_target=scales[1])


def place_of(config: Config, picture: Picture, origins: Mapping[str, str]) -> str:
    """Where a picture's file is, or is saved to: of the input where it is, of an upload below the output."""
    name = f"{picture.key[:16]}{picture.extension}"
    return origins.get(picture.key, storage.join(config.output, "pictures", name))
