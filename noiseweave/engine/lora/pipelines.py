"""The pipeline whose network is fitted."""

from __future__ import annotations

import os
from typing import Any


def open_pipeline(
    name: str, device: str, *without: str
) -> Any:  # diffusers gives its pipelines no attributes that mypy knows
    """A pipeline in float32, its parts ``without`` left out."""
    from diffusers import AutoPipelineForInpainting

    from noiseweave.engine.networks import text_pipeline
    from noiseweave.engine.networks.facts import read_facts
    from noiseweave.engine.networks.recipes import ModelConfig

    folder = read_facts(name).folder
    parts = {part: None for part in without if os.path.isdir(os.path.join(folder, part))}
    pipeline = text_pipeline.opened(
        AutoPipelineForInpainting, ModelConfig(name=name, precision="fp32"), folder, **parts
    )
    return pipeline.to(device)
