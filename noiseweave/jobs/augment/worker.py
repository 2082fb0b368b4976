"""What augment's workers load."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from noiseweave.engine.networks import loading
from noiseweave.jobs.augment.reference import Reference
from noiseweave.jobs.reading import feature_cache, loras

if TYPE_CHECKING:
    from noiseweave.engine.networks.backbone import Backbone


def device(reference: Reference) -> str:
    """cuda in a worker that holds a GPU, else cpu."""
    from noiseweave.engine.networks.tuning import pick_device

    return pick_device(reference.gpus_per_worker)


def load_backbone(reference: Reference) -> Backbone:
    """The diffusion model, on this worker's device."""
    model = reference.model
    return loading.load(model, device(reference), reference.model_size, loras.adding(model))


def load_extractor(reference: Reference) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 [N, side, side, 3] -> features, float32 [N, D], prepared for cosine similarity."""
    from noiseweave.engine.features import spaces

    extract = feature_cache.extractor(
        reference.features,
        lambda: spaces.load_space(reference.features, lambda: load_backbone(reference), device(reference)),
        lambda: spaces.identity(reference.features, reference.model, reference.model_size),
    )
    return lambda image_BHWC: spaces.similarity(reference.features, extract(image_BHWC))
