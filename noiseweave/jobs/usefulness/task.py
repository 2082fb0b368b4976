"""What travels to the workers of evaluate usefulness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from noiseweave.engine.records import JsonMapping
from noiseweave.engine.usefulness.data import Pictures
from noiseweave.engine.usefulness.recipes import ClassifierChoice, Method
from noiseweave.jobs.usefulness.config import Config, classifier_tag, made_tag, tag


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the flows share.

    Attributes:
        data: input and test, as Pictures.
        few: (per_class, subset) -> the labelled pictures.
        classes: of the input.
        side: which test pictures these are: a score belongs to them.
    """

    config: Config
    data: JsonMapping
    few: Mapping[tuple[int, int], Pictures]
    classes: int
    side: str

    @property
    def making(self) -> dict[str, Method]:
        """What is made: ``made_tag`` -> a method that makes it."""
        return {made_tag(m): m for m in self.config.methods.values() if m.made != "none"}

    def method(self, tagged: str) -> Method:
        """The method of a tag."""
        return self.config.methods[tagged.rpartition("@")[0]]

    def classifier(self, tagged: str) -> ClassifierChoice:
        """The classifier of a tag."""
        return self.config.classifiers[tagged.rpartition("@")[0]]

    def scored(self, per_class: int, subset: int, name: str, classifier: str, seed: int) -> tuple:
        """A unit of the score flow: a method's name and a classifier's, of the config."""
        c = self.config
        return per_class, subset, tag(c, name), classifier_tag(c, classifier), self.side, seed

    @property
    def drawing(self) -> bool:
        """Whether a generator is needed."""
        return any(m.drawn for m in self.config.methods.values())

    @property
    def guessing(self) -> bool:
        """Whether the pool's pictures are guessed."""
        wanted = self.drawing or any(m.guesses for m in self.config.methods.values())
        return wanted and self.config.protocol == "prior"
