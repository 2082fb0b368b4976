"""What a user may say of describe."""

from __future__ import annotations

from dataclasses import dataclass

from noiseweave.engine.checks import check
from noiseweave.engine.networks.recipes import Precision

POSITIONAL = "model"
POSITIONAL_HELP = "The model needs no flag: noiseweave describe my/pipeline --gpu_gib 24"

USUAL = {"what it does": ("model", "size", "precision", "gpu_gib", "json")}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a model is, and how much memory it takes, from its configs: no weight is read.

    Args:
        model: a shipped model, a folder that train or diffusers' save_pretrained wrote, or a hub id.
        size: side of the pictures in pixels, to ask whether the model takes it; null takes what it was made for.
        precision: that workers are counted for; null counts for each.
        gpu_gib: memory of a GPU in GiB, to count the workers that fit; null takes what is free on the GPU here, and
            where there is none counts none.
        json: print one line of JSON in place of the table.
    """

    model: str
    size: int | None = None
    precision: Precision | None = None
    gpu_gib: float | None = None
    json: bool = False

    def __post_init__(self) -> None:
        check(bool(self.model.strip()), "model", self.model, "a shipped model, a folder or a hub id")
        check(self.size is None or self.size >= 1, "size", self.size, "1 or more, or null")
        ok = self.gpu_gib is None or 0 < self.gpu_gib <= 1e6
        check(ok, "gpu_gib", self.gpu_gib, "GiB, above 0, or null")
