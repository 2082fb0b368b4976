"""The size and channels that train takes from the pictures, where nobody gives them."""

from __future__ import annotations

import dataclasses

from noiseweave.cluster import shards, storage
from noiseweave.engine.networks.recipes import BASELINES
from noiseweave.engine.networks.sizes import SIZES
from noiseweave.jobs.reading import looks
from noiseweave.jobs.reading.looks import Look
from noiseweave.jobs.reading.places import Place
from noiseweave.jobs.train.config import Config

PIXELS = 64  # largest side that is taken by itself: what a network of pixels learns in hours
LATENTS = 256  # and over a VAE


def settled(config: Config) -> tuple[Config, str | None]:
    """The config with its data's size and channels, said in a line where they come from the pictures.

    What was given is kept. Beside it a warning, where the pictures are much larger than given, or of other channels.

    Raises:
        ValueError: nothing is there, or no picture opens.
    """
    seen, data = look(config), config.data
    if not (data.size and data.channels):
        if seen is None:
            text = "none of the pictures looked at opens; give data.size and data.channels"
            raise ValueError(f"input {config.input!r}: {text}")
        size = data.size or fitting(config, min(seen.middle))
        channels = data.channels or (3 if config.model.vae else seen.channels)
        print(f"the pictures are {seen}: data.size={size}, data.channels={channels}", flush=True)
        config = dataclasses.replace(config, data=dataclasses.replace(data, size=size, channels=channels))
    if not (data.size or data.channels):
        return config, None
    return config, looks.warning(seen, "the model that is trained", config.data.size, config.data.channels)


def look(config: Config) -> Look | None:
    """What the input's pictures are: 32 of them, evenly spread, or the one."""
    if config.single:
        return looks.look_at_places([Place(path=storage.absolute(config.input))])
    return looks.look_at_shards(shards.find(config.input))


def fitting(config: Config, side: int) -> int:
    """The largest size up to ``side``, and to PIXELS or LATENTS, that the network takes; at least its smallest."""
    if config.model.kind in BASELINES:
        return max((s for s in SIZES if s <= min(side, PIXELS)), default=SIZES[0])
    multiple, most = config.halvings, PIXELS
    if config.model.vae is not None:
        from noiseweave.engine.networks import base_models, latents

        multiple, most = (
            multiple * latents.vae_scale_factor(base_models.encoder_config(config.model.vae)),
            LATENTS,
        )
    return max(min(side, most) // multiple, -(-4 // multiple)) * multiple
