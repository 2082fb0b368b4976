"""What the phases of augment share: pictures in, fused pictures and their lineage out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from noiseweave import __version__
from noiseweave.cluster import shards, storage
from noiseweave.engine import images
from noiseweave.engine.records import Bad, Group, Location, Pair, Unit
from noiseweave.jobs import shard_pictures
from noiseweave.jobs.augment import Task

if TYPE_CHECKING:
    from noiseweave.engine.backbone import Backbone


def device(task: Task) -> str:
    """cuda in a worker that holds a GPU, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() and task.config.cluster.gpus_per_worker != 0 else "cpu"


def load_backbone(task: Task) -> Backbone:
    from noiseweave.engine import backbone

    return backbone.load(task.config.model, device(task), task.config.size)


def load_extractor(task: Task) -> Callable[[np.ndarray], np.ndarray]:
    from noiseweave.engine import features

    return features.load(task.config.features, lambda: load_backbone(task), device(task))


def read_shard(task: Task, side: int, unit: Unit) -> tuple[list[Location], np.ndarray, list[Bad]]:
    """Every good picture of a shard: locations, uint8 [N, side, side, 3], and what was bad."""
    return shard_pictures.read_shard(unit.payload, side, 3, task.config.max_pixels)


def make_groups(
    task: Task, a: np.ndarray, b: np.ndarray, similarity: np.ndarray,
    locate: Callable[[np.ndarray], Sequence[Location]],
) -> Iterator[tuple[Group, np.ndarray]]:  # fmt: skip
    """Selected pairs of rows (int64 [M], int64 [M], float64 [M]) -> groups, each with its images' row numbers.

    ``locate`` gives the Locations of the rows of one group, so that no more of the index is held as records.
    """
    from noiseweave.engine import augmentation, pairing

    config = task.config
    for number, members in enumerate(pairing.group(a, b, config.pairing)):
        rows, places = np.unique(np.stack([a[members], b[members]]), return_inverse=True)
        where = locate(rows)
        keys = [task.key_of(p.shard, p.key) for p in where]
        pairs = [
            augmentation.draw_pair(
                i, j, keys[i], keys[j], float(sim), config.fusion, config.seed, config.pairing.threshold
            )
            for (i, j), sim in zip(places.reshape(2, -1).T.tolist(), similarity[members], strict=True)
        ]
        yield Group(id=f"{number:06d}", images=tuple(where), pairs=tuple(pairs)), rows


def read_group(task: Task, group: Group) -> tuple[Group, np.ndarray, list[Bad]]:
    """A group's pictures by range reads: uint8 [B, size, size, C]; pictures that went bad leave with their pairs."""
    bad: list[Bad] = []
    by_shard = defaultdict(list)
    for i, where in enumerate(group.images):
        by_shard[where.shard].append(i)
    found: dict[int, np.ndarray] = {}
    for places in by_shard.values():
        whole = [group.images[i] for i in places]
        good, worse = shard_pictures.read(whole, task.size, task.channels, task.config.max_pixels)
        found |= {places[n]: picture for n, picture in good.items()}
        bad += worse
    return without(group, set(found)), shard_pictures.stacked(found, task.size, task.channels), bad


def without(group: Group, good: set[int]) -> Group:
    """The group with only its good images, renumbered, and the pairs among them."""
    place = {old: new for new, old in enumerate(sorted(good))}
    pairs = [replace(p, a=place[p.a], b=place[p.b]) for p in group.pairs if p.a in good and p.b in good]
    return replace(group, images=tuple(group.images[i] for i in sorted(good)), pairs=tuple(pairs))


def augment_group(task: Task, backbone: Backbone, data: tuple[Group, np.ndarray, list[Bad]]) -> Any:
    """Fuse the pairs of a group: (group, uint8 [pairs, size, size, C], bad, number of prompts that were cut)."""
    from noiseweave.engine import augmentation

    group, image_BHWC, bad = data
    if not group.pairs:
        return group, image_BHWC[:0], bad, 0
    keys = [task.key_of(p.shard, p.key) for p in group.images]
    config = task.config
    fused = augmentation.augment(
        backbone, image_BHWC, keys, group.pairs, config.inversion, config.fusion, config.seed,
        task.prompts_of(group.images),
    )  # fmt: skip
    return group, fused, bad, len(augmentation.too_long(backbone, task.prompts_of(group.images)))


def counts(group: Group, cut: int) -> dict[str, float]:
    """The sums that the report shows: inversions, pair ends, modes, and prompts that were cut if any."""
    modes = Counter(f"mode:{p.mode}" for p in group.pairs)
    return {
        "images_inverted": len(group.images) if group.pairs else 0,
        "pair_ends": 2 * len(group.pairs),
        **modes,
        **({"prompts_cut": cut} if cut else {}),
    }


def write_shard(task: Task, name: str, group: Group, image_PHWC: np.ndarray) -> None:
    """The fused samples of a group as one shard; none when there are none."""
    if not group.pairs:
        return
    rows = [sample(task, group, pair, picture) for pair, picture in zip(group.pairs, image_PHWC, strict=True)]
    storage.write(storage.join(task.output, "shards", name), shards.pack(rows))


def sample(task: Task, group: Group, pair: Pair, picture: np.ndarray) -> tuple[str, dict[str, bytes]]:
    """One new sample: its key and its files."""
    first, second = group.images[pair.a], group.images[pair.b]
    kind = task.config.samples.image_format
    files: dict[str, bytes] = {kind: images.encode(picture, kind)}
    if first.label is not None and first.label == second.label:
        files["cls"] = str(first.label).encode()
    prompts = task.prompts_of((first, second))
    aims = prompts is not None and task.config.prompt.target is not None
    texts = prompts.target if prompts and aims else (first.caption, second.caption)
    caption = "; ".join(dict.fromkeys(text for text in texts if text))
    if caption:
        files["txt"] = caption.encode()
    files["json"] = json.dumps(lineage(task, first, second, pair), ensure_ascii=False).encode()
    return key_of(task, first, second), files


def key_of(task: Task, first: Location, second: Location) -> str:
    """The new sample's key: the same for a pair wherever and whenever it is fused, dot-free."""
    ends = sorted(task.key_of(p.shard, p.key) for p in (first, second))
    return "fused-" + hashlib.blake2b("\n".join(ends).encode(), digest_size=10).hexdigest()


def lineage(task: Task, first: Location, second: Location, pair: Pair) -> dict[str, Any]:
    """Where a fused picture came from, enough to make it again."""
    config, labels = task.config, (first.label, second.label)
    value: dict[str, Any] = {
        "parents": [
            {"shard": task.name_of(p.shard), "key": p.key, "label": p.label, "weight": round(w, 6)}
            for p, w in ((first, 1 - pair.ratio), (second, pair.ratio))
        ],
        "similarity": round(pair.similarity, 6), "mode": pair.mode, "ratio": pair.ratio,
        "num_steps": config.inversion.num_steps, "skip": config.inversion.skip, "noise": config.inversion.noise,
        "sampler": config.inversion.sampler,
        "keep_spread": config.fusion.keep_spread, "seed": config.seed, "pair_seed": pair.seed,
        "model": config.model.name, "model_hash": task.model_hash, "precision": config.model.precision,
        "noiseweave": __version__,
    }  # fmt: skip
    prompts = task.prompts_of((first, second))
    if prompts is not None:
        value["prompt"] = asdict(prompts)
    if None not in labels and labels[0] != labels[1]:
        value["soft_label"] = {str(labels[0]): round(1 - pair.ratio, 6), str(labels[1]): pair.ratio}
    return value
