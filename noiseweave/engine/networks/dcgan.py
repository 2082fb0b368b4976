"""DCGAN (Radford et al., arXiv 1511.06434): a generator and a discriminator of strided convolutions.

B pictures x of C channels, H high, W wide, in [-1, 1]; z codes of D numbers, N(0, 1). D(x) is the probability
that x is real, sigmoid of the discriminator's logit.

Batch norm ties a picture's loss to its batch, so N workers differ from one with N times the batch. Its running
statistics move in a network's own turn only: the discriminator's in ``discriminator_loss``, from the real batch
and then the drawn one, apart as in the paper; the generator's in ``generator_loss``. Training reads neither, so
that workers need not send them around; after ``eval()`` a drawn picture depends on its code alone by the
generator's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from noiseweave.engine.networks.sizes import widths

SPREAD = 0.02  # of the first weights
SLOPE = 0.2  # of LeakyReLU


class Generator(ModelMixin, ConfigMixin):
    """Transposed convolutions with batch norm and ReLU; tanh at the end.

    Args:
        size: side of the pictures, a power of two from 16 to 128.
        channels: 1 or 3.
        width: channels at half the full resolution, doubled at each halving.
        latent: D.

    Raises:
        ValueError: another size or number of channels.
    """

    @register_to_config
    def __init__(self, size: int = 16, channels: int = 1, width: int = 32, latent: int = 32) -> None:
        super().__init__()
        wide = widths(size, channels, width)
        self.layers = nn.Sequential(
            nn.Unflatten(1, (latent, 1, 1)),
            *_grow(latent, wide[0], stride=1, padding=0),
            *(layer for a, b in pairwise(wide) for layer in _grow(a, b, stride=2, padding=1)),
            nn.ConvTranspose2d(wide[-1], channels, 4, stride=2, padding=1, bias=False),
            nn.Tanh(),
        )
        self.apply(initialise)

    def forward(self, z_BD: Tensor) -> Tensor:
        """[B, C, H, W] in [-1, 1]."""
        return self.layers(z_BD)


class Discriminator(ModelMixin, ConfigMixin):
    """Strided convolutions with LeakyReLU, and batch norm on all but the first and the last.

    Args:
        size, channels, width: as the Generator's.

    Raises:
        ValueError: another size or number of channels.
    """

    @register_to_config
    def __init__(self, size: int = 16, channels: int = 1, width: int = 32) -> None:
        super().__init__()
        wide = widths(size, channels, width)[::-1]
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1, bias=False),
            nn.LeakyReLU(SLOPE),
            *(layer for a, b in pairwise(wide) for layer in _shrink(a, b)),
            nn.Conv2d(wide[-1], 1, 4, bias=False),
            nn.Flatten(0),
        )
        self.apply(initialise)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits [B]: positive where x looks real."""
        return self.layers(x_BCHW)


def _grow(a: int, b: int, stride: int, padding: int) -> tuple[nn.Module, ...]:
    return nn.ConvTranspose2d(a, b, 4, stride, padding, bias=False), nn.BatchNorm2d(b), nn.ReLU()


def _shrink(a: int, b: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(a, b, 4, 2, 1, bias=False), nn.BatchNorm2d(b), nn.LeakyReLU(SLOPE)


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """The paper's first weights: N(0, 0.02) for convolutions, N(1, 0.02) for batch norm's gains, biases 0."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        module.weight.normal_(0, SPREAD)
    elif isinstance(module, nn.BatchNorm2d):
        module.weight.normal_(1, SPREAD)
        module.bias.zero_()


def discriminator_loss(
    discriminator: nn.Module, generator: nn.Module, x_BCHW: Tensor, z_BD: Tensor, smoothing: float
) -> Tensor:
    """``-[(1 - s) log D(x) + s log(1 - D(x))] - log(1 - D(G(z)))``, float32 [B]; moves the discriminator alone.

    s is ``smoothing``, of the real side only (Salimans et al., arXiv 1606.03498, section 3.4).

    Args:
        discriminator: wrapped or not; called twice.
        generator: not wrapped; left as it is, in weights, gradients and statistics.
    """
    with torch.no_grad(), borrowed(generator):
        drawn = generator(z_BD)
    real = _cross_entropy(discriminator(x_BCHW), 1 - smoothing)
    return real + _cross_entropy(discriminator(drawn), 0)


def generator_loss(discriminator: nn.Module, generator: nn.Module, z_BD: Tensor) -> Tensor:
    """``-log D(G(z))``, float32 [B]; moves the generator alone.

    The non-saturating form of Goodfellow et al. (arXiv 1406.2661, section 3).

    Args:
        discriminator: not wrapped; left as it is, in weights, gradients and statistics.
        generator: wrapped or not; called once.
    """
    drawn = generator(z_BD)
    with borrowed(discriminator):
        return _cross_entropy(discriminator(drawn), 1)


def _cross_entropy(logit_B: Tensor, label: float) -> Tensor:
    logit = logit_B.float()
    return binary_cross_entropy_with_logits(logit, torch.full_like(logit, label), reduction="none")


@torch.no_grad()
def scores(
    discriminator: nn.Module, generator: nn.Module, x_BCHW: Tensor, z_BD: Tensor
) -> tuple[Tensor, Tensor]:
    """D(x) and D(G(z)), float32 [B] in [0, 1]: 1/2 each where the discriminator is undecided.

    Networks in training mode judge by the batch's own statistics, as they do in training. Changes neither.
    """
    with borrowed(discriminator), borrowed(generator):
        drawn = generator(z_BD)
        return discriminator(x_BCHW).float().sigmoid(), discriminator(drawn).float().sigmoid()


@contextmanager
def borrowed(network: nn.Module) -> Iterator[None]:
    """Calls of ``network`` in here give gradients to its input, but none to its weights, and keep its statistics.

    What is called in here is remembered so: ``backward`` may come later.
    """
    weights = [w for w in network.parameters() if w.requires_grad]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    try:
        for w in weights:
            w.requires_grad_(False)
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for w in weights:
            w.requires_grad_(True)
        for norm in norms:
            norm.track_running_stats = True
