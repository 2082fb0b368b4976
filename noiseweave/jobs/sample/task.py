"""What travels to sample's workers."""

from __future__ import annotations

from dataclasses import dataclass

from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.recipes import TextRecipe
from noiseweave.engine.records import JsonMapping
from noiseweave.jobs.sample.config import Config


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the workers need to know: plain values.

    Attributes:
        output: absolute folder or URL.
        about: the model's kind, classes, size and channels.
        model_hash: fingerprint of its files.
        sampler: the name of the sampler.
        total: pictures.
        runs: (label, how many) in the order of the pictures, or (): no labels.
        cycle: labels in turn, or ().
        names: of the classes, where the model's folder has them.
        text: of a text-to-image model: how it draws.
        words: of a text-to-image model: what picture i shows, and the words under it on a sheet.
        across: pictures that belong in one row of a sheet.
    """

    config: Config
    output: str
    about: JsonMapping
    model_hash: str
    sampler: str
    total: int
    runs: tuple[tuple[int, int], ...] = ()
    cycle: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    text: TextRecipe | None = None
    words: tuple[tuple[Prompt, str], ...] = ()
    across: int = 8

    def label(self, i: int) -> int | None:
        """The class of picture i."""
        if self.cycle:
            return self.cycle[i % len(self.cycle)]
        for label, count in self.runs:
            if i < count:
                return label
            i -= count
        return None
