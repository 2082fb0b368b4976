"""What a made picture shows of its parents, without any network: both at one place, one copied, speckle.

Pictures of 64 pixels a side and more; P places of a grid of tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import ndimage

from noiseweave.engine.pictures.hashing import perceptual_hash

SIDE = 64  # smaller pictures have too few pixels in a tile
TILES = 4  # a side
COARSE = (
    4.0  # detail is what a blur of so many pixels takes away, of a picture of 128; in proportion of others
)
BANDS = (
    0.7,
    1.4,
    2.8,
    5.6,
)  # deviations of the blurs, in pixels, between which the bands of high frequencies lie
PATCH = 8  # pixels of a side, of the patches whose energies are compared
DETAIL = 4.0  # squared grey levels of a pixel, from which on a tile has detail, and a band is seen
FLOOR = 0.05  # squared grey levels of a pixel: less than the rounding to whole numbers


@dataclass(frozen=True, kw_only=True)
class Traces:
    """Of a made picture, against its parents; None where they are not known, or it is too small.

    Attributes:
        double: of two parents: how much both show at one place, 0 to 1: 1 in their pixel mean, 0.6 in one of 0.3 to
            0.7, 0 in either or in a collage of them.
        traced: how much of its tiles one parent alone explains, in place, of those where either has detail: 1 in that
            parent, about 0.5 in a half of it.
        bits: of 64, in which its perceptual hash differs from the nearer parent's.
        speckle: energy of a band of high frequencies over that of the next lower one, over the same of the noisier
            parent; the most of two that are seen. Noise is as strong in each band; texture is weaker the finer it is.
        rough: energy of bands of middle frequencies (1.4 to 5.6 pixels), in most places, over that of the rougher
            parent; the least of two. Noise in a latent or in noise maps becomes blobs of this size.
    """

    double: float | None = None
    traced: float | None = None
    bits: int | None = None
    speckle: float | None = None
    rough: float | None = None


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What is compared of a picture.

    Attributes:
        detail_PN: float32, high-passed grey, tile by tile.
        fine: energy of the two finest bands, the median of all patches, in squared grey levels.
        slopes: of these over that of the next lower one, the median of all patches.
        middle: energy of the two coarsest bands, the median of all patches, in squared grey levels.
        hash: see ``pictures.hashing``.
    """

    detail_PN: np.ndarray
    fine: tuple[float, ...]
    slopes: tuple[float, ...]
    middle: tuple[float, ...]
    hash: int


def look(image_HWC: np.ndarray) -> Looked | None:
    """What is compared of a picture, uint8 [H, W, C]; None of one with a side below SIDE."""
    if min(image_HWC.shape[:2]) < SIDE:
        return None
    x = image_HWC.astype(np.float32)
    energies = _energies(x)
    slopes = (np.median(fine / (lower + FLOOR)) for fine, lower in pairwise(energies[:3]))
    medians = tuple(float(np.median(energy)) for energy in energies)
    return Looked(
        detail_PN=_detail(x.mean(-1)),
        fine=medians[:2],
        slopes=tuple(map(float, slopes)),
        middle=medians[2:],
        hash=perceptual_hash(image_HWC),
    )


def _detail(grey_HW: np.ndarray) -> np.ndarray:
    height, width = (n // TILES * TILES for n in grey_HW.shape)
    high = grey_HW - ndimage.gaussian_filter(grey_HW, COARSE * min(grey_HW.shape) / 128)
    tiles = high[:height, :width].reshape(TILES, height // TILES, TILES, width // TILES)
    return tiles.transpose(0, 2, 1, 3).reshape(TILES * TILES, -1)


def _energies(x_HWC: np.ndarray) -> list[np.ndarray]:
    """Of each band the mean energy of each patch, the finest band first.

    Each channel counts, as noise is mostly coloured and the detail of photos mostly is not.
    """
    height, width = (n // PATCH * PATCH for n in x_HWC.shape[:2])
    energies, finer = [], x_HWC
    for deviation in BANDS:
        blurred = ndimage.gaussian_filter(x_HWC, (deviation, deviation, 0))
        energy = ((finer - blurred) ** 2).mean(-1)[:height, :width]
        energies.append(energy.reshape(height // PATCH, PATCH, width // PATCH, PATCH).mean((1, 3)))
        finer = blurred
    return energies


def traces(made: Looked | None, parents: Sequence[Looked | None]) -> Traces:
    """A made picture against its parents, of the same size."""
    known = [p for p in parents if p is not None]
    if made is None or not known:
        return Traces()
    over_B = _over(made.slopes, [p.slopes for p in known])
    return Traces(
        double=_double(made.detail_PN, known[0].detail_PN, known[1].detail_PN) if len(known) == 2 else None,
        traced=max(_traced(made.detail_PN, p.detail_PN) for p in known),
        bits=min((made.hash ^ p.hash).bit_count() for p in known),
        speckle=max(over if e > DETAIL else 0.0 for over, e in zip(over_B, made.fine, strict=True)),
        rough=min(_over(made.middle, [p.middle for p in known])),
    )


def _over(mine: Sequence[float], theirs: Sequence[Sequence[float]]) -> list[float]:
    """Each value over the highest of the parents'."""
    return [value / max(FLOOR, *usual) for value, *usual in zip(mine, *theirs, strict=True)]


def _traced(made_PN: np.ndarray, parent_PN: np.ndarray) -> float:
    """Mean share of a tile's energy that the best multiple of the parent's accounts for; 0 where all is flat."""
    made_P, parent_P = _energy(made_PN), _energy(parent_PN)
    some_P = np.maximum(made_P, parent_P) > DETAIL * made_PN.shape[1]
    share_P = _dot(made_PN, parent_PN) ** 2 / (made_P * parent_P)
    return float(share_P[some_P].mean()) if some_P.any() else 0.0


def _double(made_PN: np.ndarray, one_PN: np.ndarray, other_PN: np.ndarray) -> float:
    """Least squares of each tile on the parents': how well a mixture fits, times the evenness of its two weights."""
    both_P, fitted_P = _dot(one_PN, other_PN), (_dot(made_PN, one_PN), _dot(made_PN, other_PN))
    energy_P = _energy(one_PN), _energy(other_PN)
    whole_P = energy_P[0] * energy_P[1] - both_P**2
    weight_P = [
        (fitted_P[i] * energy_P[1 - i] - fitted_P[1 - i] * both_P) / whole_P.clip(FLOOR) for i in (0, 1)
    ]
    made_P = _energy(made_PN)
    fit_P = ((weight_P[0] * fitted_P[0] + weight_P[1] * fitted_P[1]) / made_P).clip(0, 1)
    low_P, high_P = (np.sort(np.clip(weight_P, 0, None), axis=0)[i] for i in (0, 1))
    even_P = 2 * low_P / (low_P + high_P).clip(FLOOR)
    return float((fit_P * even_P * made_P).sum() / made_P.sum())


def _energy(x_PN: np.ndarray) -> np.ndarray:
    return _dot(x_PN, x_PN) + FLOOR * x_PN.shape[1]


def _dot(a_PN: np.ndarray, b_PN: np.ndarray) -> np.ndarray:
    return np.einsum("pn,pn->p", a_PN, b_PN)
