"""The small classifier learns, is a function of its seed, and its augmentations keep what they should."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from noiseweave.engine.judging import classifier
from noiseweave.engine.judging.recipes import ClassifierRecipe

QUICK = ClassifierRecipe(steps=60, batch=32, width=8)


@pytest.fixture(scope="module")
def digits():
    """Pictures uint8 [N, 8, 8, 1] and labels."""
    data = load_digits()
    return np.rint(data.images * 255 / 16).astype(np.uint8)[..., None], data.target


def trained(digits, seed=0, made=None, **more):
    image, label = (part[:200] for part in digits)
    recipe = replace(QUICK, **more)
    return classifier.train(image, classifier.soft_labels(label, 10), recipe, seed, made)


def test_it_learns_digits_and_the_same_from_the_same_seed(digits):
    before = torch.get_rng_state()
    one, same, other = trained(digits), trained(digits), trained(digits, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert classifier.accuracy(one, digits[0][200:700], digits[1][200:700]) > 0.75
    p = [classifier.probabilities(network, digits[0][:20]) for network in (one, same, other)]
    assert np.array_equal(p[0], p[1])
    assert not np.array_equal(p[0], p[2])
    np.testing.assert_allclose(p[0].sum(1), 1, rtol=1e-5)


def test_made_pictures_are_a_share_of_every_batch(digits):
    """With the wrong labels on half of each batch, a classifier is torn between the two."""
    image, label = (part[:200] for part in digits)
    wrong = (image, classifier.soft_labels((label + 1) % 10, 10))
    torn = classifier.probabilities(trained(digits, made=wrong, steps=150), image)
    rows = np.arange(len(label))
    assert torn[rows, label].mean() > 0.2
    assert torn[rows, (label + 1) % 10].mean() > 0.2


@pytest.mark.parametrize("side", [8, 16, 32, 64])
def test_pictures_of_every_size_end_as_four_by_four(side):
    network = classifier.Classifier(side=side, channels=3, classes=5, width=4, dropout=0.0)
    assert network(torch.zeros(2, 3, side, side)).shape == (2, 5)
    pools = sum(isinstance(layer, torch.nn.MaxPool2d) for layer in network.features)
    assert side >> pools == 4


def test_affine_moves_pictures_little_and_each_on_its_own():
    torch.manual_seed(0)
    x = torch.full((64, 1, 16, 16), -1.0)
    x[:, :, 6:10, 6:10] = 1
    y = classifier.affine(x)
    assert y.min() >= -1.0001
    assert y.max() <= 1.0001
    mass = (y + 1).sum((1, 2, 3)) / (x + 1).sum((1, 2, 3))
    assert 0.65 < mass.min() < mass.max() < 1.45
    assert len({tuple(p.flatten().tolist()) for p in y}) == 64


def test_a_crop_is_a_shift_with_reflected_edges():
    torch.manual_seed(0)
    x = torch.arange(256.0).reshape(1, 1, 16, 16).expand(200, 1, 16, 16)
    y = classifier.random_crop(x)
    shifts = {(int(p[0, 8, 8]) // 16 - 8, int(p[0, 8, 8]) % 16 - 8) for p in y}
    assert shifts == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}
    moved = next(p[0] for p in y if p[0, 8, 8] == 10 * 16 + 8)  # the picture two up: its last rows come back
    torch.testing.assert_close(moved[:14], x[0, 0, 2:])
    torch.testing.assert_close(moved[14:], x[0, 0, [14, 13]])


@pytest.mark.parametrize("name", ["flip", "crop", "affine", "randaugment", "mixup", "cutmix"])
def test_every_augmentation_keeps_shapes_ranges_and_sums_of_labels(digits, name):
    x = torch.from_numpy(digits[0][:32]).permute(0, 3, 1, 2).float() / 127.5 - 1
    p = classifier.soft_labels(digits[1][:32], 10)
    torch.manual_seed(0)
    y, q = classifier.augmented(x, p, replace(QUICK, classical=(name,)))
    assert y.shape == x.shape
    assert -1.01 <= y.min() < y.max() <= 1.01
    torch.testing.assert_close(q.sum(1), torch.ones(32))
    assert not torch.equal(y, x)
    assert torch.equal(q, p) == (name not in ("mixup", "cutmix"))
