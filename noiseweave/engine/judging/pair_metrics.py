"""A picture beside its reference: each metric, whole and inside and outside of a mask."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from noiseweave.engine.judging.picture_metrics import Lpips


REGIONS = ("", " inside", " outside")


@dataclass(frozen=True, kw_only=True)
class Trio:
    """They are read: uint8 [H, W, C] each, and bool [H, W], True inside the mask."""

    key: str
    picture_HWC: np.ndarray
    reference_HWC: np.ndarray
    inside_HW: np.ndarray | None


def score_pair(metrics: Collection[str], trio: Trio, lpips: Lpips | None) -> dict[str, float | None]:
    """Each metric of a pair, whole and inside and outside of its mask; PSNR is None where both are equal."""
    from noiseweave.engine.judging import picture_metrics as of

    a, b, inside = trio.reference_HWC, trio.picture_HWC, trio.inside_HW
    regions = [None] if inside is None else [None, inside, ~inside]
    map_HW = of.ssim_map(a, b) if "ssim" in metrics else None
    out: dict[str, float | None] = {}
    for name, region in zip(REGIONS, regions, strict=False):
        if "psnr" in metrics:
            error = of.squared_error(a, b, region)
            out |= {f"mse{name}": error, f"psnr{name}": of.decibels(error) if error else None}
        if map_HW is not None:
            out[f"ssim{name}"] = of.map_mean(map_HW, region)
        if lpips is not None:
            out[f"lpips{name}"] = lpips(a, b, region)
    return out
