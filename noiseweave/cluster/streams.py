"""Samples for training: endless shuffled streams, a function of (shards, seed, number of streams) alone.

The data set is cut into L streams, whatever the number of workers: worker r of n reads its share of them. In
each epoch the good samples of all shards, in an order of the shards drawn for the epoch and begun at a place
drawn for it, stand in one ring, and stream l reads the l-th of L equal arcs through WebDataset's shuffle
buffer. So every sample is read once an epoch, shards may be fewer than streams, and the epoch and the place
of any position of a stream are known without reading: that is how it resumes.

What a shard holds is written down once, in its table: byte ranges found by ``shards.located``. Training reads
those ranges and no tar, so that damage, duplicates and foreign files cannot shift a sample.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import zlib
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Set
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO, TypeVar

from noiseweave.cluster import labels as cluster_labels
from noiseweave.cluster import shards, storage
from noiseweave.engine import seeding
from noiseweave.engine.records import Json, Quarantined

T = TypeVar("T")
CHUNK = 1024  # samples in a part of a table: what a stream unpacks at a time
HEADER = 512  # bytes of the tar header right before a member's own
PATIENCE = 1000  # failures in a row that a small data set may have without being given up
PAYLOAD = "payload"  # the payload's extension on its way through webdataset


@dataclass(frozen=True, kw_only=True)
class Shard:
    """The table of a shard.

    Attributes:
        url: of the tar.
        count: good samples, >= 0.
        parts: rows of CHUNK samples each (the last may have fewer), as compressed JSON: key, checksum of
            what must not change, and [extension, offset, size] of each member that is read, the payload first.
            About 16 bytes a sample.
    """

    url: str
    count: int
    parts: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Raw:
    """A sample as read: ``data`` is the encoded picture (or latent) and is for the job to decode."""

    shard: str
    key: str
    data: bytes = field(repr=False)
    label: int | None = None
    caption: str | None = None


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The good samples ``start`` to ``stop`` - 1 of a shard."""

    shard: Shard
    start: int
    stop: int


def table(
    url: str, payload: Sequence[str] = shards.PICTURES
) -> tuple[Shard, list[Quarantined], Counter[int | None]]:
    """Index a shard for training.

    Args:
        url: of the tar.
        payload: extensions of the member that is trained on; the first such member of a sample counts.

    Returns:
        The table; what is wrong with the shard, as ``shards.located`` says it; label -> good samples.
    """
    found, bad = shards.located(url, payload)
    rows = []
    if found:
        with storage.open_read(url) as f:
            for entry, location in found:
                sides = [(e, m.offset, m.size) for e, m in entry.members.items() if e in shards.SIDES]
                checksum, _ = _read(f, [(PAYLOAD, location.offset, 0), *sides])  # its header alone
                rows.append((entry.key, checksum, [(PAYLOAD, location.offset, location.size), *sides]))
    parts = [rows[i : i + CHUNK] for i in range(0, len(rows), CHUNK)]
    packed = tuple(zlib.compress(json.dumps(part, separators=(",", ":")).encode()) for part in parts)
    labels = Counter(location.label for _, location in found)
    return Shard(url=url, count=len(rows), parts=packed), bad, labels


