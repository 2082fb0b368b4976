"""Small generators to compare diffusion with: a convolutional VAE, a DCGAN."""

from __future__ import annotations

from noiseweave.engine.checks import check

SIZES = (16, 32, 64, 128)


def widths(size: int, channels: int, width: int) -> list[int]:
    """Channels at 4x4, 8x8, ... up to half the full resolution, which has ``width``; each half of the one before.

    Raises:
        ValueError: a size or a number of channels that these networks are not made for.
    """
    check(size in SIZES, "data.size", size, "a power of two, 16 to 128, for a vae or dcgan")
    check(channels in (1, 3), "data.channels", channels, "1 or 3 for a vae or dcgan")
    halvings = size.bit_length() - 3  # from size down to 4
    return [width << i for i in reversed(range(halvings))]
