"""A network called in parts, which become smaller when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from noiseweave.engine import spans


class MicroBatch:
    """``network(*tensors)`` in parts of at most ``size`` rows; halved for good when a call runs out of memory.

    Attributes:
        size: rows in one call; 0 at the start picks 256 on a GPU and 64 elsewhere.
        calls: rows that went through the network so far.
    """

    def __init__(self, network: Callable[..., Tensor], size: int, device: torch.device | str) -> None:
        self.network = network
        self.size = size or (256 if torch.device(device).type == "cuda" else 64)
        self.calls = 0

    def __call__(self, *rows: Any) -> Tensor:
        """Tensors with equal first dimensions, or None -> the parts' results, joined.

        Raises:
            torch.OutOfMemoryError: a single row does not fit.
        """
        done: list[Tensor] = []
        start, total = 0, len(rows[0])
        while start < total:
            part = slice(start, start + self.size)
            try:
                with spans.part(part.start, part.stop, total):
                    done.append(self.network(*(r if r is None else r[part] for r in rows)))
                start = part.stop
                continue
            except torch.OutOfMemoryError:
                if self.size == 1:
                    raise
            # here and not above: while the exception lives, so does what the failed call had made
            self.size //= 2
            torch.cuda.empty_cache()
        self.calls += total
        return torch.cat(done)
