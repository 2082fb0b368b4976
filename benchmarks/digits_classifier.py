"""A small classifier of 16x16 grey digits, and the Frechet distance in its features.

Used by base_models.py. A distance holds only among pictures that one classifier, of one seed, has looked at: it is
no FID, which is in the features of an Inception network.

N pictures, D features. Pictures are uint8 [N, 16, 16, 1], as ``noiseweave pack --dataset digits --size 16`` makes
them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from noiseweave.engine.seeding import seed_of

SIZE, CLASSES, D = 16, 10, 64


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


class Classifier(nn.Module):
    """Three convolutions to 4x4, then D features after a ReLU, then the classes' logits."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Dropout(0.3), nn.Linear(32 * 4 * 4, D), nn.ReLU(),
        )  # fmt: skip
        self.last = nn.Linear(D, CLASSES)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.last(self.features(x_NCHW))


def network_input(image_NHWC: np.ndarray) -> Tensor:
    """uint8 [N, 16, 16, 1] -> float32 [N, 1, 16, 16] in [-1, 1]."""
    return torch.from_numpy(np.array(image_NHWC)).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(digits: Digits, seed: int = 0, epochs: int = 30, batch: int = 64) -> Classifier:
    """A trained Classifier, the same for the same seed; torch's own random state is left as it was."""
    x, y = network_input(digits.image_NHWC), torch.from_numpy(digits.label_N)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier()
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
def features(network: Classifier, image_NHWC: np.ndarray) -> np.ndarray:
    """float64 [N, D]."""
    return network.features(network_input(image_NHWC)).double().numpy()


@torch.inference_mode()
def accuracy(network: Classifier, image_NHWC: np.ndarray, label_N: np.ndarray) -> float:
    """Share of pictures that the classifier takes for their label."""
    return float((network(network_input(image_NHWC)).argmax(1).numpy() == label_N).mean())


def frechet(a_ND: np.ndarray, b_ND: np.ndarray) -> float:
    """Squared Frechet distance of the Gaussians fitted to two sets of features (Dowson & Landau 1982).

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), in float64. The last trace is the nuclear norm of
    A^T B where C_a = A A^T and C_b = B B^T, which needs no root of a matrix that is not symmetric, and holds for
    singular covariances. A covariance of N pictures is an estimate: compare distances of equal N only.
    """
    (m_a, A), (m_b, B) = (_fitted(f) for f in (a_ND, b_ND))
    nuclear = np.linalg.svd(A.T @ B, compute_uv=False).sum()
    return float(np.square(m_a - m_b).sum() + np.square(A).sum() + np.square(B).sum() - 2 * nuclear)


def _fitted(f_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean, and a factor A of the unbiased covariance A A^T: float64 [D] and [D, min(N, D)]."""
    f = np.asarray(f_ND, np.float64)
    centred = f - f.mean(0)
    _, s, vt = np.linalg.svd(centred / np.sqrt(len(f) - 1), full_matrices=False)
    return f.mean(0), vt.T * s
