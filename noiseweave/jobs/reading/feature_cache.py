"""Features by content: what one run of any job computed, no later run computes again.

    <features.cache>/<the space's identity>/<hash of the pictures>.npy   raw features, float32 [N, D]

The pictures are those that the extractor sees, decoded and fitted, and a file holds those of one call: a shard, as a
rule. So a shard may move or be encoded anew; one that gained a picture is computed again as a whole. A file that is not
what it should be (torn, of other rows or width, not finite) is not believed: its features are computed again.
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
    about = storage.join(folder, "space.json")
    loaded: list[Space] = []

    def extract(image_BHWC: np.ndarray) -> np.ndarray:
        path = storage.join(folder, f"{content(image_BHWC)}.npy")
        kept_BD = _kept(path, len(image_BHWC), _width(about))
        if kept_BD is not None:
            return kept_BD
        if not loaded:
            loaded.append(load())
        f_BD = loaded[0].extract(image_BHWC)
        storage.write_json(about, {"space": json.loads(text), "width": f_BD.shape[1]})
        storage.write(path, npy(f_BD))
        return f_BD

    return extract


def _width(about: str) -> int | None:
    """The length of the features that are kept; None where nothing says it."""
    try:
        return int(storage.read_json(about)["width"])
    except (OSError, ValueError, TypeError, LookupError, OverflowError):
        return None


def _kept(path: str, rows: int, width: int | None) -> np.ndarray | None:
    """The features that a file holds; None where there is none, or no whole table [rows, width] of finite float32."""
    if width is None or not storage.exists(path):
        return None
    try:
        f_BD = array(storage.read(path))
    except (ValueError, OSError):  # torn, or something else
        return None
    good = f_BD.shape == (rows, width) and f_BD.dtype == np.float32 and bool(np.isfinite(f_BD).all())
    return f_BD if good else None


def content(image_BHWC: np.ndarray) -> str:
    """A hash of pictures: of their sizes and pixels."""
    h = hashlib.blake2b(repr(image_BHWC.shape).encode(), digest_size=16)
    h.update(np.ascontiguousarray(image_BHWC).data)
    return h.hexdigest()
