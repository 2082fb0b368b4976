"""Recipes of features."""

from __future__ import annotations

from dataclasses import dataclass, field

from noiseweave.engine.checks import check
from noiseweave.engine.identity import ASIDE

AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class FeatureRecipe:
    """What pictures are compared in.

    Args:
        name: auto, pixels, unet, inception, efficientnet-lite0, resnet50, digits-classifier, a classifier's folder,
            or a transformers vision model. pixels (downscaled), unet (mid-block
            activations of the diffusion model) and digits-classifier (64 values) need no download; inception is
            pytorch-fid's InceptionV3 (2048), efficientnet-lite0 has 1280, resnet50 torchvision's ImageNet weights
            (2048); facebook/dinov2-small and openai/clip-vit-base-patch32 are transformers models. auto, for augment
            alone, takes of photos efficientnet-lite0, facebook/dinov2-small or unet, the first that is on this
            machine; of grey or smaller pictures pixels.
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
        allowed = "auto, pixels, unet, inception, efficientnet-lite0, resnet50, a classifier or a transformers model"
        check(bool(self.name), "features.name", self.name, allowed)
        published = self.name in (AUTO, "inception", "efficientnet-lite0", "resnet50")
        check(self.weights is None or published, "features.weights", self.weights, f"null for {self.name}")
        check(2 <= self.size <= 64, "features.size", self.size, "2 to 64")
        check(0 <= self.noise_level < 1, "features.noise_level", self.noise_level, "0 to below 1")
        check(self.batch >= 1, "features.batch", self.batch, "1 or more")
