"""Recipes of sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from noiseweave.engine.checks import check

SAMPLERS = ("auto", "ddpm", "ddim", "dpm-solver++", "euler", "midpoint", "heun", "dopri5")
Sampler = Literal["auto", "ddpm", "ddim", "dpm-solver++", "euler", "midpoint", "heun", "dopri5"]


@dataclass(frozen=True, kw_only=True)
class SamplerRecipe:
    """How a base model draws.

    Args:
        name: ddpm (ancestral), ddim or dpm-solver++ for a noise schedule; euler, midpoint, heun or dopri5
            (torchdiffeq's solvers) for a flow; auto takes ddim, or euler for a flow. A vae and a dcgan need
            none.
        steps: of the sampler; dopri5 picks its own from tolerance. euler calls the network once a step,
            midpoint and heun twice.
        eta: noise of ddim, 0 (none) to 1 (as much as ddpm).
        guidance: classifier-free guidance scale; 1 is off. Above 1 each step has two network calls. null takes the
            model's own (guidance in its noiseweave.json), or 1.
        guidance_interval: lowest and highest noise at which there is guidance (Kynkäänniemi et al., arXiv 2404.07724),
            as prompt.guidance_interval has it: sigma of alpha picture + sigma noise, 0 to 1. A step outside
            costs one call.
        tolerance: of dopri5, relative and absolute.
        spacing: which time steps of a schedule are taken: trailing ends on the noisiest (Lin et al. 2023),
            leading on the cleanest (Ho et al. 2020).
    """

    name: Sampler = "auto"
    steps: int = 50
    eta: float = 0.0
    guidance: float | None = None
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    tolerance: float = 1e-4
    spacing: Literal["trailing", "leading"] = "trailing"

    def __post_init__(self) -> None:
        check(1 <= self.steps <= 100_000, "sampler.steps", self.steps, "1 to 100000")
        check(0 <= self.eta <= 1, "sampler.eta", self.eta, "0 to 1")
        check(0 <= (self.guidance or 0) <= 100, "sampler.guidance", self.guidance, "0 to 100")
        low, high = self.guidance_interval
        within = "0 to 1, the lower end first"
        check(0 <= low <= high <= 1, "sampler.guidance_interval", self.guidance_interval, within)
        check(0 < self.tolerance < 1, "sampler.tolerance", self.tolerance, "above 0, below 1")


OF_NOISE_SCHEDULE = ("ddpm", "ddim", "dpm-solver++")
OF_FLOW = ("euler", "midpoint", "heun", "dopri5")


def sampler_name(kind: str, recipe: SamplerRecipe, field: str = "sampler") -> str:
    """The sampler that a recipe means for a kind of base model; "none" for a vae or dcgan.

    Raises:
        ValueError: it is not one for such a model.
    """
    allowed = {"ddpm": OF_NOISE_SCHEDULE, "vae": (), "dcgan": ()}.get(kind, OF_FLOW)
    if recipe.name == "auto":
        return {"ddpm": "ddim", "vae": "none", "dcgan": "none"}.get(kind, "euler")
    if recipe.name not in allowed:
        what = f"auto, {', '.join(allowed)}" if allowed else "auto"
        raise ValueError(f"{field}.name={recipe.name!r}: for a {kind} model it is one of {what}")
    return recipe.name
