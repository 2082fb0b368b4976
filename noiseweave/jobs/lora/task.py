"""What travels to lora's workers."""

from __future__ import annotations

from dataclasses import dataclass

from noiseweave.jobs.lora.config import Config
from noiseweave.jobs.lora.input import Source


@dataclass(frozen=True, kw_only=True)
class Task:
    """All that a worker needs to know.

    Attributes:
        threads: torch threads on a CPU.
        workers: that the step is divided among.
    """

    config: Config
    source: Source
    threads: int
    workers: int
