"""A pipeline's safety checker: which pictures it flags, and one more try for those.

diffusers' pipelines write what it flags as black pictures. Here it is taken out of the pipeline and asked about what is
drawn, so that a flagged picture can be counted and named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from noiseweave.engine.networks.protocols import Network, Pipeline
from noiseweave.engine.seeding import seed_of

PART = 16  # pictures in one call


@dataclass(frozen=True, kw_only=True)
class SafetyChecker:
    """diffusers' StableDiffusionSafetyChecker, with what prepares pictures for it."""

    network: Network
    prepare: Callable[..., dict[str, torch.Tensor]]

    @torch.inference_mode()
    def __call__(self, image_BHWC: np.ndarray) -> np.ndarray:
        """uint8 [B, H, W, 1 or 3] -> bool [B]: which are flagged."""
        flagged: list[bool] = []
        for start in range(0, len(image_BHWC), PART):
            part = image_BHWC[start : start + PART]
            pictures = [
                Image.fromarray(x.squeeze(-1) if x.shape[-1] == 1 else x).convert("RGB") for x in part
            ]
            seen = self.prepare(pictures, return_tensors="pt")["pixel_values"]
            seen = seen.to(self.network.device, self.network.dtype)
            flagged += self.network(images=part.copy(), clip_input=seen)[
                1
            ]  # it blackens those that it is given
        return np.array(flagged, bool)


def taken_from(pipeline: Pipeline) -> SafetyChecker | None:
    """A pipeline's safety checker, which the pipeline no longer has then; None where it has none."""
    network = getattr(pipeline, "safety_checker", None)
    if network is None:
        return None
    pipeline.safety_checker = None
    return SafetyChecker(network=network, prepare=pipeline.feature_extractor)


def flagged(checker: SafetyChecker | None, image_BHWC: np.ndarray) -> np.ndarray:
    """bool [B]: which pictures are flagged; none where there is no checker."""
    return np.zeros(len(image_BHWC), bool) if checker is None else checker(image_BHWC)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was drawn of B pictures in the end.

    Attributes:
        drawn: uint8 [B, ...].
        seeds: that each was drawn with.
        flagged_B: bool [B]; where True the second try was flagged as well, and the picture is not to be shown.
    """

    drawn: np.ndarray
    seeds: list[int]
    flagged_B: np.ndarray


def checked(
    checker: SafetyChecker | None,
    drawn: np.ndarray,
    keys: Sequence[str],
    seed: int,
    draw: Callable[[int, int], np.ndarray],
    shown: Callable[[np.ndarray], np.ndarray] = lambda drawn: drawn,
) -> Checked:
    """Pictures of one seed; each that is flagged is drawn once more, from a seed of (seed, key) alone.

    Args:
        drawn: uint8 [B, ...].
        keys: of the B pictures.
        draw: (number of a picture, seed) -> it, drawn anew.
        shown: part of what was drawn -> its pictures, uint8 [B, H, W, 1 or 3].
    """
    flagged_B, seeds = flagged(checker, shown(drawn)), [seed] * len(keys)
    if flagged_B.any():
        drawn = drawn.copy()
    for i in np.flatnonzero(flagged_B).tolist():
        seeds[i] = seed_of(seed, "flagged", keys[i])
        drawn[i] = draw(i, seeds[i])
        flagged_B[i] = flagged(checker, shown(drawn[i : i + 1]))[0]
    return Checked(drawn=drawn, seeds=seeds, flagged_B=flagged_B)
