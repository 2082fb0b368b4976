"""The families, by name and by the classes of diffusers' pipelines."""

from __future__ import annotations

from noiseweave.engine.networks.families.family import Family
from noiseweave.engine.networks.families.flux import Flux
from noiseweave.engine.networks.families.qwen_image import QwenImage
from noiseweave.engine.networks.families.sd import StableDiffusion
from noiseweave.engine.networks.families.sd3 import StableDiffusion3
from noiseweave.engine.networks.families.sdxl import StableDiffusionXL
from noiseweave.engine.networks.families.z_image import ZImage
from noiseweave.engine.networks.protocols import Pipeline

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (StableDiffusion(), StableDiffusionXL(), StableDiffusion3(), Flux(), ZImage(), QwenImage())
}

BY_PIPELINE = {
    name: family
    for family in FAMILIES.values()
    for name in (family.pipeline, family.filling, *family.also)
    if name
}


def family_of(pipeline: Pipeline) -> Family:
    """The family of an opened pipeline."""
    return BY_PIPELINE[type(pipeline).__name__]


def text_to_image() -> str:
    """The pipelines that draw pictures from texts, for a message."""
    names = [family.pipeline for family in FAMILIES.values()]
    return f"{', '.join(names[:-1])} and {names[-1]}"
