"""The figure and the numbers of docs/noise.md: shared against independent inversion noise, on digits.

python scripts/noise_figure.py docs/noise.png
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from noiseweave.engine.diffusion.inversion import replay
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion import groups, modes
from noiseweave.engine.fusion.recipes import MODES, Mode
from noiseweave.engine.networks import loading
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.pictures import collage
from noiseweave.engine.records import NoiseMaps

PAIRS, SHOWN = 40, 6
SHOWN_MODES: tuple[Mode, ...] = ("linear", "cross_fade")


def digit_pairs() -> tuple[np.ndarray, list[tuple[int, int]]]:
    """uint8 [2 PAIRS, 16, 16, 1] and its pairs: two different digits of one class, four pairs a class."""
    data, r = load_digits(), np.random.default_rng(0)
    rows = [
        i for k in range(PAIRS) for i in r.choice(np.flatnonzero(data.target == k % 10), 2, replace=False)
    ]
    small = (data.images[rows] * 255 / 16).round().astype(np.uint8)
    image_BHW = [np.asarray(Image.fromarray(x).resize((16, 16), Image.Resampling.BICUBIC)) for x in small]
    return np.stack(image_BHW)[..., None], [(2 * k, 2 * k + 1) for k in range(PAIRS)]


def correlation(a: NoiseMaps, b: NoiseMaps) -> float:
    """Pearson correlation of two pictures' residuals, the mean over steps."""
    x, y = a.residual_TCHW.flatten(1), b.residual_TCHW.flatten(1)
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    return float(((x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))).mean())


def sharpness(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Mean |Laplacian| of each picture, [B]."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3)
    return torch.nn.functional.conv2d(x_BCHW, kernel).abs().mean((1, 2, 3))


def rms(x_BCHW: torch.Tensor, y_BCHW: torch.Tensor) -> torch.Tensor:
    return (x_BCHW - y_BCHW).square().mean((1, 2, 3)).sqrt()


def main(path: str) -> None:
    model = loading.load(ModelConfig(name="digits-ddpm"))
    image_BHWC, pairs = digit_pairs()
    x = model.encode(image_BHWC)
    a, b = x[0::2], x[1::2]
    parents, blend = (sharpness(a) + sharpness(b)) / 2, (a + b) / 2
    print(f"pixel blend: sharpness {(sharpness(blend) / parents).mean():.2f}", end="")
    print(f", parents apart {rms(a, b).mean():.3f}")
    pictures = {}
    for noise in ("independent", "shared"):
        keys = [str(i) for i in range(len(x))]
        s, maps = groups.invert_pictures(model, image_BHWC, keys, InversionRecipe(noise=noise), 0)
        print(noise, f"correlation {np.mean([correlation(maps[i], maps[j]) for i, j in pairs]):.2f}")
        for mode in MODES:
            fused = [modes.fuse([maps[i], maps[j]], [0.5, 0.5], mode) for i, j in pairs]
            y = replay(model.denoise, s, fused).clamp(-1, 1)
            to_a, to_b = rms(y, a), rms(y, b)
            near, far = torch.minimum(to_a, to_b), torch.maximum(to_a, to_b)
            print(f"  {mode:<18} sharpness {(sharpness(y) / parents).mean():.2f}", end="")
            print(f"  to the blend {rms(y, blend).mean():.3f}", end="")
            print(f"  to the nearer parent {near.mean():.3f}  to the farther {far.mean():.3f}", flush=True)
            pictures[noise, mode] = model.decode(y)
    columns = [image_BHWC[0::2], image_BHWC[1::2], model.decode(blend)]
    columns += [pictures[n, m] for m in SHOWN_MODES for n in ("independent", "shared")]
    heads = [
        "first",
        "second",
        "pixel blend",
        "linear, indep.",
        "linear, shared",
        "cross, indep.",
        "cross, shared",
    ]
    collage.sheet([[c[k] for c in columns] for k in range(SHOWN)], (), heads).save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
