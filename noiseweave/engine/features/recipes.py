"""Recipes of features."""

from __future__ import annotations

from dataclasses import dataclass, field

from noiseweave.engine.checks import check
from noiseweave.engine.identity import ASIDE


@dataclass(frozen=True, kw_only=True)
class FeatureRecipe:
    """What pictures are compared in.

    Args:
        name: pixels (downscaled pixels, no download), unet (mid-block activations of the diffusion model, no
            download), inception (pytorch-fid's InceptionV3, 2048 values), efficientnet-lite0 (1280), resnet50
            (torchvision's ImageNet weights, 2048), digits-classifier (ships, 64) or the folder of such a
            classifier, or the id or folder of a transformers vision model (facebook/dinov2-small,
            openai/clip-vit-base-patch32).
        size: side that pixels are downscaled to.
        noise_level: for unet, the noise level that activations are read at, as a share of the schedule.
        batch: pictures in one network call.
        weights: for inception, efficientnet-lite0 and resnet50, the file with their weights, as published; null
            looks in torch hub's folder and downloads them.
        cache: folder or URL where features are kept by the pictures' content, for any later run of any job;
            null keeps them in the run alone.
    """

    name: str = "pixels"
    size: int = 16
    noise_level: float = 0.1
    batch: int = field(default=64, metadata=ASIDE)
    weights: str | None = None
    cache: str | None = field(default=None, metadata=ASIDE)

    def __post_init__(self) -> None:
        allowed = (
            "pixels, unet, inception, efficientnet-lite0, resnet50, a classifier or a transformers model"
        )
        check(bool(self.name), "features.name", self.name, allowed)
        published = self.name in ("inception", "efficientnet-lite0", "resnet50")
        check(self.weights is None or published, "features.weights", self.weights, f"null for {self.name}")
        check(2 <= self.size <= 64, "features.size", self.size, "2 to 64")
        check(0 <= self.noise_level < 1, "features.noise_level", self.noise_level, "0 to below 1")
        check(self.batch >= 1, "features.batch", self.batch, "1 or more")
