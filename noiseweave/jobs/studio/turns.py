"""Whose turn it is: one request computes at a time, and of a page's own that wait, the latest alone."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from noiseweave.engine import spans

T = TypeVar("T")
MOST = 1000
"""Pages that are told apart; of older ones a stale request may be computed once too often."""


class Stale(Exception):
    """A newer request of the same page has come while this one waited, or was computed; or the page was closed."""


class Turns:
    """Requests in the order that they came, with the stale ones left out.

    Attributes:
        computed, dropped: how many so far; what was begun and not ended is both.
    """

    def __init__(self) -> None:
        self.computed = self.dropped = 0
        self._latest: OrderedDict[str, int] = OrderedDict()
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(
            1
        )  # one for all: each thread would have helpers of its own in torch
        self._count = 0

    async def run(self, page: str, work: Callable[[], T]) -> T:
        """What ``work`` gives, called in the one thread for it once it is this request's turn.

        Work that says how far it is (engine/spans.py) ends there once it is stale.

        Raises:
            Stale: a newer request of this page waits.
        """
        self._count += 1
        ticket = self._latest[page] = self._count
        self._latest.move_to_end(page)
        while len(self._latest) > MOST:
            self._latest.popitem(last=False)
        async with self._lock:
            if self._latest.get(page, ticket) != ticket:
                self.dropped += 1
                raise Stale
            self.computed += 1
            watched = partial(self._watched, page, ticket, work)
            return await asyncio.get_running_loop().run_in_executor(self._thread, watched)

    def leave(self, pages: Iterable[str]) -> None:
        """Nobody waits for these any more: what they asked for is stale, also what is computed now."""
        for page in pages:
            if page in self._latest:
                self._count += 1
                self._latest[page] = self._count

    def alone(self, work: Callable[[], T]) -> T:
        """What ``work`` gives, called in the one thread too; for another thread, which waits."""
        return self._thread.submit(work).result()

    def _watched(self, page: str, ticket: int, work: Callable[[], T]) -> T:
        def look(share: float) -> None:
            if self._latest.get(page, ticket) != ticket:
                self.dropped += 1
                raise Stale

        with spans.listening(look):
            return work()
