"""What is kept in memory for the next request, of all pages: so many bytes, the least recently used leave first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Held(Generic[K, V]):
    """Values by key, at most ``limit`` bytes of them."""

    def __init__(self, limit: int) -> None:
        self.limit, self.size = limit, 0
        self._known: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: K) -> V | None:
        """The value, None where it is not held."""
        if key not in self._known:
            return None
        self._known.move_to_end(key)
        return self._known[key][0]

    def put(self, key: K, value: V, size: int) -> V:
        """Hold a value of so many bytes; gives it back."""
        _, before = self._known.pop(key, (None, 0))
        self._known[key] = value, size
        self.size += size - before
        while self.size > self.limit:
            _, (_, gone) = self._known.popitem(last=False)
            self.size -= gone
        return value
