"""Handwritten digits with holes in them, for ``make demo-inpaint``: OUT/images and OUT/masks (black is repaired).

python scripts/digits_with_holes.py out/demo/broken --count 24
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from sklearn.datasets import load_digits

from noiseweave.engine.seeding import rng

SIDE = 64  # four pixels for each that the model draws
FIRST = 1500  # of scikit-learn's 1797


def hole(key: str) -> Image.Image:
    """A white mask with a block or with two strokes in black."""
    r = rng(0, "hole", key)
    mask = Image.new("L", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(mask)
    if r.random() < 0.5:
        left, top = r.randint(8, 32), r.randint(8, 32)
        draw.rectangle((left, top, left + r.randint(20, 28), top + r.randint(20, 28)), fill="black")
    else:
        for _ in range(2):
            ends = [(r.randint(8, 56), r.randint(4, 60)) for _ in range(2)]
            draw.line(ends, fill="black", width=8)
    return mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=24)
    arguments = parser.parse_args()
    for folder in ("images", "masks"):
        (arguments.output / folder).mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    for i in range(FIRST, FIRST + arguments.count):
        grey = np.rint(digits.images[i] * 255 / 16).astype(np.uint8)
        name = f"{i}-{digits.target[i]}.png"
        small = Image.fromarray(grey).resize((16, 16), Image.Resampling.BICUBIC)  # as pack makes them
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(arguments.output / "images" / name)
        hole(name).save(arguments.output / "masks" / name)
    print(f"{arguments.count} digits with holes in {arguments.output}")


if __name__ == "__main__":
    main()
