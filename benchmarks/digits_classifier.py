"""A small classifier of 16x16 grey digits, and the Frechet distance in its features.

Used by base_models.py. A distance holds only among pictures that one classifier, of one seed, has looked at: it is
no FID, which is in the features of an Inception network.

N pictures, D features. Pictures are uint8 [N, 16, 16, 1], as ``noiseweave pack --dataset digits --size 16`` makes
them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from noiseweave.engine.features.classifier import FeatureClassifier, save
from noiseweave.engine.judging import set_metrics
from noiseweave.engine.seeding import seed_of

SIZE, CLASSES = 16, 10


@dataclass(frozen=True, kw_only=True)
class Digits:
    """Real digits: uint8 [N, 16, 16, 1] and int64 [N]."""

    image_NHWC: np.ndarray
    label_N: np.ndarray


def halves() -> tuple[Digits, Digits]:
    """scikit-learn's 1797 digits in two halves, each in a random order that never changes.

    They are the two sides that ``noiseweave pack --dataset digits --size 16 --validation 0.5`` makes, so a base
    model can be trained on the first half alone.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    image_NHWC = np.stack([_enlarged(np.rint(x * (255 / 16)).astype(np.uint8)) for x in data.images])
    label_N = data.target.astype(np.int64)
    seeds = np.array([seed_of(0, "split", f"digit-{n:04d}") for n in range(len(label_N))])
    order = np.argsort(seeds)  # random: scikit-learn has them by writer
    train, test = order[seeds[order] >= 2**62], order[seeds[order] < 2**62]
    return _part(image_NHWC, label_N, train), _part(image_NHWC, label_N, test)


def _part(image_NHWC: np.ndarray, label_N: np.ndarray, rows: np.ndarray) -> Digits:
    return Digits(image_NHWC=image_NHWC[rows], label_N=label_N[rows])


def _enlarged(picture_HW: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture_HW).resize((SIZE, SIZE), Image.Resampling.BICUBIC))[..., None]


def network_input(image_NHWC: np.ndarray) -> Tensor:
    """uint8 [N, 16, 16, 1] -> float32 [N, 1, 16, 16] in [-1, 1]."""
    return torch.from_numpy(np.array(image_NHWC)).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(digits: Digits, seed: int = 0, epochs: int = 30, batch: int = 64) -> FeatureClassifier:
    """A trained FeatureClassifier, the same for the same seed; torch's own random state is left as it was."""
    x, y = network_input(digits.image_NHWC), torch.from_numpy(digits.label_N)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FeatureClassifier()
        optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
        steps = epochs * -(-len(x) // batch)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(batch):
                loss = nn.functional.cross_entropy(network(_shifted(x[rows])), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return network.eval().requires_grad_(False)


def _shifted(x_NCHW: Tensor) -> Tensor:
    """The batch moved by up to a pixel each way: 900 pictures are few."""
    down, right = torch.randint(-1, 2, (2,)).tolist()
    padded = nn.functional.pad(x_NCHW, (1, 1, 1, 1), value=-1.0)
    return padded[..., 1 + down : 1 + down + SIZE, 1 + right : 1 + right + SIZE]


@torch.inference_mode()
def features(network: FeatureClassifier, image_NHWC: np.ndarray) -> np.ndarray:
    """float64 [N, D]."""
    return network.features(network_input(image_NHWC)).double().numpy()


@torch.inference_mode()
def accuracy(network: FeatureClassifier, image_NHWC: np.ndarray, label_N: np.ndarray) -> float:
    """Share of pictures that the classifier takes for their label."""
    return float((network(network_input(image_NHWC)).argmax(1).numpy() == label_N).mean())


def frechet(a_ND: np.ndarray, b_ND: np.ndarray) -> float:
    """Squared Frechet distance of two sets of features."""
    return set_metrics.frechet(*(set_metrics.Moments.of(f).gaussian() for f in (a_ND, b_ND)))


def main() -> None:
    """Train on the first half, say how it does on the second, and save it where --save says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path, help="folder for the classifier")
    folder = parser.parse_args().save
    torch.set_num_threads(1)
    first, second = halves()
    network = train(first)
    print(f"right on the other half: {accuracy(network, second.image_NHWC, second.label_N):.1%}")
    if folder is not None:
        save(network, folder)


if __name__ == "__main__":
    main()
