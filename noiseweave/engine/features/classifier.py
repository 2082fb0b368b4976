"""A small classifier of small square pictures, as a feature space: what it makes of a picture before the classes.

A folder holds ``classifier.json`` and ``model.safetensors``; ``digits-classifier`` ships with the package. The network
stands apart from that of judging/classifier.py, which a run trains for itself and throws away: this one's layers are
fixed by weights that ship, and it has a narrow last layer to compare pictures in, which that one lacks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from noiseweave import models

FILE, WEIGHTS = "classifier.json", "model.safetensors"


class FeatureClassifier(nn.Module):
    """Three convolutions to a quarter of the side, then ``width`` features after a ReLU, then the classes' logits.

    Attributes:
        channels, size: of the pictures.
        classes: how many.
        width: of the features.
    """

    def __init__(self, channels: int = 1, size: int = 16, classes: int = 10, width: int = 64) -> None:
        super().__init__()
        self.channels, self.size, self.classes, self.width = channels, size, classes, width
        self.features = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(32 * (size // 4) ** 2, width),
            nn.ReLU(),
        )
        self.last = nn.Linear(width, classes)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """float [N, channels, size, size] in -1..1 -> logits [N, classes]."""
        return self.last(self.features(x_NCHW))


def save(network: FeatureClassifier, folder: Path) -> None:
    """Write the network's shape (FILE) and its weights into a folder."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    about = {name: getattr(network, name) for name in ("channels", "size", "classes", "width")}
    (folder / FILE).write_text(json.dumps(about, indent=1) + "\n")
    save_file(network.state_dict(), folder / WEIGHTS)


def find(name: str) -> Path | None:
    """The folder of a classifier, shipped or a user's own; None where the name means something else."""
    folder = models.SHIPPED / name if "/" not in name else Path(name)
    folder = folder if (folder / FILE).is_file() else Path(name).expanduser()
    return folder if (folder / FILE).is_file() else None


def about(folder: Path) -> dict[str, int]:
    """What the folder says of the classifier: channels, size, classes, width.

    Raises:
        ValueError: it is damaged.
    """
    try:
        value: Any = json.loads((folder / FILE).read_text())
        found = {name: int(value[name]) for name in ("channels", "size", "classes", "width")}
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as e:
        raise ValueError(f"classifier {str(folder)!r}: {FILE} is damaged ({type(e).__name__}: {e})") from None
    if found["channels"] not in (1, 3) or min(found.values()) < 1 or found["size"] % 4:
        raise ValueError(f"classifier {str(folder)!r}: {found}: channels 1 or 3, size a multiple of 4")
    return found


def load(folder: Path) -> FeatureClassifier:
    """The classifier, ready to run.

    Raises:
        ValueError: it is damaged.
    """
    from safetensors.torch import load_file

    network = FeatureClassifier(**about(folder))
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except Exception as e:
        why = " ".join(str(e).split())[:200]
        raise ValueError(f"classifier {str(folder)!r}: {WEIGHTS} does not fit ({why})") from None
    return network.eval().requires_grad_(False)
