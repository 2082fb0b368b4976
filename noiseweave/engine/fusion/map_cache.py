"""A bounded cache of noise maps: sweeps over modes and ratios invert each picture once.

A map's key is the SHA-256 of everything that it is a function of, so the same key is the same map, on any day
and in any process (but for the last bits of a network that adds up in another order in another batch). The
least recently used maps leave memory first, for a store if there is one. The store is handed in: this layer
opens no file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from noiseweave.engine.records import NoiseMaps

FIELDS = ("x_T_CHW", "residual_TCHW", "timesteps_T")
DIGEST = "sha256"


class Store(Protocol):
    """Bytes by key, such as cluster.map_store.MapStore. What it cannot keep it may drop."""

    def get(self, key: str) -> bytes | None:
        """The bytes of a key, or None."""

    def put(self, key: str, data: bytes) -> None:
        """Keep the bytes of a key."""

    def remove(self, key: str) -> None:
        """Drop the bytes of a key."""

    def __contains__(self, key: str) -> bool: ...


def map_key(image_HWC: np.ndarray, model: str, *recipe: Any, **more: object) -> str:
    """64 hex digits: all that a noise map is a function of.

    Args:
        image_HWC: uint8, the picture as the model gets it.
        model: fingerprint of the model's files.
        recipe: frozen dataclasses that decide the map: inversion, precision, sampler.
        more: numbers and strings that do too: seed, the picture's key when noise is independent, prompt, guidance.
    """
    what = {
        "model": model,
        "image": [list(image_HWC.shape), str(image_HWC.dtype)],
        "recipe": [[type(r).__name__, dataclasses.asdict(r)] for r in recipe],
        "more": more,
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    digest.update(np.ascontiguousarray(image_HWC).tobytes())
    return digest.hexdigest()


class MapCache:
    """Noise maps by key, on the CPU, at most ``limit`` bytes of them.

    Attributes:
        limit: bytes of tensors held in memory; 0 holds none and goes to the store each time.
        store: where maps go that leave memory, or None.
        hits, misses, spilled, damaged: counts of what happened so far.
    """

    def __init__(self, limit: int, store: Store | None = None) -> None:
        self.limit, self.store = limit, store
        self.hits = self.misses = self.spilled = self.damaged = 0
        self._maps: OrderedDict[str, NoiseMaps] = OrderedDict()  # the least recently used first
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._maps)

    @property
    def bytes_held(self) -> int:
        """Bytes of tensors in memory."""
        return self._bytes

    def get(self, key: str, device: torch.device | str = "cpu") -> NoiseMaps | None:
        """The map of a key bit for bit as it was put, or None. Not to be changed in place."""
        maps = self._maps.get(key)
        if maps is None:
            maps = self._load(key)
            if maps is not None:
                self._hold(key, maps)
        else:
            self._maps.move_to_end(key)
        self.hits, self.misses = self.hits + (maps is not None), self.misses + (maps is None)
        return maps and _moved(maps, device)

    def put(self, key: str, maps: NoiseMaps) -> None:
        """Keep a copy of a map."""
        if key not in self._maps:
            self._hold(key, _copied(maps))

    def flush(self) -> None:
        """Write to the store whatever is only in memory, for another process or day."""
        for key, maps in self._maps.items():
            self._spill(key, maps)

    def _hold(self, key: str, maps: NoiseMaps) -> None:
        self._maps[key] = maps
        self._bytes += size_of(maps)
        while self._bytes > self.limit:
            old_key, old = self._maps.popitem(last=False)
            self._bytes -= size_of(old)
            self._spill(old_key, old)

    def _spill(self, key: str, maps: NoiseMaps) -> None:
        if self.store is not None and key not in self.store:
            self.store.put(key, pack(key, maps))
            self.spilled += 1

    def _load(self, key: str) -> NoiseMaps | None:
        data = self.store.get(key) if self.store is not None else None
        if data is None or self.store is None:
            return None
        maps = unpack(key, data)
        if maps is None:
            self.store.remove(key)
            self.damaged += 1
        return maps


def cached(
    cache: MapCache,
    keys: Sequence[str],
    invert: Callable[[list[int]], list[NoiseMaps]],
    device: torch.device | str = "cpu",
) -> list[NoiseMaps]:
    """The maps of several pictures, those that the cache lacks inverted in one batch.

    Args:
        keys: one for each picture; equal keys are inverted once.
        invert: positions in ``keys`` -> their maps, in that order; not called when none is lacking.
    """
    found = {key: cache.get(key, device) for key in dict.fromkeys(keys)}
    lacking = [keys.index(key) for key, maps in found.items() if maps is None]
    for position, made in zip(lacking, invert(lacking) if lacking else [], strict=True):
        found[keys[position]] = made
        cache.put(keys[position], made)
    return [maps for key in keys if (maps := found[key]) is not None]


def size_of(maps: NoiseMaps) -> int:
    """Bytes of a map's tensors."""
    return sum(getattr(maps, name).nbytes for name in FIELDS)


def pack(key: str, maps: NoiseMaps) -> bytes:
    """A map as safetensors, with the digest of its key and contents as one more tensor."""
    tensors = {name: getattr(maps, name).cpu().contiguous() for name in FIELDS}
    return safetensors.save({**tensors, DIGEST: _digest(key, tensors)})


def unpack(key: str, data: bytes) -> NoiseMaps | None:
    """The map that ``pack`` made for this key; None when the bytes are damaged or another key's."""
    try:
        tensors = safetensors.load(data)
    except (SafetensorError, ValueError, KeyError):  # cut short, not safetensors, or an unknown dtype
        return None
    digest = tensors.pop(DIGEST, None)
    if digest is None or set(tensors) != set(FIELDS) or not torch.equal(digest, _digest(key, tensors)):
        return None
    return NoiseMaps(**tensors)


def _digest(key: str, tensors: dict[str, Tensor]) -> Tensor:
    digest = hashlib.sha256(key.encode())
    for name in FIELDS:
        t = tensors[name]
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        digest.update(t.contiguous().flatten().view(torch.uint8).numpy().data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _copied(maps: NoiseMaps) -> NoiseMaps:
    """Its own memory on the CPU: a view would keep the whole batch that it was cut from."""
    return NoiseMaps(
        **{
            name: getattr(maps, name).detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            for name in FIELDS
        }
    )


def _moved(maps: NoiseMaps, device: torch.device | str) -> NoiseMaps:
    """x_T and residuals on a device; time steps stay on the CPU, as a schedule's do."""
    return NoiseMaps(
        x_T_CHW=maps.x_T_CHW.to(device),
        residual_TCHW=maps.residual_TCHW.to(device),
        timesteps_T=maps.timesteps_T,
    )
