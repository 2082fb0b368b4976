"""What the parts of a comparison hand to each other: labelled pictures, made ones, and what a run shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from noiseweave.engine.seeding import rng


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What every part of one run shares.

    Attributes:
        classes: K, how many there are.
        seed: of all that is drawn.
        flip: whether pictures may be mirrored.
        device: cpu or cuda.
    """

    classes: int
    seed: int
    flip: bool = False
    device: str = "cpu"


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """uint8 [N, side, side, C] and their labels, int64 [N]; -1 is none."""

    image_NHWC: np.ndarray
    label_N: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Added:
    """Made pictures: uint8 [M, side, side, C], float32 [M, K]; how many the gate left out, by reason."""

    image_MHWC: np.ndarray
    p_MK: np.ndarray
    rejected: dict[str, int]


def few_of(label_N: np.ndarray, keys: Sequence[str], per_class: int, seed: int) -> np.ndarray:
    """Rows of ``per_class`` pictures of each class, chosen by (seed, key); smaller choices lie in larger ones.

    Raises:
        ValueError: a class has fewer.
    """
    order = sorted(range(len(keys)), key=lambda i: rng(seed, "few", keys[i]).random())
    chosen = []
    for c in np.unique(label_N[label_N >= 0]).tolist():
        rows = [i for i in order if label_N[i] == c][:per_class]
        if len(rows) < per_class:
            raise ValueError(f"per_class={per_class}: class {c} has {len(rows)} pictures")
        chosen += rows
    return np.array(chosen, np.int64)
