"""Noise -> pictures: ancestral DDPM, DDIM, DPM-Solver++ (diffusers' schedulers), flow ODEs (torchdiffeq's solvers).

x is what the network sees, B pictures; a belief is the x_0 that it predicts on the way. Flow time t is that of
Lipman et al. (arXiv 2210.02747): 0 noise, 1 data; the network is conditioned on sigma = 1 - t.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine import spans
from noiseweave.engine.checks import check_steps
from noiseweave.engine.networks import latents, paths
from noiseweave.engine.networks.base_models import BaseModel, pictures_of
from noiseweave.engine.networks.conditioning import guide
from noiseweave.engine.networks.micro_batch import MicroBatch
from noiseweave.engine.networks.protocols import Scheduler
from noiseweave.engine.records import Json
from noiseweave.engine.sampling.recipes import SamplerRecipe, sampler_name
from noiseweave.engine.seeding import generator
from noiseweave.engine.training.objectives import TIME

NOISE_SCHEDULE = ("ddpm", "ddim", "dpm-solver++")
FLOW = {
    "euler": "euler",
    "midpoint": "midpoint",
    "heun": "heun2",
    "dopri5": "dopri5",
}  # name -> torchdiffeq's
LAST = 0.01  # of linear mixing's way that dopri5 leaves to one Euler step
LEAST_WEIGHT = 1e-3  # w of linear mixing below which its velocity (x - x_0) / w is not formed

Predict = Callable[[Tensor, Tensor], Tensor]
"""predict(x_BCHW, t: a number) -> the network's output, guided, float32."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What came of a batch.

    Attributes:
        image_BHWC: uint8 [B, H, W, C].
        beliefs_KBHWC: uint8 [K, B, H, W, C], the predicted clean pictures on the way, or None.
        calls: network evaluations of one picture, guided ones counted once.
    """

    image_BHWC: np.ndarray
    beliefs_KBHWC: np.ndarray | None
    calls: int


def first_noise(model: BaseModel, keys: Sequence[object], seed: int) -> tuple[Tensor, list[torch.Generator]]:
    """Each picture's first noise, from (seed, key) alone, and the generators that its later noise comes from."""
    generators = [generator(seed, "sample", key) for key in keys]
    return torch.stack([torch.randn(model.noise_shape, generator=g) for g in generators]), generators


@torch.inference_mode()
def draw(
    model: BaseModel,
    keys: Sequence[object],
    label_B: Tensor | None,
    recipe: SamplerRecipe,
    seed: int,
    kept: int = 0,
) -> Drawn:
    """Draw one picture for each key.

    Args:
        label_B: int64 [B] in 0..classes, ``classes`` meaning none; None for a model without classes.
        kept: beliefs to keep, evenly spread over the sampler's steps; 0 keeps none.
    """
    x, generators = first_noise(model, keys, seed)
    x = x.to(model.device)
    name = sampler_name(model.kind, recipe)
    if name == "none":
        return Drawn(image_BHWC=pictures_of(model, decoded(model, x)), beliefs_KBHWC=None, calls=1)
    guidance = 1.0 if recipe.guidance is None else recipe.guidance
    predict = GuidedNetwork(model, label_B, guidance, recipe.guidance_interval)
    beliefs = Beliefs(model, kept)
    if name in FLOW:
        x = flow(velocity_of(model, predict), x, FLOW[name], recipe, beliefs, model.kind)
    else:
        x = diffusion(predict, scheduler_of(model, name, recipe), x, recipe, generators, beliefs)
    return Drawn(image_BHWC=pictures_of(model, x), beliefs_KBHWC=beliefs.picked(), calls=predict.calls)


def decoded(model: BaseModel, z_BD: Tensor) -> Tensor:
    """A vae's or dcgan's codes -> pictures in [-1, 1]."""
    network = model.network.decode if model.kind == "vae" else model.network
    return MicroBatch(lambda z: network(z.to(model.dtype)).float(), model.micro_batch, model.device)(z_BD)


