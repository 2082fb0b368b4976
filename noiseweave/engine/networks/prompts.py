"""What a text-to-image model is asked for. Free of torch, so that ``--help`` is quick."""

from __future__ import annotations

from dataclasses import dataclass

from noiseweave.engine.checks import check


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One picture to draw.

    Args:
        text: what the picture shows; "" draws without words.
        key: what its random numbers come from, together with the job's seed: equal keys start from the same
            noise, whatever the words.
        other: a second text that is mixed in.
        mix: share of ``other``, 0 to 1: 0 draws text, 1 draws other.
        negative: what the picture keeps away from; it takes the place of "no words" in the guidance.
    """

    text: str
    key: str
    other: str | None = None
    mix: float = 0.0
    negative: str = ""

    def __post_init__(self) -> None:
        check(0 <= self.mix <= 1, "prompt.mix", self.mix, "0 to 1")
        check(
            self.mix == 0 or self.other is not None, "prompt.mix", self.mix, "0 where there is no other text"
        )
