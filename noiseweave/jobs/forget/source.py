"""Which picture a key means, when forget looks for it: the shards that may hold it, by all their names.

A lineage names a picture's shard below the folder of that run's input, so names of one shard differ in what comes
before: ``in/a.tar`` and ``a.tar`` may be one, ``x/a.tar`` and ``y/a.tar`` are two. augment's copy of a picture, in
``original-*.tar`` or packed of a folder of pictures, is that picture under another name; so is what has the same key
and the same bytes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import combinations

from noiseweave.jobs.forget.config import Config
from noiseweave.jobs.forget.search import ORIGINAL, Parent, Record
from noiseweave.jobs.outputs import PACKED, PACKED_POOL

LISTED = 10  # shards that an error names


class NotFound(ValueError):
    """Nothing has the key."""


def same_shard(a: str, b: str) -> bool:
    """Whether two names, one of them perhaps with more folders before it, may mean one shard."""
    return a == b or a.endswith("/" + b) or b.endswith("/" + a)


def asked(config: Config, shard: str) -> bool:
    """Whether a shard is the one that was named; any is where none was."""
    return config.shard is None or same_shard(shard, config.shard)


def places(record: Record) -> list[str]:
    """The shards that a lineage may name as this sample's."""
    return [record.url, *record.sources]


def names(
    config: Config, mine: Sequence[Record], named: Collection[Parent], rows: Collection[str]
) -> list[str]:
    """All names of the source picture's shard; [] where the key is that of generated samples alone.

    Args:
        mine: the samples that have the key.
        named: the parents that have it.
        rows: the shards in which augment's indices have it.

    Raises:
        ValueError: they are those of several pictures.
    """
    made = {place for r in mine if r.parents for place in places(r)}
    every = [
        *({p.shard for p in named if p.sha256 == h} for h in {p.sha256 for p in named if p.sha256}),
        *({p.shard} for p in named),
        *({row} for row in rows),
        *(set(places(r)) for r in mine if not r.parents),
    ]
    groups = joined({n for n in group if not any(same_shard(n, m) for m in made)} for group in every)
    wanted = [group for group in groups if any(asked(config, name) for name in group)]
    check_one(config, wanted)
    known = {n for group in wanted for n in group}
    # a copy is made at another size, and so has a hash of its own
    of: dict[str, set[str]] = defaultdict(set)
    for p in named:
        if p.sha256 and p.shard in known:
            of[p.shard if is_copy(p.shard) else ""].add(p.sha256[:12])
    hashes = next((sorted(some) for some in of.values() if len(some) > 1), [])
    if hashes:
        raise ValueError(
            f"key {config.key!r}: {len(hashes)} different pictures have it in shards of one name (SHA-256 "
            f"{', '.join(hashes)}); give the inputs one at a time"
        )
    return sorted(known)


def joined(sets: Iterable[set[str]]) -> list[set[str]]:
    """Sets that share a member become one; empty ones are left out."""
    out: list[set[str]] = []
    for one in sets:
        apart = [other for other in out if not other & one]
        whole = one.union(*(other for other in out if other & one))
        out = [*apart, whole] if whole else apart
    return out


def check_one(config: Config, groups: Sequence[set[str]]) -> None:
    """Raise ValueError where shards, each by its names, cannot all be one."""

    def may(one: set[str], other: set[str]) -> bool:
        return any(same_shard(a, b) for a in one for b in other)

    if all(may(one, other) for one, other in combinations(groups, 2)):
        return
    plain = [sorted(g, key=lambda n: (is_copy(n), -len(n), n))[0] for g in groups]
    several = sorted({n for n in plain if not any(o != n and o.endswith("/" + n) for o in plain)})
    more = f" and {len(several) - LISTED} more" if len(several) > LISTED else ""
    raise ValueError(
        f"key {config.key!r}: {len(several)} shards have it, give one as --shard: "
        f"{', '.join(several[:LISTED])}{more}"
    )


def is_copy(name: str) -> bool:
    """Whether a shard is augment's copy of one of its input's, or of a folder of pictures."""
    return ORIGINAL.fullmatch(name.rpartition("/")[2]) is not None or is_packed(name)


def is_packed(name: str) -> bool:
    """Whether a shard is what augment packed of a folder of pictures, whose samples its index knows by their place."""
    return name.rpartition("/")[0].endswith((f"/{PACKED}", f"/{PACKED_POOL}"))


def copy_of(record: Record, known: Sequence[str]) -> bool:
    """Whether a sample is augment's copy of the picture itself, whose shard has these names."""
    if record.parents or not is_copy(record.url):
        return False
    return any(same_shard(place, name) for place in places(record) for name in known)


def generated(config: Config, mine: Sequence[Record]) -> list[Record]:
    """The samples with the key, where it is that of a generated one.

    Raises:
        ValueError: there are several.
    """
    found = [r for r in mine if r.parents and any(asked(config, place) for place in places(r))]
    check_one(config, joined(set(places(r)) for r in found))
    return found


def check_found(
    config: Config, found: Collection[object], mine: Sequence[Record], named: Collection[Parent], shards: int
) -> None:
    """Raise ValueError where nothing has the key, or nothing in the shard that was asked for."""
    if found:
        return
    others = sorted({p.shard for p in named} | {[*r.sources, r.url][0] for r in mine})
    if others:
        raise ValueError(f"shard={config.shard!r}: key {config.key!r} is in {', '.join(others[:LISTED])}")
    raise NotFound(f"key {config.key!r}: no picture, sample or lineage in the {shards} shards has it")
