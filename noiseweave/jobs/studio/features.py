"""The input's pictures as ``noiseweave augment`` pairs them: features, labels and hashes, in its order; read once.

Features are kept below the output by the pictures' contents (``reading.feature_cache``), a file for each shard that
augment would read or pack, so that neither a second start nor the batch computes them again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from noiseweave.cluster import labels, shards, storage
from noiseweave.engine.features.recipes import AUTO, FeatureRecipe
from noiseweave.engine.pictures import images
from noiseweave.jobs.augment import packing
from noiseweave.jobs.reading import class_names, feature_cache, loras, shard_pictures
from noiseweave.jobs.studio.config import Config

if TYPE_CHECKING:
    from noiseweave.engine.features.spaces import Extractor
    from noiseweave.engine.networks.backbone import Backbone

T = TypeVar("T")
MOST = 4096
"""Pictures of the input that are looked at; a whole number of the shards that a folder is packed to."""
THUMB = 96
"""Side of a thumbnail in pixels."""
FOLDER = "features"
"""Below the output: where features are kept."""
EFFICIENTNET = "efficientnet-lite0"
Alone = Callable[[Callable[[], T]], T]
"""Calls a function while nothing else uses the diffusion model, and gives what it gives."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """N pictures of the input, in augment's order.

    Attributes:
        space: what they are compared in, with its cache.
        f_ND: float32, unit length.
        label_N: int64, -1 for none.
        hash_N: uint64, see ``pictures.hashing``.
        names: as a person knows them.
        thumbs: each as a small JPEG.
        classes: names by label, () where the input has none.
        total: pictures of the input, None where more than N are there and nobody counted them.
        bad: pictures that do not open, and are not among the N.
    """

    space: FeatureRecipe
    f_ND: np.ndarray
    label_N: np.ndarray
    hash_N: np.ndarray
    names: Sequence[str]
    thumbs: Sequence[bytes]
    classes: tuple[str, ...] = ()
    total: int | None = None
    bad: int = 0

    def __len__(self) -> int:
        return len(self.names)

    @property
    def whole(self) -> bool:
        """Whether these are all pictures of the input."""
        return self.total == len(self) + self.bad


@dataclass(kw_only=True)
class Part:
    """The pictures of one shard, before they are decoded."""

    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    data: list[bytes] = field(default_factory=list)
    bad: int = 0

    def add(self, name: str, label: int | None, data: bytes) -> None:
        """Take a picture in."""
        self.names.append(name)
        self.labels.append(-1 if label is None else label)
        self.data.append(data)

    def first(self, count: int) -> Part:
        """Its first pictures."""
        return Part(
            names=self.names[:count], labels=self.labels[:count], data=self.data[:count], bad=self.bad
        )


@dataclass(frozen=True, kw_only=True)
class Opened:
    """An input, before its pictures are read.

    Attributes:
        parts: shard by shard.
        classes: names by label.
        total: pictures, None where nobody knows before the end.
    """

    parts: Iterator[Part]
    classes: tuple[str, ...]
    total: int | None


def space_of(config: Config) -> FeatureRecipe:
    """The space that augment's ``features.name: auto`` stands for here, with a cache below the output.

    Of a model that cannot be read: what auto takes for photographs without one.
    """
    from noiseweave.engine.features import choice, networks
    from noiseweave.engine.networks import loading

    recipe = FeatureRecipe(name=AUTO, cache=storage.join(config.output, FOLDER))
    try:
        return choice.settled(recipe, loading.describe(config.model.name, config.size))
    except (ValueError, OSError):
        return replace(recipe, name=EFFICIENTNET if networks.is_here(EFFICIENTNET) else "pixels")


def opened(config: Config) -> Opened:
    """The input, as augment finds it: a folder of pictures that it would pack, or shards.

    Raises:
        ValueError: one line: nothing is there that augment would take.
    """
    given, output = str(config.input), storage.join(config.output, "augment")
    if packing.root_of(given, output) is not None:
        source, samples = packing.read(given, output)
        return Opened(parts=map(_packed, samples), classes=tuple(source.classes), total=source.total)
    found = shards.find(given)
    names = class_names.carried_classes(given, found)
    return Opened(parts=map(_of_shard, found), classes=tuple(names), total=None)


def _packed(samples: Sequence[packing.Packed]) -> Part:
    part = Part()
    for sample in samples:
        try:
            label, _ = labels.label_and_caption({e: sample.files.get(e) for e in ("cls", "txt", "json")})
        except ValueError:
            part.bad += 1
            continue
        part.add(sample.key, label, next(d for e, d in sample.files.items() if e in shards.PICTURES))
    return part


def _of_shard(url: str) -> Part:
    places, bad = shards.locate(url)
    part = Part(bad=len(bad))
    kept = places[: MOST + 1]
    for place, data in zip(kept, shard_pictures.encoded(kept), strict=True):
        part.add(place.key, place.label, data)
    return part


Say = Callable[[float, int | None], None]
"""Called now and then with the pictures that are done, and those in all, None where nobody knows."""


def read(config: Config, space: FeatureRecipe, extract: Extractor, say: Say) -> Table:
    """Read the input's first MOST pictures and their features.

    Args:
        extract: raw features of the space, as ``feature_cache.extractor`` gives them.
        say: hears how far it is.

    Raises:
        ValueError: as of ``opened``; fewer than two pictures open.
    """
    from noiseweave.engine.features import spaces
    from noiseweave.engine.pictures import hashing

    source = opened(config)
    side = spaces.side(space, config.model.name, config.size)
    most = None if source.total is None else min(source.total, MOST)
    say(0, most)
    rows: list[tuple[str, int, int, bytes]] = []
    f_parts: list[np.ndarray] = []
    bad, whole = 0, True
    for part in source.parts:
        left = MOST - len(rows)
        whole = len(part.names) <= left
        if left == 0:
            break
        part, image_NHWC, thumbs = _decoded(part.first(left), side, config.max_pixels)
        bad += part.bad
        if part.names:
            f_BD = _told(extract, image_NHWC, len(rows), lambda done: say(done, most))
            f_parts.append(spaces.similarity(space, f_BD))
            hashes = hashing.perceptual_hashes(image_NHWC).tolist()
            rows += zip(part.names, part.labels, hashes, thumbs, strict=True)
    if whole and source.total is not None:
        bad = max(bad, source.total - len(rows))  # pack passes over what does not open
    if len(rows) < 2:
        raise ValueError(f"input={config.input!r}: two pictures at least")
    names, label_N, hash_N, thumbs_N = zip(*rows, strict=True)
    return Table(
        space=space,
        f_ND=np.concatenate(f_parts),
        label_N=np.array(label_N, np.int64),
        hash_N=np.array(hash_N, np.uint64),
        names=names,
        thumbs=thumbs_N,
        classes=source.classes,
        total=len(rows) + bad if whole else source.total,
        bad=bad,
    )


def _told(
    extract: Extractor, image_BHWC: np.ndarray, before: int, say: Callable[[float], None]
) -> np.ndarray:
    """The features of some pictures; ``say`` hears how many are done meanwhile, and at the end."""
    from noiseweave.engine import spans

    with spans.listening(lambda share: say(before + share * len(image_BHWC))):
        f_BD = extract(image_BHWC)
    say(before + len(image_BHWC))
    return f_BD


def _decoded(part: Part, side: int, max_pixels: int) -> tuple[Part, np.ndarray, list[bytes]]:
    """The pictures that open: what is said of them, uint8 [B, side, side, 3], and their thumbnails."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = list(pool.map(partial(_seen, side=side, max_pixels=max_pixels), part.data))
    good = [i for i, one in enumerate(found) if one is not None]
    seen = [one for one in found if one is not None]
    kept = Part(
        names=[part.names[i] for i in good],
        labels=[part.labels[i] for i in good],
        bad=part.bad + len(found) - len(good),
    )
    image_BHWC = np.stack([image for image, _ in seen]) if seen else np.zeros((0, side, side, 3), np.uint8)
    return kept, image_BHWC, [thumb for _, thumb in seen]


