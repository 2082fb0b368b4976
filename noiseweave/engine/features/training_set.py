"""What pictures a model was trained on, as a file of its folder: so that pictures of other subjects are told apart.

The file holds the means of clusters of its training pictures, in EfficientNet-lite0's features, and how near pictures
that the means were not made of come to the nearest of them: 85 KB, and no picture can be made of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from noiseweave.engine.features import networks, spaces
from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.features.spaces import Extractor
from noiseweave.engine.networks.backbone import Backbone

FILE = "training_features.safetensors"
SPACE, SIDE, WIDTH = "efficientnet-lite0", 224, 1280
MOST = 1000  # training pictures that it is made of
LEAST = 50  # fewer say too little of a subject
CENTRES = 32
HELD_OUT = 5  # each so many-th picture is no part of the means
FAR = 0.05  # share of the held-out pictures that a far one is farther than


@dataclass(frozen=True, kw_only=True)
class Nearness:
    """How near some pictures are to those that a model was trained on; cosines to the nearest mean.

    Attributes:
        cosine: median of the pictures.
        of_held_out: median of training pictures that were held out.
        far_below: what 95 % of these are above.
        pictures: how many were looked at.
    """

    cosine: float
    of_held_out: float
    far_below: float
    pictures: int

    @property
    def far(self) -> bool:
        """Whether the middle picture is farther than nearly every one of the model's own kind."""
        return self.cosine < self.far_below


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """A model's training pictures.

    Attributes:
        centre_KD: float32, unit features: the clusters' means.
        held_N: float32, the cosine of each held-out picture to its nearest mean, lowest first.
        weights: SHA-256 of the weights of SPACE that the features are of.
    """

    centre_KD: np.ndarray
    held_N: np.ndarray
    weights: str

    def nearness(self, f_ND: np.ndarray) -> Nearness:
        """Of pictures, N >= 1, by their features, raw or unit."""
        return Nearness(
            cosine=round(float(np.median(_nearest(f_ND, self.centre_KD))), 3),
            of_held_out=round(float(np.median(self.held_N)), 3),
            far_below=round(float(np.quantile(self.held_N, FAR)), 3),
            pictures=len(f_ND),
        )

    def encoded(self) -> bytes:
        """The file's content, the means as float16."""
        from safetensors.numpy import save

        tensors: dict[str, np.ndarray] = {
            "centres": self.centre_KD.astype(np.float16),
            "held_out": self.held_N.astype(np.float32),
        }
        return save(tensors, {"features": f"{SPACE} {self.weights}"})  # one entry: several come in any order


def extractor(device: str) -> Extractor:
    """uint8 [N, SIDE, SIDE, 3] -> the features that are compared, raw.

    Raises:
        ValueError: the network's weights are not here.
    """
    return spaces.load_space(FeatureRecipe(name=SPACE), _no_model, device).extract


def _no_model() -> Backbone:
    raise AssertionError("features of no diffusion model")


def weights() -> str:
    """SHA-256 of the weights that ``extractor`` takes."""
    return networks.sha256(networks.weights_of(SPACE, None))


def learn(f_ND: np.ndarray, digest: str) -> TrainingSet:
    """The facts of training pictures, LEAST or more, in any order.

    Args:
        f_ND: their features, raw or unit.
        digest: SHA-256 of the weights of SPACE.
    """
    from sklearn.cluster import KMeans

    f_ND = _unit(f_ND)[np.random.default_rng(0).permutation(len(f_ND))]
    held = np.arange(len(f_ND)) % HELD_OUT == 0
    known_ND = f_ND[~held]
    means = KMeans(min(CENTRES, len(known_ND) // 4), n_init=3, random_state=0).fit(known_ND).cluster_centers_
    centre_KD = _unit(means.astype(np.float32)).astype(np.float16).astype(np.float32)
    return TrainingSet(centre_KD=centre_KD, held_N=np.sort(_nearest(f_ND[held], centre_KD)), weights=digest)


def _unit(f_ND: np.ndarray) -> np.ndarray:
    return f_ND / np.maximum(np.linalg.norm(f_ND, axis=1, keepdims=True), 1e-6)


def _nearest(f_ND: np.ndarray, centre_KD: np.ndarray) -> np.ndarray:
    return (_unit(f_ND) @ centre_KD.T).max(1)


def read(name: str, folder: Path) -> TrainingSet | None:
    """What a model's folder says of its training pictures; None where it says nothing.

    Raises:
        ValueError: the file is damaged, in one line that names the model.
    """
    from safetensors import safe_open

    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as f:
            about = f.metadata() or {}
            centre_KD, held_N = (f.get_tensor(key).astype(np.float32) for key in ("centres", "held_out"))
        space, digest = about["features"].split(" ")
        fits = centre_KD.ndim == 2 and centre_KD.shape[1] == WIDTH and held_N.ndim == 1
        if space != SPACE or not (fits and centre_KD.size and held_N.size):
            raise ValueError(f"no centres and held_out of {SPACE}")
        if not (np.isfinite(centre_KD).all() and np.isfinite(held_N).all()):
            raise ValueError("values that are not finite")
        return TrainingSet(centre_KD=centre_KD, held_N=held_N, weights=digest)
    except Exception as e:
        why = f"{type(e).__name__}: {' '.join(str(e).split())[:160]}"
        raise ValueError(
            f"model {name!r}: {path} is damaged ({why}); without the file nothing is compared"
        ) from None
