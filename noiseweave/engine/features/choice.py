"""``features.name: auto``: semantic features where they can be had without a download, in a fixed order.

    1. pixels               for a model of grey pictures or of fewer than 64 pixels a side, which no photo network knows
    2. efficientnet-lite0   where its weights are here: features.weights, torch hub's folder, or their package
    3. DINOv2 small         where the hub's copy is here
    4. unet                 the diffusion model's own middle block: nothing more is needed

EfficientNet's come first because they tell classes apart far better: docs/jobs/augment.md has the figures.
"""

from __future__ import annotations

from dataclasses import replace

from noiseweave.engine.features import networks
from noiseweave.engine.features.recipes import AUTO, FeatureRecipe
from noiseweave.engine.networks.facts import ModelFacts

PHOTO_SIDE = 64
DINO = "facebook/dinov2-small"


def of_photos(channels: int, side: int) -> bool:
    """Whether pictures may be photos: in colour, 64 pixels a side or more."""
    return channels == 3 and side >= PHOTO_SIDE


def settled(recipe: FeatureRecipe, model: ModelFacts) -> FeatureRecipe:
    """The recipe with the space that auto stands for, here and now.

    Raises:
        ValueError: weights were named that are not there.
    """
    if recipe.name != AUTO:
        return recipe
    if recipe.weights is not None:
        networks.check_published("efficientnet-lite0", recipe.weights)
        return replace(recipe, name="efficientnet-lite0")
    if not of_photos(model.channels, model.side):
        return replace(recipe, name="pixels")
    if networks.is_here("efficientnet-lite0"):
        return replace(recipe, name="efficientnet-lite0")
    return replace(recipe, name=DINO if _copied(DINO) else "unet")


def _copied(name: str) -> bool:
    """Whether the hub's copy of a vision model is on this machine."""
    from huggingface_hub import try_to_load_from_cache

    files = ("config.json", "preprocessor_config.json", "model.safetensors")
    return all(isinstance(try_to_load_from_cache(name, file), str) for file in files)
