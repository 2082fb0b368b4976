"""What a user may say of studio."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from noiseweave.engine.checks import check
from noiseweave.engine.networks.recipes import UNNAMED, ModelConfig, check_named

POSITIONAL = "input"
POSITIONAL_HELP = "The pictures need no flag: noiseweave studio my/photos --model.name NAME"
USUAL = {
    "input and output": ("input", "output", "runs"),
    "what it does": ("port", "cache_mib", "upload_mib", "max_pixels"),
    "model": ("model.name", "model.lora", "size"),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """A page on this machine, 127.0.0.1 alone, where pictures are fused, edited, repaired and drawn live.

    Args:
        input: local folder of pictures, or shards, that the page offers pairs of; null offers none.
        output: local folder that the page saves to, what a command of its own needs; its runs write below it.
        runs: local folder below which the page shows what jobs wrote; output lies in it. null takes output.
        port: of the page.
        cache_mib: MiB of noise maps, and of repairs, that are kept, of all who look at the page; the least recently
            used leave first.
        upload_mib: MiB that a picture's file may have.
        max_pixels: that a picture may have.
        size: side of the pictures in pixels, for a latent model; null takes what the model was made for.
        model: the diffusion model.
    """

    input: str | None = None
    output: str = "out/studio"
    runs: str | None = None
    port: int = 7860
    cache_mib: float = 512
    upload_mib: float = 32
    max_pixels: int = 64_000_000
    size: int | None = None
    model: ModelConfig = UNNAMED

    def __post_init__(self) -> None:
        check_named(self.model)
        local = bool(self.output.strip()) and "://" not in self.output
        check(local, "output", self.output, "a local folder")
        if self.runs is not None:
            inner, outer = (os.path.abspath(os.path.expanduser(path)) for path in (self.output, self.runs))
            inside = "://" not in self.runs and os.path.commonpath([inner, outer]) == outer
            check(inside, "runs", self.runs, f"a local folder that output={self.output!r} lies in")
        check(1 <= self.port <= 65535, "port", self.port, "1 to 65535")
        check(0 <= self.cache_mib < math.inf, "cache_mib", self.cache_mib, "0 or more")
        check(0 < self.upload_mib <= 1024, "upload_mib", self.upload_mib, "above 0, at most 1024")
        check(1 <= self.max_pixels <= 1 << 30, "max_pixels", self.max_pixels, "1 to 1073741824")
