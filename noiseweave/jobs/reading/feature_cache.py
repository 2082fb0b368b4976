"""Features by content: what one run of any job computed, no later run computes again.

    <features.cache>/<the space's identity>/<hash of the pictures>.npy   raw features, float32 [N, D]

The pictures are those that the extractor sees, decoded and fitted, and a file holds those of one call: a shard, as a
rule. So a shard may move or be encoded anew; one that gained a picture is computed again as a whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from noiseweave.cluster import storage
from noiseweave.cluster.arrays import array, npy
from noiseweave.engine.records import JsonMapping

if TYPE_CHECKING:
    from noiseweave.engine.features.recipes import FeatureRecipe
    from noiseweave.engine.features.spaces import Extractor, Space


def extractor(
    recipe: FeatureRecipe, load: Callable[[], Space], identity: Callable[[], JsonMapping]
) -> Extractor:
    """The space's raw extractor; with ``recipe.cache`` set its network is loaded when it is first needed."""
    if recipe.cache is None:
        return load().extract
    text = json.dumps(identity(), sort_keys=True)
    folder = storage.join(storage.absolute(recipe.cache), hashlib.sha256(text.encode()).hexdigest()[:16])
    if not storage.exists(storage.join(folder, "space.json")):
        storage.write(storage.join(folder, "space.json"), text.encode())
    loaded: list[Space] = []

    def extract(image_BHWC: np.ndarray) -> np.ndarray:
        path = storage.join(folder, f"{content(image_BHWC)}.npy")
        if storage.exists(path):
            return array(storage.read(path))
        if not loaded:
            loaded.append(load())
        f_BD = loaded[0].extract(image_BHWC)
        storage.write(path, npy(f_BD))
        return f_BD

    return extract


def content(image_BHWC: np.ndarray) -> str:
    """A hash of pictures: of their sizes and pixels."""
    h = hashlib.blake2b(repr(image_BHWC.shape).encode(), digest_size=16)
    h.update(np.ascontiguousarray(image_BHWC).data)
    return h.hexdigest()