def _seen(data: bytes, side: int, max_pixels: int) -> tuple[np.ndarray, bytes] | None:
    try:
        image_HWC = images.decode(data, 3, max_pixels)
    except ValueError:
        return None
    return images.fit(image_HWC, side), images.encode(images.fit(image_HWC, THUMB), "jpg", 80)


class Features:
    """The table of the page's input, computed once, in the background.

    Attributes:
        done, total: pictures so far, and in all, where that is known.
        error: what went wrong, until it is begun again.
        table: once it is there.
    """

    def __init__(self, config: Config, network: Callable[[], Backbone], alone: Alone[np.ndarray]) -> None:
        self.config, self.network, self.alone = config, network, alone
        self.done = 0
        self.total: int | None = None
        self.error: Exception | None = None
        self.table: Table | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether it is being computed."""
        return self._thread is not None and self._thread.is_alive()

    def begin(self) -> None:
        """Compute it, unless it is there or under way; after an error once more."""
        with self._lock:
            if self.table is None and not self.busy:
                self.error, self.done = None, 0
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()

    def _work(self) -> None:
        try:
            space = space_of(self.config)
            self.table = read(self.config, space, self._extract(space), self._say)
        except Exception as e:  # the page says it
            self.error = e

    def _say(self, done: float, total: int | None) -> None:
        self.done, self.total = int(done), total

    def _extract(self, space: FeatureRecipe) -> Extractor:
        from noiseweave.engine.features import spaces
        from noiseweave.engine.networks import tuning

        device = tuning.pick_device()
        model, size = self.config.model, self.config.size
        if space.name == "unet":
            model, _ = tuning.settled_here(loras.settled(model), device)
        extract = feature_cache.extractor(
            space,
            lambda: spaces.load_space(space, self.network, device),
            lambda: spaces.identity(space, model, size),
        )
        if space.name != "unet":
            return extract
        # its hooks on the network would hear what another thread draws with it
        return lambda image_BHWC: self.alone(lambda: extract(image_BHWC))
