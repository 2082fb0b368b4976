"""Between forget's two flows: from a key, through the lineages that were found, to the samples that are to go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.engine.records import Json
from noiseweave.jobs.forget import source
from noiseweave.jobs.forget.config import Config
from noiseweave.jobs.forget.search import UNSEARCHED, Parent, Piece, Record, Tally, indexed, records

Hits = dict[str, dict[str, Tally | None]]
"""Shard -> key of a sample that is to go -> how its parents were fused."""


@dataclass(kw_only=True)
class Targets:
    """Pictures whose descendants are looked for: key -> for each picture of that key, the names of its shard."""

    names: dict[str, list[list[str]]] = field(default_factory=dict)

    def add(self, key: str, names: Iterable[str]) -> None:
        """A picture's key, and all names of its shard."""
        self.names.setdefault(key, []).append(list(names))

    def has(self, key: str, shard: str) -> bool:
        """Whether a picture is to go."""
        return any(source.same_shard(shard, name) for names in self.names.get(key, ()) for name in names)

    def bears(self, record: Record) -> bool:
        """Whether one of the sample's parents is among them."""
        return any(self.has(parent.key, parent.shard) for parent in record.parents)


def trace(config: Config, work: Sequence[Piece], book: Ledger, searched: Outcome) -> Json:
    """What is to go, as JSON values.

    Raises:
        ValueError: nothing has the key, or what has it are several pictures.
    """
    count = sum(piece.kind == "shard" for piece in work)
    mine, named = _with_key(config.key, work, book)
    rows = indexed(work, book)
    known = source.names(config, mine, named, rows)
    first = [r for r in mine if source.copy_of(r, known)] if known else source.generated(config, mine)
    source.check_found(config, [*known, *first], mine, named, count)
    targets, hits = Targets(), Hits()
    for record in first:
        hits.setdefault(record.url, {})[record.key] = record.counted
    for places in [known] if known else map(source.places, first):
        targets.add(config.key, places)
    direct, all_of_them = _follow(targets, hits, work, book)
    bad = [b for r in book.records("search") for b in r["bad"]]
    missed = sorted({(b["shard"], b["reason"]) for b in bad if b["reason"] in UNSEARCHED})
    return {
        "key_in": known or sorted({place for r in first for place in source.places(r)}),
        "hits": {url: dict(sorted(hits[url].items())) for url in sorted(hits)},
        "targets": targets.names,
        "itself": len(first),
        "direct": direct,
        "descendants": all_of_them,
        "input_pictures": sorted(
            r.url for r in mine if not r.parents and r not in first and targets.has(r.key, r.url)
        ),
        "searched": {"shards": count, "samples": searched.produced},
        "unsearched": [{"shard": shard, "reason": reason} for shard, reason in missed],
        "odd": dict(sorted(Counter(b["reason"] for b in bad if b["reason"] not in UNSEARCHED).items())),
    }


def _with_key(key: str, work: Sequence[Piece], book: Ledger) -> tuple[list[Record], set[Parent]]:
    """The samples, and the parents of samples, that have a key."""
    mine: list[Record] = []
    named: set[Parent] = set()
    for record in records(work, book):
        mine += [record] if record.key == key else []
        named |= {parent for parent in record.parents if parent.key == key}
    return mine, named


def _follow(targets: Targets, hits: Hits, work: Sequence[Piece], book: Ledger) -> tuple[int, int]:
    """Add all that descends from the targets to both; how many do directly, and how many in all."""
    first = Targets(names={key: list(names) for key, names in targets.names.items()})
    direct, total, grown = 0, 0, True
    while grown:
        grown = False
        for record in records(work, book):
            if record.key in hits.get(record.url, ()) or not targets.bears(record):
                continue
            hits.setdefault(record.url, {})[record.key] = record.counted
            targets.add(record.key, source.places(record))
            direct, total, grown = direct + first.bears(record), total + 1, True
    return direct, total
