"""Pictures of a shard, and of a group, read."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from noiseweave.cluster.units import Unit
from noiseweave.engine.records import Group, Quarantined
from noiseweave.jobs.augment import masks as augment_masks
from noiseweave.jobs.augment.reference import Reference
from noiseweave.jobs.augment.task import Task
from noiseweave.jobs.reading import shard_pictures
from noiseweave.jobs.reading.shard_pictures import ShardPictures


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A group that was read.

    Attributes:
        image_BHWC: uint8 [B, size, size, C].
        hashes: SHA-256 of each picture's file.
        masks: of each picture, for a region's.
    """

    group: Group
    image_BHWC: np.ndarray
    hashes: Sequence[str]
    masks: list[augment_masks.Mask]
    bad: list[Quarantined]


def read_shard(reference: Reference, unit: Unit) -> ShardPictures:
    """Every good picture of a shard: locations, uint8 [N, side, side, 3], and what was bad."""
    where, image_NHWC, bad = shard_pictures.read_shard(
        unit.payload, reference.feature_side, 3, reference.max_pixels
    )
    if not reference.forgotten:
        return where, image_NHWC, bad
    kept = [i for i, p in enumerate(where) if not reference.forgets(p.shard, p.key)]
    bad += [Quarantined(shard=unit.payload, key="", reason="forgotten")] * (len(where) - len(kept))
    return [where[i] for i in kept], image_NHWC[kept], bad


def read_group(task: Task, group: Group, seconds: Collection[int]) -> Loaded:
    """A group's pictures by range reads; those that went bad leave with their pairs.

    Args:
        seconds: positions of the pictures that are, or may be, the second of a pair.
    """
    bad: list[Quarantined] = []
    found: dict[int, np.ndarray] = {}
    hashes: dict[int, str] = {}
    for places in augment_masks.by_shard(group.images, range(len(group.images))):
        whole = [group.images[i] for i in places]
        data = shard_pictures.encoded(whole)
        good, worse = shard_pictures.decoded(whole, data, task.size, task.channels, task.config.max_pixels)
        found |= {places[n]: picture for n, picture in good.items()}
        hashes |= {places[n]: hashlib.sha256(data[n]).hexdigest() for n in good}
        bad += worse
    masks = augment_masks.read(task, group.images, found.keys() & set(seconds))
    return Loaded(
        group=without(group, found),
        image_BHWC=shard_pictures.stacked(found, task.size, task.channels),
        hashes=[hashes[i] for i in sorted(found)],
        masks=[masks[i] for i in sorted(found)],
        bad=bad,
    )


def without(group: Group, good: Collection[int]) -> Group:
    """The group with only its good images, renumbered, and the pairs among them."""
    place = {old: new for new, old in enumerate(sorted(good))}
    pairs = [replace(p, a=place[p.a], b=place[p.b]) for p in group.pairs if p.a in good and p.b in good]
    return replace(group, images=tuple(group.images[i] for i in sorted(good)), pairs=tuple(pairs))
