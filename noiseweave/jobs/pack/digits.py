"""scikit-learn's optical digits as a source of ``pack``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from noiseweave.jobs.pack.samples import Packed, Source, Tally, packed, wanted

if TYPE_CHECKING:
    from noiseweave.jobs.pack.config import Config


def source(config: Config, tally: Tally) -> Source:
    """The 1797 handwritten digits that come with scikit-learn."""
    names = [str(n) for n in range(10) if config.labels == "folders"]
    results = samples(config, tally)
    return Source(what="scikit-learn's digits", classes=names, total=1797, results=results)


def samples(config: Config, tally: Tally) -> Iterator[Packed]:
    """8x8 pictures with values 0..16 -> grey uint8 pictures (bicubic when a size is given)."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    from noiseweave.engine.pictures import images

    digits = load_digits()
    pictures_NHW = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    extension = config.image_format or "png"
    for n, (picture_HW, label) in enumerate(zip(pictures_NHW, digits.target, strict=True)):
        if not wanted(config, int(label)):
            tally.left_out += 1
            continue
        content = picture_HW.tobytes()
        if config.size is not None:
            side = (config.size, config.size)
            picture_HW = np.asarray(Image.fromarray(picture_HW).resize(side, Image.Resampling.BICUBIC))
        files: dict[str, bytes] = {extension: images.encode(picture_HW[..., None], extension)}
        yield packed(config, f"digit-{n:04d}", int(label), files, {"source": f"digits/{n:04d}"}, content)
