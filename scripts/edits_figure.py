"""The figure and the numbers of docs/edits.md: edits and regional fusion of digits with the shipped model.

python scripts/edits_figure.py docs/edits.png
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from noiseweave.engine.diffusion import dpm_solver
from noiseweave.engine.diffusion.inversion import draw_noise, replay
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion import groups
from noiseweave.engine.fusion.edits import edit, fresh_noise
from noiseweave.engine.fusion.recipes import EDITS
from noiseweave.engine.fusion.regions import fuse_region, saliency
from noiseweave.engine.networks import backbone, loading
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.pictures import collage

STRENGTHS = (0.0, 0.25, 0.5, 1.0)
RECIPE = InversionRecipe(num_steps=50, skip=10)
SHOWN = (0, 2)  # of the digits that are measured


def digits() -> np.ndarray:
    """uint8 [10, 16, 16, 1]."""
    data = load_digits()
    rows = [int(np.flatnonzero(data.target == k)[3]) for k in (3, 8, 0, 7, 5, 2, 1, 4, 6, 9)]
    small = [Image.fromarray((x * 255 / 16).round().astype(np.uint8)) for x in data.images[rows]]
    return np.stack([np.asarray(x.resize((16, 16), Image.Resampling.BICUBIC)) for x in small])[..., None]


def changed(name: str, image_BHWC: np.ndarray) -> np.ndarray:
    """What an edit is shown on: grain to take off, faintness to lift, else the digit as it is."""
    if name == "smooth":
        noise = np.random.default_rng(0).normal(0, 22, image_BHWC.shape)
        return np.clip(image_BHWC + noise, 0, 255).astype(np.uint8)
    return (image_BHWC * 0.6 + 25).astype(np.uint8) if name == "contrast" else image_BHWC


def edits(model: backbone.Backbone, name: str, image_BHWC: np.ndarray) -> torch.Tensor:
    """[strength, B, 1, 16, 16] of one edit."""
    keys = [str(i) for i in range(len(image_BHWC))]
    s, maps = groups.invert_pictures(model, image_BHWC, keys, RECIPE, 0)
    made = [
        edit(m, s, name, k, fresh_noise(m, 0, key))  # type: ignore[arg-type]
        for k in STRENGTHS
        for m, key in zip(maps, keys, strict=True)
    ]
    return replay(model.denoise, s, made).unflatten(0, (len(STRENGTHS), -1))


def report(name: str, x: torch.Tensor) -> None:
    """Total variation, deviation, distance to the picture and correlation with it, the means over pictures."""
    x = x.clamp(-1, 1)
    tv = x.diff(dim=-1).abs().sum((2, 3, 4)) + x.diff(dim=-2).abs().sum((2, 3, 4))
    rms = (x - x[0]).square().mean((2, 3, 4)).sqrt().mean(1)
    flat = x.flatten(2) - x.flatten(2).mean(2, keepdim=True)
    r = ((flat * flat[0]).sum(2) / (flat.norm(dim=2) * flat[0].norm(dim=1))).mean(1)
    for i, k in enumerate(STRENGTHS):
        numbers = (
            float(tv[i].mean() / tv[0].mean()),
            float(x[i].std((1, 2, 3)).mean()),
            float(rms[i]),
            float(r[i]),
        )
        print(
            f"{name:10} {k:4} tv {numbers[0]:.2f} std {numbers[1]:.3f} rms {numbers[2]:.3f} r {numbers[3]:.2f}"
        )


def regions(model: backbone.Backbone, image_BHWC: np.ndarray) -> list[np.ndarray]:
    """first, second, half mask, fused, saliency of the second, fused by it."""
    s, maps = groups.invert_pictures(model, image_BHWC[:2], ["0", "1"], RECIPE, 0)
    half = torch.zeros(16, 16)
    half[8:] = 1
    masks = [half, saliency(maps[1])]
    fused = model.decode(replay(model.denoise, s, [fuse_region(maps, [0, 1], "linear", m) for m in masks]))
    grey = [(m[..., None] * 255).round().byte().numpy() for m in masks]
    return [*image_BHWC[:2], grey[0], fused[0], grey[1], fused[1]]


def reconstruction(image_BHWC: np.ndarray) -> None:
    """PSNR of invert -> replay for both samplers and two precisions, 20 and 25 steps."""
    for precision in ("fp32", "bf16"):
        model = loading.load(ModelConfig(name="digits-ddpm", precision=precision))  # type: ignore[arg-type]
        x_0 = model.encode(image_BHWC)
        for steps in (20, 25):
            noise = [draw_noise(RECIPE, steps, (1, 16, 16), 0, str(i)) for i in range(len(x_0))]
            for name, solver in dpm_solver.SOLVERS.items():
                s = model.path(InversionRecipe(num_steps=steps, skip=0, sampler=name))
                maps = solver.invert(model.denoise, s, x_0, torch.stack(noise, 1))
                mse = (solver.replay(model.denoise, s, maps).double() - x_0).square().mean()
                print(f"{name:16} {precision} {steps} steps: {float(10 * torch.log10(4 / mse)):.1f} dB")


def main(path: str) -> None:
    model, image = loading.load(ModelConfig(name="digits-ddpm")), digits()
    rows, captions = [], []
    for name in EDITS:
        x = edits(model, name, changed(name, image))
        report(name, x)
        rows.append([picture for b in SHOWN for picture in model.decode(x[:, b])])
        captions.append(
            {"smooth": "smooth, of digits with grain", "contrast": "contrast, of faint digits"}.get(
                name, name
            )
        )
    pair = image[[2, 3]]
    rows.append([*regions(model, image), *regions(model, pair)[3::2]])
    captions.append(
        "regions: first, second, mask, fused, saliency of the second, fused by it; another pair by both"
    )
    heads = [f"{k:g}" for _ in SHOWN for k in STRENGTHS]
    collage.sheet(rows, captions=captions, heads=heads, tile=64).quantize(64).save(path, optimize=True)
    reconstruction(image[:4])


if __name__ == "__main__":
    main(sys.argv[1])
