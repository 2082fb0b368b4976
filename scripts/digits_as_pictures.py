"""Handwritten digits as picture files, to try ``pack`` and ``fuse`` with: OUT/<class>/digit-0003.png and its caption.

python scripts/digits_as_pictures.py out/pictures --count 60
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--count", type=int, default=60)
    arguments = parser.parse_args()
    digits = load_digits()
    for i in range(arguments.count):
        folder = arguments.output / str(digits.target[i])
        folder.mkdir(parents=True, exist_ok=True)
        grey = np.rint(digits.images[i] * 255 / 16).astype(np.uint8)
        small = Image.fromarray(grey).resize((16, 16), Image.Resampling.BICUBIC)  # as pack makes them
        small.save(folder / f"digit-{i:04}.png")
        (folder / f"digit-{i:04}.txt").write_text(f"a handwritten {WORDS[digits.target[i]]}\n")
    print(f"{arguments.count} digits in {arguments.output}")


if __name__ == "__main__":
    main()
