"""What augment's workers load."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from noiseweave.engine.networks import loading
from noiseweave.jobs.augment.task import Task
from noiseweave.jobs.reading import feature_cache

if TYPE_CHECKING:
    from noiseweave.engine.networks.backbone import Backbone


def device(task: Task) -> str:
    """cuda in a worker that holds a GPU, else cpu."""
    from noiseweave.engine.networks.tuning import pick_device

    return pick_device(task.config.cluster.gpus_per_worker)


def load_backbone(task: Task) -> Backbone:
    """The diffusion model, on this worker's device."""
    return loading.load(task.config.model, device(task), task.config.size)


def load_extractor(task: Task) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 [N, side, side, 3] -> features, float32 [N, D], prepared for cosine similarity."""
    from noiseweave.engine.features import spaces

    config = task.config
    extract = feature_cache.extractor(
        config.features,
        lambda: spaces.load_space(config.features, lambda: load_backbone(task), device(task)),
        lambda: spaces.identity(config.features, config.model, config.size),
    )
    return lambda image_BHWC: spaces.similarity(config.features, extract(image_BHWC))
