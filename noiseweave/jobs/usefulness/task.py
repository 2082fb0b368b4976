"""What travels to the workers of evaluate usefulness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from noiseweave.engine.records import JsonMapping
from noiseweave.engine.usefulness.comparison import Pictures
from noiseweave.engine.usefulness.recipes import Method
from noiseweave.jobs.usefulness.config import Config, made_tag


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the flows share.

    Attributes:
        data: input and test, as Pictures.
        few: (per_class, subset) -> the labelled pictures.
        classes: of the input.
    """

    config: Config
    data: JsonMapping
    few: Mapping[tuple[int, int], Pictures]
    classes: int

    @property
    def making(self) -> dict[str, Method]:
        """What is made: ``made_tag`` -> a method that makes it."""
        return {made_tag(m): m for m in self.config.methods.values() if m.made != "none"}

    def method(self, tagged: str) -> Method:
        """The method of a tag."""
        return self.config.methods[tagged.rpartition("@")[0]]

    @property
    def drawing(self) -> bool:
        """Whether a generator is needed."""
        return any(m.drawn for m in self.config.methods.values())

    @property
    def guessing(self) -> bool:
        """Whether the pool's pictures are guessed."""
        wanted = self.drawing or any(m.guesses for m in self.config.methods.values())
        return wanted and self.config.protocol == "prior"
