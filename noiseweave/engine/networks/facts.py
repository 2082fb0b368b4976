"""What a model's configs say of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noiseweave.engine.networks import pretrained


def check_classes(name: str, unet: Mapping[str, Any]) -> None:
    """Raise ValueError when a network is told something else than a class, or nothing."""
    if unet.get("class_embed_type") is not None:
        raise ValueError(
            f"model {name!r}: class_embed_type {unet['class_embed_type']!r}; supported are a table of classes and none"
        )


def check_schedule(name: str, folder: Path) -> None:
    """Raise ValueError when a model is no diffusion with a noise schedule."""
    scheduler = str(pretrained.read(name, folder, "scheduler/scheduler_config.json").get("_class_name"))
    if scheduler.startswith("FlowMatch"):
        raise ValueError(
            f"model {name!r}: a flow ({scheduler}); noise maps need a noise schedule, as a DDPM has"
        )
