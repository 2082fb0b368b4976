"""A worker's batches for lora: latents from the cache or from the encoders, and what chance adds to them.

V views of a picture: crop 0, crop 0 mirrored, crop 1, ... without the mirrored ones where nothing is flipped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseweave.cluster import shards
from noiseweave.cluster.arrays import array
from noiseweave.engine.lora.loss import LoraBatch
from noiseweave.engine.lora.order import Order
from noiseweave.engine.networks import latents
from noiseweave.engine.networks.micro_batch import MicroBatch
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.pictures import crops, images, masks
from noiseweave.engine.seeding import generator
from noiseweave.engine.training.objectives import draw_chance
from noiseweave.jobs.lora.config import Config
from noiseweave.jobs.lora.input import Item, Source, content_of
from noiseweave.jobs.reading.places import Place
from noiseweave.jobs.reading.shard_pictures import InputChanged

REMEMBERED = 128  # captions whose embeddings a worker keeps: of T5 8 MiB each


def views(config: Config) -> int:
    """The views of a picture that a run can draw."""
    return config.data.crops * (1 + config.data.flip)


def pixels(config: Config, item: Item, which: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
    """Views of a picture and of its hole: uint8 [v, h, w, 3], and bool [v, h, w] where it has a mask.

    Raises:
        ValueError: ``"reason: detail"``, of what reads pictures and masks.
        InputChanged: they are not what they were when the run began.
    """
    data, mask = item.picture.read(), b"" if item.mask is None else item.mask.read()
    if content_of(data, mask) != item.content:
        raise InputChanged(f"input changed during the run: {item.key}")
    image = images.decode(data, 3, config.data.max_pixels)
    hole = None
    if item.mask is not None:
        hole = masks.hole_of(mask, item.mode, image.shape[:2], config.data.max_pixels)
    shown, holes = [], []
    for view in which:
        number, mirrored = divmod(view, 1 + config.data.flip)
        where = crops.choose_crop(
            image.shape[:2], item.bucket, config.seed, item.key, number, config.data.zoom
        )
        step = -1 if mirrored else 1
        shown.append(crops.cut(image, where, item.bucket)[:, ::step])
        if hole is not None:
            holes.append(crops.cut_hole(hole, where, item.bucket)[:, ::step])
    return np.stack(shown), None if hole is None else np.stack(holes)


def unpacked(data: np.ndarray, width: int) -> np.ndarray:
    """uint8 [..., ceil(W / 8)] of np.packbits -> bool [..., W]."""
    return np.unpackbits(data, axis=-1, count=width).astype(bool)


class Encoders:
    """The frozen parts of a pipeline: pictures -> latents, words -> embeddings, in float32.

    Args:
        pipeline: diffusers'.
        micro_batch: pictures in one call of the VAE; 0 takes 16 on a GPU and 4 elsewhere.
    """

    def __init__(self, pipeline: Any, micro_batch: int = 0) -> None:
        self.pipeline = pipeline
        on_gpu = pipeline.device.type == "cuda"
        self.micro_batch = MicroBatch(self._latents, micro_batch or (16 if on_gpu else 4), pipeline.device)
        self.said = functools.lru_cache(maxsize=REMEMBERED)(self._said)

    def _latents(self, x_BCHW: Tensor) -> Tensor:
        return latents.encode(self.pipeline.vae, x_BCHW.to(self.pipeline.vae.device))

    def latents(self, image_BHWC: np.ndarray) -> Tensor:
        """uint8 [B, H, W, 3] -> float32 [B, C, h, w]."""
        return self.micro_batch(latents.to_pixels(image_BHWC))

    def around(self, image_BHWC: np.ndarray, hole_BHW: np.ndarray) -> Tensor:
        """As ``latents``, of the pictures with their holes in mid-grey."""
        hole = torch.from_numpy(np.array(hole_BHW))[:, None]
        return self.micro_batch(latents.to_pixels(image_BHWC) * ~hole)

    @torch.no_grad()
    def _said(self, words: str) -> dict[str, Tensor]:
        from noiseweave.engine.networks import text_encoding

        found = text_encoding.embeddings(self.pipeline, [Prompt(text=words, key="")], guided=False)
        return {name: x[0].float().cpu() for name, x in found.items()}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture as one step shows it.

    Attributes:
        z_CHW, around_CHW: latents from the cache, or None where they are to be encoded.
        image_HWC, hole_HW: what is encoded, and the hole; None where there is no need.
        eps, offset, time: what chance adds.
        words: what it is called, "" where that is hidden.
    """

    item: Item
    z_CHW: Tensor | None
    around_CHW: Tensor | None
    image_HWC: np.ndarray | None
    hole_HW: np.ndarray | None
    eps: Tensor
    offset: Tensor
    time: float
    words: str


