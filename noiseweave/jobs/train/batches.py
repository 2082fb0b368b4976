"""A worker's batches: pictures or latents from its streams, and what chance adds to them.

A step's batch is a list of places 0..batch-1; stream l of L fills places l batch/L .. (l + 1) batch/L - 1, and
worker r of n holds the r-th of n runs of streams: its places are neighbours, whatever n is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from noiseweave.cluster import streams
from noiseweave.cluster.arrays import array
from noiseweave.engine.pictures import images
from noiseweave.engine.training.objectives import draw_chance
from noiseweave.engine.training.systems import Batch
from noiseweave.jobs.train.config import Config
from noiseweave.jobs.train.input import LATENT
from noiseweave.jobs.train.task import Source

Sample = tuple[np.ndarray, int]
"""uint8 [H, W, C] or float16 [views, C, H, W] latents, and a label, -1 for none."""
Failed = Callable[[streams.Raw, ValueError], None]


class Unreadable(Exception):
    """The data cannot be read on: nothing can be decoded, or a shard is gone or has changed."""


def decoder(config: Config, source: Source) -> Callable[[streams.Raw], np.ndarray]:
    """A sample -> its picture or latents; ValueError("reason: detail") where there is none."""
    if source.payload == LATENT:
        return latent
    return lambda raw: images.fit(images.decode(raw.data, config.data.channels), config.data.size)


def latent(raw: streams.Raw) -> np.ndarray:
    """float16 [views, C, H, W] of a sample of a latents' shard."""
    try:
        return array(raw.data)
    except (ValueError, EOFError, OSError) as e:
        raise ValueError(f"bad_latent: {e}") from None


def samples(
    config: Config, source: Source, number: int, first: int, bad: Failed, pool: ThreadPoolExecutor
) -> Iterator[Sample]:
    """The endless samples of stream ``number``, from its sample ``first`` on."""
    raw = streams.stream(
        source.shards,
        seed=config.seed,
        streams=config.streams,
        number=number,
        buffer=config.data.buffer,
        first=first,
    )
    patience = streams.epoch_length(source.count, config.streams, number)
    for item, value in streams.standing_in(raw, decoder(config, source), bad, patience=patience, pool=pool):
        yield value, -1 if item.label is None else item.label


def streams_of(config: Config, rank: int, world: int) -> range:
    """The streams of one of ``world`` workers."""
    count = config.streams // world
    return range(rank * count, (rank + 1) * count)


def batches(
    config: Config, source: Source, mine: range, first: int, shape: Sequence[int], bad: Failed, threads: int
) -> Generator[list[Batch], None, None]:
    """A worker's parts of the steps from ``first`` on; the next step is read while this one trains.

    Args:
        mine: the worker's streams, see ``streams_of``.
        shape: of one sample's noise.
        bad: called with each sample that cannot be decoded.

    Raises:
        Unreadable: one line.
    """
    each = config.batch // config.streams
    with ThreadPoolExecutor(max(1, threads)) as decoding, ThreadPoolExecutor(1) as ahead:
        sources = [samples(config, source, n, first * each, bad, decoding) for n in mine]

        def load(step: int) -> list[Batch]:
            found = [s for stream in sources for s in itertools.islice(stream, each)]
            places = range(mine.start * each, mine.stop * each)
            parts = np.array_split(np.arange(len(places)), config.accumulate)
            return [
                batch_of(config, step, [places[i] for i in part], [found[i] for i in part], shape)
                for part in parts
            ]

        ready = ahead.submit(load, first)
        for step in range(first, config.steps):
            try:
                parts = ready.result()
            except ValueError as e:
                raise Unreadable(str(e)) from None
            if step + 1 < config.steps:
                ready = ahead.submit(load, step + 1)
            yield parts


def batch_of(
    config: Config, step: int, places: Sequence[int], found: Sequence[Sample], shape: Sequence[int]
) -> Batch:
    """Samples of some places of a step, with their chance."""
    draws = [draw_chance(config.seed, step, place, shape) for place in places]
    x0 = [tensor_of(value, config.data.flip and d.flip) for (value, _), d in zip(found, draws, strict=True)]
    return Batch(
        x0=torch.from_numpy(np.stack(x0)),
        label=torch.tensor([label for _, label in found]),
        eps=torch.stack([d.eps for d in draws]),
        time=torch.tensor([d.time for d in draws], dtype=torch.float32),
        hide=torch.tensor([d.hide for d in draws], dtype=torch.float32),
    )


def tensor_of(value: np.ndarray, flip: bool) -> np.ndarray:
    """float32 [C, H, W]: a picture in [-1, 1], mirrored or not, or one of its two views' latents."""
    if value.dtype != np.uint8:
        return value[-1 if flip else 0].astype(np.float32)
    picture = value[:, ::-1] if flip else value
    return picture.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
