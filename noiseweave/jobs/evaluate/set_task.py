"""What travels to the workers that read a set of pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from noiseweave.engine.records import JsonMapping
from noiseweave.jobs.evaluate.config import Config
from noiseweave.jobs.evaluate.pictures import PictureSet
from noiseweave.jobs.evaluate.statistics import Statistics


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the workers need to know.

    Attributes:
        sets: the sides that are pictures.
        statistics: the sides that are statistics, by name.
        space: identity of the feature space.
        label: what it is called.
        side: of the pictures that its extractor wants; None takes them whole.
        classes: whether class probabilities are kept too.
    """

    config: Config
    output: str
    sets: tuple[PictureSet, ...]
    statistics: Mapping[str, Statistics]
    space: JsonMapping
    label: str
    side: int | None
    classes: bool
