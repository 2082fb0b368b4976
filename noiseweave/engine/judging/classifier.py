"""A small convolutional classifier of square pictures, and how it is trained on few of them.

It is what ``evaluate usefulness`` trains again and again, and what the gate asks whether a picture is still of its
parents' class. features/classifier.py has another, trained beforehand and kept, whose layers its weights fix.
N pictures, K classes, B of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noiseweave.engine import spans
from noiseweave.engine.judging.recipes import ClassifierRecipe
from noiseweave.engine.networks.latents import to_pixels
from noiseweave.engine.seeding import seed_of

DEGREES, SHIFT, SCALE = 15.0, 0.1, 0.15  # of an affine augmentation, each way
MIXUP, CUTMIX = 0.4, 1.0  # alpha of the Beta distribution (Zhang et al. have 0.2 to 0.4; Yun et al. 1)
ROWS = 128  # pictures looked at in one call


class Classifier(nn.Module):
    """Convolutions that halve a square picture until it is 4 pixels wide, then one linear layer.

    Args:
        side: 8, 16, 32 ... pixels.
    """

    def __init__(self, *, side: int, channels: int, classes: int, width: int, dropout: float) -> None:
        super().__init__()
        self.shape = {
            "side": side,
            "channels": channels,
            "classes": classes,
            "width": width,
            "dropout": dropout,
        }
        halvings = max(1, round(math.log2(side / 4)))
        wide = [min(width << level, 4 * width) for level in range(halvings + 1)]
        layers: list[nn.Module] = []
        for before, after in zip([channels, *wide], wide, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if len(layers) < 4 * halvings else []
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(dropout))
        self.last = nn.Linear(wide[-1] * 16, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """float [B, C, H, W] -> logits, float [B, classes]."""
        return self.last(self.features(x_BCHW))


N = TypeVar("N", bound=nn.Module)


def soft_labels(labels: np.ndarray, classes: int) -> Tensor:
    """int64 [N] -> float32 [N, K]."""
    return F.one_hot(torch.from_numpy(np.asarray(labels, np.int64)), classes).float()


def train(
    image_NHWC: np.ndarray,
    p_NK: Tensor,
    recipe: ClassifierRecipe,
    seed: int,
    made: tuple[np.ndarray, Tensor] | None = None,
    device: str = "cpu",
) -> Classifier:
    """A trained classifier, the same for the same seed on one kind of device; torch's own random state stays.

    Args:
        image_NHWC: uint8 [N, side, side, C], real pictures.
        p_NK: float32 [N, K], their labels, each row with sum 1.
        made: more pictures and labels; each batch then has ``recipe.share`` of them.
    """
    side, channels = image_NHWC.shape[2:]

    def build() -> Classifier:
        return Classifier(
            side=side, channels=channels, classes=p_NK.shape[1], width=recipe.width, dropout=recipe.dropout
        )

    return taught(build, image_NHWC, p_NK, recipe, seed, made, device)


def taught(
    build: Callable[[], N],
    image_NHWC: np.ndarray,
    p_NK: Tensor,
    recipe: ClassifierRecipe,
    seed: int,
    made: tuple[np.ndarray, Tensor] | None = None,
    device: str = "cpu",
) -> N:
    """As ``train``, any network of pictures in [-1, 1] to logits.

    Args:
        build: gives it with its first weights, by torch's own random state; those that need no gradient stay.
    """
    parts = [(image_NHWC, p_NK)] if made is None else [(image_NHWC, p_NK), made]
    few = recipe.batch if made is None else recipe.batch - round(recipe.batch * recipe.share)
    counts = [few] if made is None else [few, recipe.batch - few]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "classifier"))
        network = build().to(device)
        weights = [w for w in network.parameters() if w.requires_grad]
        optimizer = torch.optim.AdamW(weights, weight_decay=recipe.weight_decay)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=recipe.steps)
        loaded = [(to_pixels(x, torch.device(device)), p.to(device)) for x, p in parts]
        for x_BCHW, p_BK in batches(loaded, counts, recipe):
            loss = F.cross_entropy(network(x_BCHW), p_BK)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    return network.eval().requires_grad_(False)


def batches(
    parts: list[tuple[Tensor, Tensor]], counts: list[int], recipe: ClassifierRecipe
) -> Iterator[tuple[Tensor, Tensor]]:
    """``recipe.steps`` batches: so many pictures of each part, drawn with replacement, augmented."""
    for _ in spans.steps(range(recipe.steps)):
        rows = [torch.randint(len(x), (n,)) for (x, _), n in zip(parts, counts, strict=True)]
        x_BCHW = torch.cat([x[r] for (x, _), r in zip(parts, rows, strict=True)])
        p_BK = torch.cat([p[r] for (_, p), r in zip(parts, rows, strict=True)])
        yield augmented(x_BCHW, p_BK, recipe)


def augmented(x_BCHW: Tensor, p_BK: Tensor, recipe: ClassifierRecipe) -> tuple[Tensor, Tensor]:
    """A batch through the classical augmentations, those of single pictures first."""
    for name, change in (
        ("flip", flip),
        ("crop", random_crop),
        ("affine", affine),
        ("randaugment", randaugment),
    ):
        if name in recipe.classical:
            x_BCHW = change(x_BCHW)
    if not {"mixup", "cutmix"} & set(recipe.classical):
        return x_BCHW, p_BK
    from torchvision.transforms import v2

    mix = (
        v2.MixUp(num_classes=p_BK.shape[1], alpha=MIXUP)
        if "mixup" in recipe.classical
        else v2.CutMix(num_classes=p_BK.shape[1], alpha=CUTMIX)
    )
    return mix(x_BCHW, p_BK)


def flip(x_BCHW: Tensor) -> Tensor:
    """Half of the pictures mirrored left to right."""
    chosen_B = torch.rand(len(x_BCHW)) < 0.5
    return torch.where(chosen_B.view(-1, 1, 1, 1).to(x_BCHW.device), x_BCHW.flip(-1), x_BCHW)


def random_crop(x_BCHW: Tensor) -> Tensor:
    """A crop of each picture with an eighth of its side reflected around it."""
    side, edge = x_BCHW.shape[-1], x_BCHW.shape[-1] // 8
    wide_BCHW = F.pad(x_BCHW, [edge] * 4, mode="reflect")
    corners = torch.randint(2 * edge + 1, (len(x_BCHW), 2)).tolist()
    crops = [
        x[:, top : top + side, left : left + side] for x, (top, left) in zip(wide_BCHW, corners, strict=True)
    ]
    return torch.stack(crops)


def affine(x_BCHW: Tensor) -> Tensor:
    """Each picture turned, moved and scaled on its own; what comes from outside is black (-1)."""
    angle, scale, right, down = torch.rand(4, len(x_BCHW)) * 2 - 1
    angle, scale = angle * math.radians(DEGREES), 1 + scale * SCALE
    c, s = angle.cos() / scale, angle.sin() / scale
    first, second = torch.stack([c, -s, 2 * SHIFT * right], 1), torch.stack([s, c, 2 * SHIFT * down], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(x_BCHW.shape), align_corners=False)
    return F.grid_sample(x_BCHW + 1, grid.to(x_BCHW.device), align_corners=False) - 1


def randaugment(x_BCHW: Tensor) -> Tensor:
    """torchvision's RandAugment with its defaults, each picture on its own."""
    from torchvision.transforms import v2

    change = v2.RandAugment()
    u_BCHW = ((x_BCHW + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return torch.stack([change(u) for u in u_BCHW]).float() / 127.5 - 1


@torch.inference_mode()
def probabilities(network: nn.Module, image_NHWC: np.ndarray) -> np.ndarray:
    """uint8 [N, side, side, C] -> float32 [N, K]."""
    device = next(network.parameters()).device
    parts = [
        network(to_pixels(image_NHWC[i : i + ROWS], device)).softmax(1).cpu()
        for i in range(0, len(image_NHWC), ROWS)
    ]
    return torch.cat(parts).numpy()


def accuracy(network: nn.Module, image_NHWC: np.ndarray, label_N: np.ndarray) -> float:
    """Share of the pictures that the classifier takes for their label."""
    return float((probabilities(network, image_NHWC).argmax(1) == label_N).mean())
