"""Recipes of inversion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from noiseweave.engine.checks import check

SolverName = Literal["ddim", "sde-dpm-solver++"]

SOLVER_NAMES: tuple[SolverName, ...] = ("ddim", "sde-dpm-solver++")


@dataclass(frozen=True, kw_only=True)
class InversionRecipe:
    """Edit-friendly inversion (Huberman-Spiegelglas et al., CVPR 2024, arXiv 2304.06140), of DDPMs and of flows.

    Args:
        num_steps: time steps of the whole chain.
        skip: noisiest steps left out, so num_steps - skip are kept; more of them keep closer to the pictures.
        noise: independent draws fresh x_t noise for each image; shared uses the same for all images of a
            job, so that noise maps of different images differ only by content.
        sampler: the reverse process that is inverted and replayed. ddim is of order 1, the paper's; of a flow it is
            the same step on the straight path. sde-dpm-solver++ is of order 2, for chains of 20 to 25 steps
            (arXiv 2211.01095, 2311.16711).
        eta: noise of each step, as a share of the posterior's: 1 is DDPM, of the paper, 0 the ODE (DDIM, Euler of a
            flow, or DPM-Solver++). A picture comes back with any; fresh noise is so much weaker.
        noise_shift: for chains of 3 to 8 steps: each noisy version of a picture is drawn with less noise than the
            network is told of, by so many steps, 0 to 1 (arXiv 2408.00735 has 1). null takes 1 of a model that is
            distilled for few steps (SD-Turbo, SDXL-Turbo, LCM, FLUX.1 schnell), and 0 of others.
    """

    num_steps: int = 50
    skip: int = 10
    noise: Literal["independent", "shared"] = "independent"
    sampler: SolverName = "ddim"
    eta: float = 1.0
    noise_shift: float | None = None

    def __post_init__(self) -> None:
        check(1 <= self.num_steps <= 1000, "inversion.num_steps", self.num_steps, "1 to 1000")
        check(0 <= self.skip < self.num_steps, "inversion.skip", self.skip, "0 to num_steps - 1")
        allowed = f"one of {', '.join(SOLVER_NAMES)}"
        check(self.sampler in SOLVER_NAMES, "inversion.sampler", self.sampler, allowed)
        check(0 <= self.eta <= 1, "inversion.eta", self.eta, "0 to 1")
        shift, name = self.noise_shift or 0.0, "inversion.noise_shift"
        check(0 <= shift <= 1, name, shift, "0 to 1, in steps, or null")
        noisy = "below 1, for num_steps - skip is 1 step, which would be drawn without noise"
        check(shift < 1 or self.kept > 1, name, shift, noisy)

    @property
    def kept(self) -> int:
        """Steps that are taken."""
        return self.num_steps - self.skip
