"""Randomness from (seed, key) alone: a result never depends on batch, worker or GPU count."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def seed_of(seed: int, *key: object) -> int:
    """A 63-bit seed that is a pure function of ``seed`` and the parts of ``key``.

    Parts are length-prefixed before hashing, so ("a", "bc") and ("ab", "c") differ.
    """
    h = hashlib.blake2b(digest_size=8)
    for part in (seed, *key):
        text = str(part).encode()
        h.update(len(text).to_bytes(8, "big") + text)
    return int.from_bytes(h.digest(), "big") >> 1


def generator(seed: int, *key: object) -> torch.Generator:
    """A CPU generator for (seed, key): the same numbers whatever device the model is on."""
    import torch

    return torch.Generator("cpu").manual_seed(seed_of(seed, *key))


def rng(seed: int, *key: object) -> random.Random:
    """Python's own generator for (seed, key), for draws of single numbers and choices."""
    return random.Random(seed_of(seed, *key))