class GuidedNetwork:
    """The network with classifier-free guidance (Ho & Salimans, arXiv 2207.12598).

    Both halves in one call; no null half where guidance is 1, and at noise levels outside the interval.

    Args:
        label_B: as of ``draw``.
        interval: lowest and highest sigma that is guided (Kynkäänniemi et al., arXiv 2404.07724).
    """

    def __init__(
        self,
        model: BaseModel,
        label_B: Tensor | None,
        guidance: float,
        interval: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        assert (label_B is None) == (model.classes == 0)
        self.model, self.label, self.guidance, self.interval = model, label_B, guidance, interval
        self.calls = 0
        self.parts = MicroBatch(self._network, model.micro_batch, model.device)

    def __call__(self, x_BCHW: Tensor, t: Tensor | float) -> Tensor:
        """The network's output, guided, float32 [B, ...]; t is a number, one for all."""
        self.calls += 1
        if self.label is None:
            return self.parts(x_BCHW, self._times(x_BCHW, t), None)
        label = self.label.to(x_BCHW.device)
        if self.guidance == 1 or not self._within(t):
            return self.parts(x_BCHW, self._times(x_BCHW, t), label)
        twice, null = torch.cat([x_BCHW, x_BCHW]), torch.full_like(label, self.model.classes)
        out = self.parts(twice, self._times(twice, t), torch.cat([label, null]))
        conditional, unconditional = out.chunk(2)
        return guide(unconditional, conditional, self.guidance)

    def _within(self, t: Tensor | float) -> bool:
        if self.interval == (0.0, 1.0):  # the noisiest sigma may be rounded
            return True
        sigma = float(paths.sigma_of(self.model.scheduler, torch.as_tensor(t, device="cpu")))
        return self.interval[0] <= sigma <= self.interval[1]

    def _times(self, x: Tensor, t: Tensor | float) -> Tensor:
        return torch.full((len(x),), float(t), device=x.device)

    def _network(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        return self.model.network(x.to(self.model.dtype), t, class_labels=label, return_dict=False)[0].float()


class Beliefs:
    """The clean pictures that the network believed in at each step, as uint8."""

    def __init__(self, model: BaseModel, kept: int) -> None:
        self.model, self.kept = model, kept
        self.seen: list[np.ndarray] = []

    def add(self, x0_BCHW: Tensor) -> None:
        """Keep the predicted x_0 of a step, [B, C, H, W], if any are to be kept."""
        if self.kept:
            self.seen.append(pictures_of(self.model, x0_BCHW))

    def picked(self) -> np.ndarray | None:
        """``kept`` of them, the first and the last among them; fewer when there were fewer steps."""
        if not self.kept:
            return None
        spread = np.linspace(0, len(self.seen) - 1, min(self.kept, len(self.seen))).round().astype(int)
        return np.stack([self.seen[i] for i in spread])


def scheduler_of(model: BaseModel, name: str, recipe: SamplerRecipe) -> Scheduler:
    """diffusers' scheduler, with the noise schedule and target that the model was trained with."""
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

    config = model.scheduler.config
    check_steps("sampler.steps", recipe.steps, int(config.num_train_timesteps))
    if name != "dpm-solver++":
        kind: Any = DDPMScheduler if name == "ddpm" else DDIMScheduler
        return kind.from_config(config, timestep_spacing=recipe.spacing)
    # it has no clip_sample; thresholding at 1 is the same clip
    clip = bool(config.clip_sample)
    return DPMSolverMultistepScheduler.from_config(
        config,
        timestep_spacing=recipe.spacing,
        algorithm_type="dpmsolver++",
        solver_order=2,
        thresholding=clip,
        sample_max_value=1.0,
    )


def diffusion(
    predict: Predict,
    scheduler: Scheduler,
    x: Tensor,
    recipe: SamplerRecipe,
    generators: list[torch.Generator],
    beliefs: Beliefs,
) -> Tensor:
    """The reverse process, as diffusers' scheduler steps it."""
    scheduler.set_timesteps(recipe.steps)
    extra: Json = {}
    if "DDIM" in type(scheduler).__name__:
        # the noise that belongs to the clipped x_0, as in Dhariwal & Nichol's code (arXiv 2105.05233): without it
        # guided pictures of many steps drift away (docs/base_models.md)
        extra = {"eta": recipe.eta, "use_clipped_model_output": True}
    x = x * scheduler.init_noise_sigma
    for t in spans.steps(scheduler.timesteps):
        step = scheduler.step(predict(x, t), t, x, generator=generators, **extra)
        # DPM-Solver++ keeps its predictions of x_0 to itself
        reported = "pred_original_sample" in step
        beliefs.add(step.pred_original_sample if reported else scheduler.model_outputs[-1])
        x = step.prev_sample
    return x


def velocity_of(model: BaseModel, predict: Predict) -> Predict:
    """dx/d sigma: a flow's own output, or (x - x_0) / w from the x_0 of linear mixing, whose w is sigma.

    At w = 0 the latter would be an error divided by nothing: there the velocity before it is taken, which makes
    the last step of Heun Euler's (as Karras et al., arXiv 2206.00364, algorithm 1).
    """
    if model.kind == "flow":
        return lambda x, sigma: predict(x, TIME * sigma)
    before: list[Tensor] = []

    def velocity(x: Tensor, w: Tensor) -> Tensor:
        if float(w) > 0 or not before:
            before[:] = [(x - predict(x, TIME * w)) / max(float(w), LEAST_WEIGHT)]
        return before[0]

    return velocity


def flow(
    velocity: Predict, x: Tensor, method: str, recipe: SamplerRecipe, beliefs: Beliefs, model_kind: str
) -> Tensor:
    """Integrate dx/dt = -velocity(x, sigma = 1 - t) from t = 0, noise, to t = 1, data."""
    from torchdiffeq import odeint

    def field(t: Tensor, x: Tensor) -> Tensor:
        with spans.span(float(t), float(t)):
            v = velocity(x, 1 - t)
        beliefs.add(x - (1 - t) * v)
        return -v

    def worst(y: Tensor) -> Tensor:
        # the error of the worst picture, not of the mean one: none is drawn worse for its neighbours
        return y.view(len(x), -1).square().mean(1).sqrt().max()

    # dopri5 would have to resolve (x - x_0) / w near w = 0; its last step to x_0 is Euler's
    last = LAST if method == "dopri5" and model_kind == "linear_mixing" else 0.0
    ends = torch.tensor([0.0, 1.0 - last], device=x.device)
    # without step_t it would step past the end, where no network was trained, and come back by interpolation
    adaptive = {"norm": worst, "step_t": ends[-1:]}
    # torchdiffeq's own grid of a step size may end on one more, tiny step
    fixed = {"grid_constructor": lambda f, x, t: torch.linspace(0, 1, recipe.steps + 1, device=x.device)}
    options: Json = adaptive if method == "dopri5" else fixed
    x = odeint(field, x, ends, method=method, rtol=recipe.tolerance, atol=recipe.tolerance, options=options)[
        -1
    ]
    return x + last * field(ends[-1], x) if last else x


@torch.inference_mode()
def denoise_once(
    model: BaseModel, image_BHWC: np.ndarray, level: float, keys: Sequence[object], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pictures mixed with noise, and what the network makes of them in one call: uint8 [B, H, W, C] both.

    Args:
        level: share of noise, 0 to 1: w of linear mixing, sigma of a flow; for a ddpm the time step's share
            of the schedule.
    """
    x0 = latents.to_pixels(image_BHWC, model.device)
    x0 = x0 if model.encoder is None else latents.encode(model.encoder, x0)
    eps = first_noise(model, keys, seed)[0].to(x0)
    predict = GuidedNetwork(model, _nulls(model, len(x0)), 1.0)
    if model.kind == "ddpm":
        t = torch.tensor(round(level * (int(model.scheduler.config.num_train_timesteps) - 1)))
        noisy = model.scheduler.add_noise(x0, eps, t[None])
        belief = model.scheduler.step(predict(noisy, t), int(t), noisy).pred_original_sample
    else:
        noisy = (1 - level) * x0 + level * eps
        belief = noisy - level * velocity_of(model, predict)(noisy, torch.tensor(level))
    return pictures_of(model, noisy), pictures_of(model, belief)


def _nulls(model: BaseModel, count: int) -> Tensor | None:
    return torch.full((count,), model.classes) if model.classes else None