class Reader:
    """Samples and batches of one worker.

    Args:
        encoders: whose pipeline has the VAE and the text encoders where the cache has no latents or words.
        ids: whether the text encoders are trained, so that batches hold token ids.
    """

    def __init__(self, config: Config, source: Source, encoders: Encoders) -> None:
        self.config, self.source, self.encoders = config, source, encoders
        self.spoken = functools.lru_cache(maxsize=REMEMBERED)(self._spoken)

    def sample(self, item: Item, step: int, place: int) -> Sample:
        """The sample at ``place`` of a step; -1 and 0 for one that is held out, which chance does not touch."""
        config, (h, w) = self.config, item.bucket
        factor = self.source.model.vae_scale_factor
        shape = (self.source.model.channels, h // factor, w // factor)
        d = draw_chance(config.seed, step, place, shape)
        more = generator(config.seed, "lora", step, place)
        offset = torch.randn(shape[0], 1, 1, generator=more)
        number = int(torch.randint(config.data.crops, (1,), generator=more))
        view = (number * (1 + config.data.flip) + (config.data.flip and d.flip)) if step >= 0 else 0
        hidden = step >= 0 and d.hide < config.data.caption_dropout
        z, around, image, hole = self._read(item, view, step)
        return Sample(
            item=item,
            z_CHW=z,
            around_CHW=around,
            image_HWC=image,
            hole_HW=hole,
            eps=d.eps,
            offset=offset,
            time=d.time,
            words="" if hidden else item.words,
        )

    def _read(self, item: Item, view: int, step: int) -> tuple[Any, Any, Any, Any]:
        """Latents, latents around the hole, picture, hole: as far as they are needed and known."""
        model, cached = self.source.model, self.source.encoded.get(item.key)
        random = model.sees_holes and item.mask is None
        z = around = image = hole = None
        if cached is not None:
            z = torch.from_numpy(array(cached["z"].read())[view].astype(np.float32))
            if "hole" in cached and not random:
                around = torch.from_numpy(array(cached["around"].read())[view].astype(np.float32))
                hole = unpacked(array(cached["hole"].read())[view], item.bucket[1])
        if z is None or random:
            shown, holes = pixels(self.config, item, [view])
            image, hole = shown[0], None if holes is None else holes[0]
        if random:
            hole = masks.random_hole(self.config.seed, item.key, step, *item.bucket)
        return z, around, image, hole

    def batch(self, samples: Sequence[Sample], prior: bool = False) -> LoraBatch:
        """Samples of one size -> what the loss takes; the encoders run here."""
        z = self._joined([s.z_CHW for s in samples], lambda: self.encoders.latents(_stack(samples)))
        hole = around = None
        if self.source.model.sees_holes:
            hole_BHW = np.stack([s.hole_HW for s in samples if s.hole_HW is not None])
            hole = torch.from_numpy(hole_BHW.astype(np.float32))[:, None]
            around = self._joined(
                [s.around_CHW for s in samples], lambda: self.encoders.around(_stack(samples), hole_BHW)
            )
        return LoraBatch(
            z_BCHW=z,
            hole_B1HW=hole,
            around_BCHW=around,
            words=self._words([s.words for s in samples]),
            eps_BCHW=torch.stack([s.eps for s in samples]),
            offset_BC11=torch.stack([s.offset for s in samples]),
            time_B=torch.tensor([s.time for s in samples], dtype=torch.float32),
            prior_B=torch.full((len(samples),), prior),
            size=samples[0].item.bucket,
        )

    def _joined(self, cached: Sequence[Tensor | None], encode: Callable[[], Tensor]) -> Tensor:
        """From the cache where all are there, else encoded."""
        known = [x for x in cached if x is not None]
        return torch.stack(known) if len(known) == len(cached) else encode()

    def _words(self, words: Sequence[str]) -> Mapping[str, Tensor]:
        if self.config.lora.text_encoder:
            return token_ids(self.encoders.pipeline, words)
        each = [self.spoken(text) for text in words]
        return {name: torch.stack([e[name] for e in each]) for name in each[0]}

    def _spoken(self, words: str) -> Mapping[str, Tensor]:
        cached = self.source.spoken.get(words)
        if cached is None:
            return self.encoders.said(words)
        return {n: torch.from_numpy(array(p.read()).astype(np.float32)) for n, p in cached.items()}

    def held_out(self, most: int) -> list[tuple[LoraBatch, list[Item]]]:
        """The first held-out pictures, in batches of one size, without chance."""
        by_size: dict[crops.Size, list[Item]] = {}
        for item in self.source.held[:most]:
            by_size.setdefault(item.bucket, []).append(item)
        out = []
        for items in by_size.values():
            for i in range(0, len(items), 4):
                some = items[i : i + 4]
                out.append((self.batch([self.sample(item, -1, 0) for item in some]), some))
        return out


def _stack(samples: Sequence[Sample]) -> np.ndarray:
    return np.stack([s.image_HWC for s in samples if s.image_HWC is not None])


def token_ids(pipeline: Any, words: Sequence[str]) -> dict[str, Tensor]:
    """int64 [B, L] for each of the pipeline's text encoders: input_ids, and of SDXL input_ids_2."""
    out = {}
    for name, part in (("input_ids", "tokenizer"), ("input_ids_2", "tokenizer_2")):
        tokenizer = getattr(pipeline, part, None)
        if tokenizer is not None:
            out[name] = tokenizer(
                list(words),
                padding="max_length",
                max_length=tokenizer.model_max_length,
                truncation=True,
                return_tensors="pt",
            ).input_ids
    return out


def batches(
    reader: Reader, rank: int, world: int, first: int, threads: int
) -> Generator[list[LoraBatch], None, None]:
    """A worker's parts of the steps from ``first`` on; the next step is read while this one trains.

    A step's batch is a list of places; worker r of n has the r-th run of them, in parts of ``batch`` places.
    Pictures of the class come in parts of their own, at places behind those of the subject.
    """
    config, source = reader.config, reader.source
    mine = config.batch * config.accumulate
    total = mine * world
    order = Order([i.bucket for i in source.items], total, config.steps, config.seed)
    prior = None
    if source.prior:
        prior = Order([i.bucket for i in source.prior], total, config.steps, config.seed)

    def load(step: int) -> list[tuple[bool, list[Sample]]]:
        jobs: list[tuple[bool, list[tuple[Item, int]]]] = []
        for which, items, begin in ((order, source.items, 0), (prior, source.prior, total)):
            if which is None:
                continue
            chosen = which.of(step)
            for start in range(rank * mine, (rank + 1) * mine, config.batch):
                places = range(start, start + config.batch)
                jobs.append((which is prior, [(items[chosen[p]], begin + p) for p in places]))
        return [
            (is_prior, list(decoding.map(lambda one: reader.sample(one[0], step, one[1]), part)))
            for is_prior, part in jobs
        ]

    with ThreadPoolExecutor(max(1, threads)) as decoding, ThreadPoolExecutor(1) as ahead:
        ready = ahead.submit(load, first) if first < config.steps else None
        for step in range(first, config.steps):
            assert ready is not None
            parts = ready.result()
            if step + 1 < config.steps:
                ready = ahead.submit(load, step + 1)
            yield [reader.batch(samples, is_prior) for is_prior, samples in parts]


def place_of(url: str, member: shards.Member) -> Place:
    """The place of a sample in the global batch."""
    return Place(path=url, offset=member.offset, size=member.size)