def share(streams: int, world: int, rank: int) -> range:
    """The neighbouring streams that worker ``rank`` of ``world`` reads; shares differ by one at most.

    Raises:
        ValueError: there are more workers than streams.
    """
    if world > streams:
        raise ValueError(f"streams={streams}: {world} workers need one each at least")
    return range(rank * streams // world, (rank + 1) * streams // world)


def epoch_length(total: int, streams: int, number: int) -> int:
    """Samples of stream ``number`` in each epoch, >= 1 also when ``total`` < ``streams``."""
    start, stop = _arc(total, streams, number)
    return stop - start


def _arc(total: int, streams: int, number: int) -> tuple[int, int]:
    start = number * total // streams
    return start, max(
        (number + 1) * total // streams, start + 1
    )  # few samples are shared, no stream is empty


def pieces(tables: Sequence[Shard], *, seed: int, streams: int, number: int, epoch: int) -> list[Piece]:
    """What a stream reads in an epoch, in the order of reading."""
    total = sum(shard.count for shard in tables)
    draw = seeding.rng(seed, "shards", epoch)
    ordered = draw.sample(tables, len(tables))
    # Else a single shard's stream would have the same samples in every epoch, some streams fewer than others.
    turn = draw.randrange(total)
    start, stop = (place + turn for place in _arc(total, streams, number))
    return [*_between(ordered, start, stop), *_between(ordered, start - total, stop - total)]


def _between(ordered: Sequence[Shard], start: int, stop: int) -> Iterator[Piece]:
    first = 0
    for shard in ordered:
        a, b = max(start - first, 0), min(stop - first, shard.count)
        if a < b:
            yield Piece(shard=shard, start=a, stop=b)
        first += shard.count


def stream(
    tables: Sequence[Shard], *, seed: int, streams: int, number: int, buffer: int, first: int = 0
) -> Generator[Raw, None, None]:
    """One of the streams, from its sample number ``first`` on, without end.

    Args:
        tables: of the shards; their order counts, for the epochs' orders are drawn from it.
        seed: of the order.
        streams: how many the data set is cut into.
        number: which of them, 0 <= number < streams.
        buffer: encoded samples among which the next is drawn, >= 1; 1 keeps the order of the shards.
        first: samples to skip, >= 0. Those of earlier epochs cost nothing, those of its own epoch no reading
            but of what still stands in the buffer.

    Raises:
        ValueError: there is no sample; while it runs: a shard is gone or has changed.
    """
    assert 0 <= number < streams, (number, streams)
    assert buffer >= 1, buffer
    assert first >= 0, first
    total = sum(shard.count for shard in tables)
    if not total:
        raise ValueError(f"no sample to train on in {len(tables)} shards")
    epoch, skip = divmod(first, epoch_length(total, streams, number))
    return _epochs(tables, epoch, skip, seed=seed, streams=streams, number=number, buffer=buffer)


def _epochs(
    tables: Sequence[Shard], first: int, skip: int, *, seed: int, streams: int, number: int, buffer: int
) -> Generator[Raw, None, None]:
    for epoch in itertools.count(first):
        parts = pieces(tables, seed=seed, streams=streams, number=number, epoch=epoch)
        yield from _epoch(parts, seeding.seed_of(seed, "buffer", epoch, number), buffer, skip)
        skip = 0


def _epoch(parts: Sequence[Piece], seed: int, buffer: int, skip: int) -> Iterator[Raw]:
    """The samples of the pieces, shuffled, without the first ``skip``."""
    from webdataset import DataPipeline, shuffle  # imports torch
    from webdataset.tariterators import group_by_keys

    shuffled = partial(shuffle, buffer, initial=buffer, seed=seed)
    # The shuffle looks at no sample, so numbers tell which samples it gives out first: they need no reading.
    numbers = iter(range(sum(p.stop - p.start for p in parts)))
    skipped = set(itertools.islice(shuffled()(numbers), skip))
    read = partial(_files, parts, skipped)
    grouped = DataPipeline(read, partial(group_by_keys, keys=shards.split_name), shuffled())
    return map(_raw, itertools.islice(grouped, skip, None))


def _files(parts: Iterable[Piece], skipped: Set[int]) -> Iterator[Json]:
    """Members as webdataset's ``tar_file_expander`` gives them; an empty one for a sample that is skipped."""
    number = itertools.count()
    for piece in parts:
        with contextlib.ExitStack() as opened:
            f = None
            for key, checksum, members in _rows(piece):
                if next(number) in skipped:
                    found = [(PAYLOAD, b"")]
                else:
                    f = f or opened.enter_context(_open(piece.shard.url))
                    found = _checked(f, piece.shard.url, key, checksum, members)
                for extension, data in found:  # ./ is what split_name takes off, whatever the key begins with
                    yield {"__url__": piece.shard.url, "fname": f"./{key}.{extension}", "data": data}
        yield {}  # the end of a shard, for group_by_keys: the next may begin with the same key


def _rows(piece: Piece) -> Iterator[tuple[str, int, list[tuple[str, int, int]]]]:
    for n in range(piece.start // CHUNK, -(-piece.stop // CHUNK)):
        rows = json.loads(zlib.decompress(piece.shard.parts[n]))
        yield from rows[max(piece.start - n * CHUNK, 0) : piece.stop - n * CHUNK]


def _open(url: str) -> BinaryIO:
    try:
        return storage.open_read(url)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as e:
        raise ValueError(f"shard {url} was readable when training began and no longer is: {e}") from None


def _checked(
    f: BinaryIO, url: str, key: str, checksum: int, members: Sequence[tuple[str, int, int]]
) -> list[tuple[str, bytes]]:
    now, found = _read(f, members)
    if now != checksum or [len(data) for _, data in found] != [size for _, _, size in members]:
        raise ValueError(f"shard {url} has changed since training began: sample {key} is not where it was")
    return found


def _read(f: BinaryIO, members: Sequence[tuple[str, int, int]]) -> tuple[int, list[tuple[str, bytes]]]:
    """The members' bytes, and a checksum of their tar headers and of the side members."""
    checksum, found = 0, []
    for extension, offset, size in members:
        f.seek(offset - HEADER)
        block = f.read(HEADER + size)
        checksum = zlib.crc32(block[:HEADER] if extension == PAYLOAD else block, checksum)
        found.append((extension, block[HEADER:]))
    return checksum, found


def _raw(sample: Json) -> Raw:
    label, caption = cluster_labels.label_and_caption(sample)
    return Raw(
        shard=sample["__url__"], key=sample["__key__"], data=sample[PAYLOAD], label=label, caption=caption
    )


def standing_in(
    samples: Iterable[Raw],
    decode: Callable[[Raw], T],
    failed: Callable[[Raw, ValueError], None],
    *,
    patience: int,
    pool: Executor | None = None,
    ahead: int = 16,
) -> Generator[tuple[Raw, T], None, None]:
    """Each position of a stream decoded; the next that can be decoded stands in for one that cannot.

    That one comes again at its own place, so a failure shifts no position and what stands where depends on
    the stream alone: resuming at any position, with or without a pool, gives the same.

    Args:
        samples: a ``stream``.
        decode: bytes -> what is trained on; a ValueError says that they cannot be decoded.
        failed: called with each failure, in the order of the stream.
        patience: failures in a row, without any success, that end it; ``epoch_length`` is the natural
            choice. At least PATIENCE are borne, for a stream's epoch may be a single sample.
        pool: decodes ahead; without it each sample is decoded when it is asked for.
        ahead: samples in the pool at a time.

    Raises:
        ValueError: ``patience`` failures in a row.
    """
    waiting: list[str] = []
    for raw, outcome in _decoded(samples, decode, pool, ahead):
        if isinstance(outcome, _Failure):
            waiting.append(f"{raw.key} of {raw.shard}")
            failed(raw, outcome.error)
            if len(waiting) >= max(patience, PATIENCE):
                n = len(set(waiting))
                raise ValueError(
                    f"none of {n} pictures can be decoded, the last: {waiting[-1]}: {outcome.error}"
                )
        else:
            yield from itertools.repeat((raw, outcome), len(waiting) + 1)
            waiting.clear()


@dataclass(frozen=True)
class _Failure:
    error: ValueError


def _decoded(
    samples: Iterable[Raw], decode: Callable[[Raw], T], pool: Executor | None, ahead: int
) -> Iterator[tuple[Raw, T | _Failure]]:
    def attempt(raw: Raw) -> T | _Failure:
        try:
            return decode(raw)
        except ValueError as e:
            return _Failure(e)

    if pool is None:
        yield from ((raw, attempt(raw)) for raw in samples)
        return
    window: deque[tuple[Raw, Future[T | _Failure]]] = deque()
    try:
        for raw in samples:
            window.append((raw, pool.submit(attempt, raw)))
            if len(window) >= ahead:
                sample, future = window.popleft()
                yield sample, future.result()
        while window:
            sample, future = window.popleft()
            yield sample, future.result()
    finally:
        for _, future in window:
            future.cancel()
