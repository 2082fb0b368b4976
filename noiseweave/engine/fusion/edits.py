"""Edits of one picture in its noise maps: a few lines over the residuals r_t, then a replay.

Each takes a strength k in 0..1, 0 gives the very same map. x_T and the first third of the steps, the
structure, stay as they are; ``FROM`` says at which place in time u (0 the noisiest kept step, 1 the
cleanest) an edit begins. G is a Gaussian blur of one pixel of the map, <.> the mean over a channel of a step.
docs/edits.md shows them, and what did not work. Letters: T kept steps, C channels, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from noiseweave.engine.checks import check
from noiseweave.engine.diffusion.path import Path, broadcast
from noiseweave.engine.fusion.recipes import EDITS, EditName
from noiseweave.engine.fusion.regions import blur
from noiseweave.engine.records import NoiseMaps
from noiseweave.engine.seeding import generator

FROM: dict[EditName, float] = {"smooth": 2 / 3, "contrast": 1 / 3, "style": 1 / 3, "variation": 1 / 3}
BLUR = 1.0  # pixels of the map
STYLE_SHARE = 0.6  # most that a drawn style replaces; all of it leaves specks on a plain background


def edit(
    maps: NoiseMaps,
    path: Path,
    name: EditName,
    strength: float,
    fresh_TCHW: Tensor,
    reference: NoiseMaps | None = None,
) -> NoiseMaps:
    """One edit by name, on the steps that are its own.

    Args:
        path: the steps that the map was made with.
        strength: 0 (nothing) to 1.
        fresh_TCHW: standard normal of the residual's shape, for style and variation; see ``fresh_noise``.
        reference: of style, the map of the picture whose style is wanted; None draws a style from fresh_TCHW.

    Raises:
        ValueError: an unknown name, a strength outside 0..1, or maps of other time steps.
    """
    check(name in EDITS, "edit.name", name, f"one of {', '.join(EDITS)}")
    check(0 <= strength <= 1, "edit.strength", strength, "0 to 1")
    if any(not torch.equal(m.timesteps_T, path.t_T) for m in (maps, reference or maps)):
        raise ValueError("noise maps: made with other time steps than this path has")
    if strength == 0:
        return maps
    r_TCHW = maps.residual_TCHW
    match name:
        case "smooth":
            edited = smooth(r_TCHW, strength)
        case "contrast":
            edited = contrast(r_TCHW, strength)
        case "style":
            k = strength * (1.0 if reference is not None else STYLE_SHARE)
            edited = style(r_TCHW, k, spread_like(r_TCHW, fresh_TCHW, reference))
        case _:
            edited = variation(r_TCHW, strength, path, fresh_TCHW)
    return replace(maps, residual_TCHW=torch.where(_places(r_TCHW) >= FROM[name], edited, r_TCHW))


def smooth(r_TCHW: Tensor, k: float) -> Tensor:
    """Grain off: r - k (r - G r), the high frequencies of the last third."""
    return r_TCHW - k * (r_TCHW - blur(r_TCHW, BLUR))


def contrast(r_TCHW: Tensor, k: float) -> Tensor:
    """Tone released: gain 1 - k on the low frequencies about their mean, r - k (G r - <G r>).

    The low frequencies of a residual hold the tones of a picture away from those that the model would have
    given it; without them a faint picture takes the contrast of the model's own.
    """
    tone = blur(r_TCHW, BLUR)
    return r_TCHW - k * (tone - tone.mean((2, 3), keepdim=True))


def style(r_TCHW: Tensor, k: float, other_TCHW: Tensor) -> Tensor:
    """Mean and amplitude spectrum of each step and channel moved by k to another's; the phases stay.

    Phase carries structure, amplitude the look (Fourier domain adaptation, Yang & Soatto, arXiv 2004.05498).
    """
    (mean, F), (other_mean, other_F) = (_spectrum(r) for r in (r_TCHW, other_TCHW))
    amplitude = (1 - k) * F.abs() + k * other_F.abs()
    back = torch.fft.irfft2(torch.polar(amplitude, F.angle()), s=r_TCHW.shape[-2:])
    return back + (1 - k) * mean + k * other_mean


def _spectrum(r_TCHW: Tensor) -> tuple[Tensor, Tensor]:
    mean = r_TCHW.mean((2, 3), keepdim=True)
    return mean, torch.fft.rfft2(r_TCHW - mean)


def spread_like(r_TCHW: Tensor, fresh_TCHW: Tensor, reference: NoiseMaps | None) -> Tensor:
    """The residuals whose statistics style takes: a reference's, or white noise as strong as the map's own.

    The last step holds what is left of the picture and no noise, so none is drawn there.
    """
    if reference is not None:
        return reference.residual_TCHW
    drawn_TCHW = fresh_TCHW.to(r_TCHW) * r_TCHW.std((1, 2, 3), correction=0, keepdim=True)
    return torch.cat([drawn_TCHW[:-1], r_TCHW[-1:]])


def variation(r_TCHW: Tensor, k: float, path: Path, fresh_TCHW: Tensor) -> Tensor:
    """Other details: cos(theta) r_t + sin(theta) c_t n, theta = k pi / 2, n fresh.

    c_t is the deviation of the reverse process, so strength 1 is what the model itself draws on from the
    structure (SDEdit, arXiv 2108.01073, begun at a third of the way), and cos^2 + sin^2 = 1 keeps the spread
    between the two. The last step has c 0: nothing is drawn there.
    """
    theta = k * math.pi / 2
    c = broadcast(path.deviation_T, r_TCHW)
    return math.cos(theta) * r_TCHW + math.sin(theta) * c * fresh_TCHW.to(r_TCHW)


def _places(r_TCHW: Tensor) -> Tensor:
    T = len(r_TCHW)
    places = torch.linspace(0, 1, T) if T > 1 else torch.ones(1)
    return places.to(r_TCHW.device).view(-1, 1, 1, 1)


def fresh_noise(maps: NoiseMaps, seed: int, key: str) -> Tensor:
    """float32 [T, C, H, W], standard normal, from (seed, key); on the CPU."""
    return torch.randn(maps.residual_TCHW.shape, generator=generator(seed, "edit", key))
