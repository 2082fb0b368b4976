"""Between forget's two flows: from a key, through the lineages that were found, to the samples that are to go.

A lineage names a parent by key and by its shard's name below the folder of that run's input, so names of one shard
differ in what comes before: ``in/a.tar`` and ``a.tar`` may be one, ``x/a.tar`` and ``y/a.tar`` are two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.jobs.forget import Config
from noiseweave.jobs.forget_search import ORIGINAL, UNSEARCHED, Parent, Piece, Record, indexed, records


@dataclass(kw_only=True)
class Targets:
    """Pictures whose descendants are looked for: key -> for each picture of that key, the names of its shard."""

    names: dict[str, list[list[str]]] = field(default_factory=dict)

    def add(self, key: str, names: Iterable[str]) -> None:
        self.names.setdefault(key, []).append(list(names))

    def has(self, key: str, shard: str) -> bool:
        return any(same_shard(shard, name) for names in self.names.get(key, ()) for name in names)

    def bears(self, record: Record) -> bool:
        """Whether one of the sample's parents is among them."""
        return any(self.has(parent.key, parent.shard) for parent in record.parents)


class NotFound(ValueError):
    """Nothing has the key."""


def same_shard(a: str, b: str) -> bool:
    """Whether two names, one of them perhaps with more folders before it, may mean one shard."""
    return a == b or a.endswith("/" + b) or b.endswith("/" + a)


def trace(config: Config, work: Sequence[Piece], book: Ledger, searched: Outcome) -> dict[str, Any]:
    """What is to go, as JSON values.

    Raises:
        ValueError: nothing has the key, or what has it are several pictures.
    """
    mine: list[Record] = []
    named: set[Parent] = set()
    for record in records(work, book):
        mine += [record] if record.key == config.key else []
        named |= {parent for parent in record.parents if parent.key == config.key}
    made = [r for r in mine if r.parents]
    roots = _roots(config, made, mine, named, indexed(work, book))
    targets, hits = Targets(), dict[str, dict[str, str | None]]()
    first = [] if roots else _generated(config, made)
    if roots:
        targets.add(config.key, roots)
        first = [r for r in mine if _copy_of(r, roots)]
    for record in first:
        hits.setdefault(record.url, {})[record.key] = record.mode
        if not roots:
            targets.add(record.key, _places(record))
    _check_found(config, roots, mine, named, work)
    copies = len(first) if roots else 0
    direct = _follow(targets, hits, work, book)
    bad = [b for r in book.records("search") for b in r["bad"]]
    missed = sorted({(b["shard"], b["reason"]) for b in bad if b["reason"] in UNSEARCHED})
    return {
        "key_in": sorted(roots or {place for r in first for place in _places(r)}),
        "hits": {url: dict(sorted(hits[url].items())) for url in sorted(hits)},
        "targets": targets.names, "copies": copies, "direct": direct,
        "descendants": sum(map(len, hits.values())) - copies,
        "input_pictures": sorted(r.url for r in mine if not r.parents and r.url not in hits),
        "searched": {"shards": sum(p.kind == "shard" for p in work), "samples": searched.produced},
        "unsearched": [{"shard": shard, "reason": reason} for shard, reason in missed],
        "odd": dict(sorted(Counter(b["reason"] for b in bad if b["reason"] not in UNSEARCHED).items())),
    }  # fmt: skip


def _check_found(
    config: Config, roots: Sequence[str], mine: Sequence[Record], named: Collection[Parent], work: Sequence[Piece]
) -> None:  # fmt: skip
    """Raise ValueError where nothing has the key, or nothing in the shard that was asked for."""
    if roots or any(r.parents and any(_asked(config, place) for place in _places(r)) for r in mine):
        return
    others = sorted({p.shard for p in named} | {r.source or r.url for r in mine})
    if others:
        raise ValueError(f"shard={config.shard!r}: key {config.key!r} is in {', '.join(others[:10])}")
    count = sum(piece.kind == "shard" for piece in work)
    raise NotFound(f"key {config.key!r}: no picture, sample or lineage in the {count} shards has it")


def _places(record: Record) -> list[str]:
    """The shards that a lineage may name as this sample's."""
    return [record.url, *([record.source] if record.source else [])]


def _roots(
    config: Config, made: Sequence[Record], mine: Sequence[Record], named: Collection[Parent], rows: Collection[str]
) -> list[str]:  # fmt: skip
    """The names of the source picture's shard; [] where the key is that of generated samples alone.

    Raises:
        ValueError: they are those of several pictures.
    """
    held = [r.source or r.url for r in mine if not r.parents and (r.source or not _is_copy(r))]
    ours = Targets()
    for record in made:
        ours.add(record.key, _places(record))
    every = {*(p.shard for p in named), *rows, *held}
    names = {n for n in every if not ours.has(config.key, n) and _asked(config, n)}
    _check_one(config, names)
    hashes = {p.sha256 for p in named if p.shard in names and p.sha256}
    if len(hashes) > 1:
        raise ValueError(
            f"key {config.key!r}: {len(hashes)} different pictures have it in a shard of the same name "
            f"(SHA-256 {', '.join(sorted(h[:12] for h in hashes))}); give the inputs one at a time"
        )
    return sorted(names)


def _asked(config: Config, shard: str) -> bool:
    return config.shard is None or same_shard(shard, config.shard)


def _check_one(config: Config, names: Collection[str]) -> None:
    """Raise ValueError where names of shards cannot all be those of one."""
    longest = max(names, key=len, default="")
    if all(same_shard(name, longest) for name in names):
        return
    several = sorted(n for n in names if not any(o != n and o.endswith("/" + n) for o in names))
    shown = ", ".join(several[:10]) + (f" and {len(several) - 10} more" if len(several) > 10 else "")
    raise ValueError(f"key {config.key!r}: {len(several)} shards have it, give one as --shard: {shown}")


def _is_copy(record: Record) -> bool:
    return ORIGINAL.fullmatch(record.url.rpartition("/")[2]) is not None


def _copy_of(record: Record, roots: Sequence[str]) -> bool:
    """Whether it is augment's copy of the picture itself. A copy that no index knows the source of counts."""
    if record.parents or not _is_copy(record):
        return False
    return record.source is None or any(same_shard(record.source, name) for name in roots)


def _generated(config: Config, made: Sequence[Record]) -> list[Record]:
    """The samples with the key, where it is that of a generated one.

    Raises:
        ValueError: there are several, or none.
    """
    found = [r for r in made if any(_asked(config, place) for place in _places(r))]
    _check_one(config, {r.source or r.url for r in found})
    return found


def _follow(
    targets: Targets, hits: dict[str, dict[str, str | None]], work: Sequence[Piece], book: Ledger
) -> int:
    """Add all that descends from the targets to both; returns how many do directly."""
    direct, grown = 0, True
    first = Targets(names={key: list(names) for key, names in targets.names.items()})
    while grown:
        grown = False
        for record in records(work, book):
            if record.key in hits.get(record.url, ()) or not targets.bears(record):
                continue
            direct += first.bears(record)
            hits.setdefault(record.url, {})[record.key] = record.mode
            targets.add(record.key, _places(record))
            grown = True
    return direct
