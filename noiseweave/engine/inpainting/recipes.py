"""What a user can choose about inpainting. Free of torch, so that ``--help`` is quick."""

from __future__ import annotations

from dataclasses import dataclass

from noiseweave.engine.checks import check
from noiseweave.engine.networks.recipes import TextSampler


@dataclass(frozen=True, kw_only=True)
class InpaintRecipe:
    """How holes are filled.

    Args:
        steps: of the sampler, at most as many as the model was trained with. RePaint goes back and takes
            some of them again.
        guidance: classifier-free guidance scale (Ho & Salimans, arXiv 2207.12598) of a model that reads
            prompts; 1 is off, and then a negative prompt has no effect. Other models ignore it. null takes 5; 7 of
            SD3, 30 of FLUX.1 Fill, 3.5 of FLUX.1 dev, 4 of Qwen-Image, 1 of FLUX.1 schnell.
        strength: share of the steps that are taken, above 0 to 1. 1 never looks at what is inside the hole;
            less starts from it, so the repair stays near to it.
        sampler: of a model made for inpainting: dpm-solver++, ddim, ddpm, euler, or pipeline, the scheduler
            that its folder names; FLUX.1 Fill has Euler's steps alone. RePaint is ancestral always.
        jump_length: RePaint's j: steps that a jump goes back (Lugmayr et al., arXiv 2201.09865).
        resample: RePaint's r: times that each stretch of jump_length steps is walked; 1 is replacement alone.
    """

    steps: int = 50
    guidance: float | None = None
    strength: float = 1.0
    sampler: TextSampler = "dpm-solver++"
    jump_length: int = 10
    resample: int = 5

    def __post_init__(self) -> None:
        check(1 <= self.steps <= 100_000, "inpaint.steps", self.steps, "1 to 100000")
        check(1 <= self.scale <= 100, "inpaint.guidance", self.guidance, "1 (off) to 100, or null")
        check(0 < self.strength <= 1, "inpaint.strength", self.strength, "above 0, at most 1")
        check(
            self.kept >= 1,
            "inpaint.strength",
            self.strength,
            f"with {self.steps} steps at least one is taken",
        )
        check(self.jump_length >= 1, "inpaint.jump_length", self.jump_length, "1 or more")
        check(1 <= self.resample <= 100, "inpaint.resample", self.resample, "1 (off) to 100")

    @property
    def scale(self) -> float:
        """Of the guidance."""
        return 5.0 if self.guidance is None else self.guidance

    @property
    def kept(self) -> int:
        """Steps that are taken, the last ones: as diffusers' pipelines count them."""
        return min(int(self.steps * self.strength), self.steps)


def repaint_levels(steps: int, jump_length: int, resample: int) -> list[int]:
    """The levels of noise that RePaint visits: from ``steps``, noise, to 0, clean.

    One lower is a step of the model; a jump up adds the noise of ``jump_length`` levels at once. From levels 1,
    1 + j, 1 + 2j ... it jumps r - 1 times (arXiv 2201.09865, appendix B, whose t is the level less 1).
    """
    left = dict.fromkeys(range(1, steps - jump_length + 1, jump_length), resample - 1)
    levels = [steps]
    while levels[-1] > 0:
        level = levels[-1] - 1
        levels.append(level)
        if left.get(level, 0) > 0:
            left[level] -= 1
            levels.append(level + jump_length)
    return levels
