"""How far a computation is, for whoever waits for it.

A loop divides what is at hand: each of ``steps``, each ``span``, is a share of it, and loops inside divide theirs. So
a sampler of 50 steps that runs its network in 4 parts says 1/200 after the first part. Nothing is said, and nothing
is kept, unless ``listening`` listens in the same thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass
class _Hand:
    """What is at hand: the shares low to high of the whole; ``opened`` once somebody divided it."""

    listener: Callable[[float], None] | None = None
    low: float = 0.0
    high: float = 1.0
    opened: bool = False


class _Local(threading.local):
    def __init__(self) -> None:
        self.hand = _Hand()


_local = _Local()


@contextmanager
def listening(listener: Callable[[float], None]) -> Iterator[None]:
    """Call ``listener`` with the share that is done, 0 to 1 and never less than before, while the block runs."""
    most = 0.0

    def rising(share: float) -> None:
        nonlocal most
        if share > most:
            most = share
            listener(share)

    before, _local.hand = _local.hand, _Hand(rising)
    try:
        yield
    finally:
        _local.hand = before


@contextmanager
def span(start: float, stop: float) -> Iterator[None]:
    """The block is the shares ``start`` to ``stop`` (0 to 1) of what is at hand; at its end they are done."""
    hand = _local.hand
    if hand.listener is None:
        yield
        return
    width = hand.high - hand.low
    _local.hand = inner = _Hand(hand.listener, hand.low + start * width, hand.low + stop * width, True)
    try:
        yield
        hand.listener(inner.high)
    finally:
        if _local.hand is inner:  # a loop that was left by an error may end here much later
            _local.hand = hand


@contextmanager
def part(start: int, stop: int, total: int) -> Iterator[None]:
    """Of rows that go through a network: as ``span``, but nothing where nobody has divided what is at hand.

    So a call beside the loop that takes the time, an encoder's before it say, does not look like the whole.
    """
    if not _local.hand.opened:
        yield
        return
    with span(start / total, min(stop, total) / total):
        yield


def steps(items: Iterable[T], total: int | None = None) -> Iterator[T]:
    """The items of a loop; each is an equal share of what is at hand.

    Args:
        total: how many there are, of items that have no length.
    """
    total = len(items) if total is None else total  # type: ignore[arg-type]
    for n, item in enumerate(items):
        with span(n / total, (n + 1) / total):
            yield item
