"""Digits and photos that the parts of evaluate usefulness are tried on."""

import numpy as np
import pytest
from comparing import LATENT, SETUP, TINY, hidden
from sklearn.datasets import load_digits

from noiseweave.engine.usefulness import generators
from noiseweave.engine.usefulness.data import Pictures, few_of


@pytest.fixture(scope="module")
def pool():
    data = load_digits(n_class=3)
    image = np.rint(data.images[:120] * 255 / 16).astype(np.uint8)[..., None]
    return Pictures(image_NHWC=image, label_N=data.target[:120].astype(np.int64))


@pytest.fixture(scope="module")
def few(pool):
    rows = few_of(pool.label_N, [str(i) for i in range(120)], 4, 0)
    return Pictures(image_NHWC=pool.image_NHWC[rows], label_N=pool.label_N[rows])


@pytest.fixture(scope="module")
def weights(few, pool):
    start = generators.train_prior(pool, TINY, SETUP)
    return generators.tune_generator(few, hidden(pool), start, TINY, SETUP)


@pytest.fixture(scope="module")
def photos():
    """30 pictures of 3 colours with some noise, 32 x 32, and their classes."""
    r = np.random.default_rng(0)
    label_N = np.arange(30) % 3
    colour_N3 = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])[label_N]
    image = colour_N3[:, None, None] + r.integers(-40, 40, (30, 32, 32, 3))
    return Pictures(image_NHWC=image.clip(0, 255).astype(np.uint8), label_N=label_N.astype(np.int64))


@pytest.fixture(scope="module")
def latent_weights(photos):
    start = generators.train_prior(photos, LATENT, SETUP)
    return generators.tune_generator(photos, hidden(photos), start, LATENT, SETUP)
