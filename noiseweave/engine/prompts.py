"""What a text-to-image model is asked for. Free of torch, so that ``--help`` is quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from noiseweave.engine.recipes import check

TextSampler = Literal["dpm-solver++", "ddim", "ddpm", "euler", "pipeline"]


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


@dataclass(frozen=True, kw_only=True)
class TextRecipe:
    """How a text-to-image model draws.

    Args:
        sampler: dpm-solver++ (second order multistep, Lu et al., arXiv 2211.01095), ddim, ddpm (ancestral),
            euler, or pipeline, the scheduler that the model's folder names.
        steps: of the sampler, at most as many as the model was trained with.
        guidance: classifier-free guidance scale (Ho & Salimans, arXiv 2207.12598); 1 is off, and then a
            negative prompt has no effect. Above 1 each step has two network calls.
        height: pixels, a multiple of 8; null takes what the model was made for.
        width: pixels, a multiple of 8; null takes what the model was made for.
        eta: noise of ddim, 0 (none) to 1 (as much as ddpm).
    """

    sampler: TextSampler = "dpm-solver++"
    steps: int = 25
    guidance: float = 7.5
    height: int | None = None
    width: int | None = None
    eta: float = 0.0

    def __post_init__(self) -> None:
        check(1 <= self.steps <= 100_000, "text.steps", self.steps, "1 to 100000")
        check(1 <= self.guidance <= 100, "text.guidance", self.guidance, "1 (off) to 100")
        for name in ("height", "width"):
            value = getattr(self, name)
            fits = value is None or (8 <= value <= 8192 and value % 8 == 0)
            check(fits, f"text.{name}", value, "a multiple of 8, 8 to 8192, or null")
        check(0 <= self.eta <= 1, "text.eta", self.eta, "0 to 1")
        noisy = self.eta == 0 or self.sampler in ("ddim", "pipeline")
        check(noisy, "text.eta", self.eta, f"0, for {self.sampler} has none; it belongs to ddim")
