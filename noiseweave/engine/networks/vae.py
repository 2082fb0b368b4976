"""A convolutional variational autoencoder (Kingma & Welling, arXiv 1312.6114; beta: Higgins et al., ICLR 2017).

B pictures x of C channels, H high, W wide, in [-1, 1]; z their codes of D numbers, N(0, 1) under the prior.
Group norm rather than batch norm: what becomes of a picture does not depend on the others of its batch, so that
one worker and many compute the same.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from noiseweave.engine.checks import check
from noiseweave.engine.networks.sizes import widths
from noiseweave.engine.networks.text_encoding import slerp

LIMIT = 10.0  # of |log sigma^2|: exp(10) still fits float16, and sigma = exp(-5) is as good as none
GROUPS = 8


class VAE(ModelMixin, ConfigMixin):
    """Strided convolutions down to 4x4, a Gaussian over codes, transposed convolutions back up.

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
        deep = wide[0]
        self.encoder = nn.Sequential(
            *(_halve(a, b) for a, b in pairwise([channels, *reversed(wide)])),
            nn.Flatten(),
            nn.Linear(deep * 16, 2 * latent),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent, deep * 16),
            nn.Unflatten(1, (deep, 4, 4)),
            *_activation(deep),
            *(_double(a, b) for a, b in pairwise(wide)),
            nn.ConvTranspose2d(wide[-1], channels, 4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, x_BCHW: Tensor, eps_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction [B, C, H, W] in [-1, 1], mu [B, D] and log sigma^2 [B, D]."""
        mu, logvar = self.encode(x_BCHW)
        return self.decode(reparameterise(mu, logvar, eps_BD)), mu, logvar

    def encode(self, x_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """mu [B, D] and log sigma^2 [B, D] of q(z | x), the latter within +-LIMIT."""
        mu, h = self.encoder(x_BCHW).chunk(2, 1)
        return mu, LIMIT * torch.tanh(h / LIMIT)

    def decode(self, z_BD: Tensor) -> Tensor:
        """The mean of p(x | z): [B, C, H, W] in [-1, 1]."""
        return self.decoder(z_BD)


def _halve(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(a, b, 4, stride=2, padding=1), *_activation(b))


def _double(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1), *_activation(b))


def _activation(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(math.gcd(channels, GROUPS), channels), nn.SiLU()


def reparameterise(mu_BD: Tensor, logvar_BD: Tensor, eps_BD: Tensor) -> Tensor:
    """``z = mu + sigma eps`` (section 2.4 of 1312.6114; eq. 10), differentiable in mu and sigma."""
    return mu_BD + (logvar_BD / 2).exp() * eps_BD


def elbo_terms(x_BCHW: Tensor, mean_BCHW: Tensor, mu_BD: Tensor, logvar_BD: Tensor) -> tuple[Tensor, Tensor]:
    """``||x - mean||^2`` summed over values, and ``KL(q(z | x) || N(0, 1))`` summed over the code: float32 [B].

    KL = 1/2 sum(mu^2 + sigma^2 - 1 - log sigma^2), appendix B of 1312.6114.
    """
    mu, logvar = mu_BD.float(), logvar_BD.float()
    error = (x_BCHW.float() - mean_BCHW.float()).square().flatten(1).sum(1)
    return error, (mu.square() + logvar.exp() - 1 - logvar).sum(1) / 2


def vae_loss(vae: nn.Module, x_BCHW: Tensor, eps_BD: Tensor, beta: float) -> Tensor:
    """``||x - mean||^2 + beta KL``, float32 [B], with one forward call of ``vae``.

    For p(x | z) = N(mean, s^2), the negative bound is ``||x - mean||^2 / (2 s^2) + KL`` and a constant: this is
    2 s^2 times it where beta = 2 s^2. So beta = 1 takes pictures as seen through noise of s = 0.71, and the
    sharper the pictures are to be, the smaller beta.

    Args:
        vae: a VAE, wrapped or not.
        eps_BD: N(0, 1).
    """
    mean, mu, logvar = vae(x_BCHW, eps_BD)
    error, kl = elbo_terms(x_BCHW, mean, mu, logvar)
    return error + beta * kl


def walk(a_D: Tensor, b_D: Tensor, frames: int) -> Tensor:
    """Codes from a to b, evenly along the arc between them: float32 [frames, D], a and b themselves at the ends.

    Codes of N(0, 1) lie near a sphere of radius sqrt(D); a straight line would cut through its empty inside.

    Raises:
        ValueError: fewer than 2 frames.
    """
    check(frames >= 2, "walk", frames, "2 frames or more")
    return torch.stack([slerp(a_D, b_D, i / (frames - 1)) for i in range(frames)])
