"""The hash of real photos (digits and scikit-image's): the same for small changes, another for another picture."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from noiseweave.engine.pairing.selection import hamming
from noiseweave.engine.pictures.hashing import perceptual_hash, perceptual_hashes


def distance(one, other):
    return int(hamming(*(np.array([perceptual_hash(x)], np.uint64) for x in (one, other)))[0])


def square(name):
    image = Image.fromarray(getattr(data, name)()).convert("RGB")
    side = min(image.size)
    return image.crop((0, 0, side, side)).resize((128, 128))


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
def test_small_changes_keep_the_hash(name):
    image = square(name)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    x = np.asarray(image)
    noisy = np.clip(x + np.random.default_rng(0).normal(0, 8, x.shape), 0, 255).astype(np.uint8)
    for other in (
        Image.open(buffer),
        image.resize((64, 64)),
        image.convert("L"),
        noisy,
        np.clip(x * 0.9, 0, 255),
    ):
        y = np.asarray(other)
        assert distance(x, y if y.ndim == 3 else y[..., None]) <= 6


def test_different_pictures_differ_in_many_bits():
    names = ("astronaut", "coffee", "chelsea", "rocket")
    pictures = [np.asarray(square(name)) for name in names]
    apart = [distance(a, b) for i, a in enumerate(pictures) for b in pictures[:i]]
    assert min(apart) > 16


def test_flat_and_empty_sets():
    flat = np.full((2, 16, 16, 1), 7, np.uint8)
    assert len(set(perceptual_hashes(flat).tolist())) == 1
    none = perceptual_hashes(flat[:0])
    assert none.shape == (0,)
    assert none.dtype == np.uint64
