"""What a user can choose about a base model and its training, with its checks. Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from noiseweave.engine.checks import check
from noiseweave.engine.networks.recipes import UNETS, Kind

Target = Literal["epsilon", "sample", "v_prediction"]
"""What a ddpm's network gives."""
Curve = Literal["cosine", "linear", "scaled_linear"]
"""How a ddpm's betas grow."""


@dataclass(frozen=True, kw_only=True)
class ModelRecipe:
    """What is trained.

    Args:
        kind: ddpm, linear_mixing, flow, vae or dcgan. ddpm is of Ho et al. 2020, linear_mixing the teaching form
            x = (1 - w) x_0 + w noise, which predicts x_0, and flow conditional flow matching, Lipman et al. 2023.
        classes: number of classes that the network is conditioned on; 0 ignores labels, -1 takes as many as the shards
            have. A picture without a label trains the unconditional half.
        label_dropout: share of labels hidden in training, for classifier-free guidance (Ho & Salimans 2022).
        vae: folder or hub id of a diffusers AutoencoderKL or AutoencoderTiny; the network then works on its
            latents, which are computed once and kept as shards. null works on pixels.
        width: of a vae or dcgan: channels at half the full resolution, doubled at each halving.
        latent: of a vae or dcgan: numbers in the code that a picture is made from.
    """

    kind: Kind = "ddpm"
    classes: int = 0
    label_dropout: float = 0.1
    vae: str | None = None
    width: int = 32
    latent: int = 32

    def __post_init__(self) -> None:
        unet = self.kind in UNETS
        check(self.classes >= -1, "model.classes", self.classes, "0 (no labels), -1 (as the shards) or more")
        check(self.classes == 0 or unet, "model.classes", self.classes, f"0 with model.kind={self.kind}")
        check(0 <= self.label_dropout <= 1, "model.label_dropout", self.label_dropout, "0 to 1")
        check(self.vae is None or unet, "model.vae", self.vae, f"null with model.kind={self.kind}")
        check(self.vae is None or bool(self.vae), "model.vae", self.vae, "a folder, a hub id or null")
        check(1 <= self.width <= 512, "model.width", self.width, "1 to 512")
        check(1 <= self.latent <= 4096, "model.latent", self.latent, "1 to 4096")


@dataclass(frozen=True, kw_only=True)
class ObjectiveRecipe:
    """What it is trained to do.

    Args:
        target: of a ddpm: what the network predicts, epsilon (the noise), sample (x_0) or v_prediction
            (Salimans & Ho 2022).
        min_snr: of a ddpm: gamma of the min-SNR weighting (Hang et al. 2023); 0 is off, 5 is usual.
        coupling: of a flow: which noise goes with which picture, independent or optimal_transport within each
            batch (Tong et al. 2023).
        beta: of a vae: weight of the KL divergence, which is summed over the code, against the squared error,
            which is summed over the picture's values.
        smoothing: of a dcgan: real pictures are labelled 1 - smoothing (Salimans et al. 2016).
    """

    target: Target = "epsilon"
    min_snr: float = 0.0
    coupling: Literal["independent", "optimal_transport"] = "independent"
    beta: float = 1.0
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        check(0 <= self.min_snr < math.inf, "objective.min_snr", self.min_snr, "0 (off) or more")
        check(0 <= self.beta < math.inf, "objective.beta", self.beta, "0 or more")
        check(0 <= self.smoothing < 0.5, "objective.smoothing", self.smoothing, "0 to below 0.5")


@dataclass(frozen=True, kw_only=True)
class UnetRecipe:
    """The shape of diffusers' UNet2DModel.

    Args:
        channels: width of each level, each half as wide and high in pixels as the one before.
        layers: residual blocks in each level.
        attention: levels with self-attention, 0 the full resolution; the middle always has it.
        head: channels of an attention head.
        groups: groups of the normalisation; divides every width.
    """

    channels: tuple[int, ...] = (32, 64, 96)
    layers: int = 1
    attention: tuple[int, ...] = (1, 2)
    head: int = 8
    groups: int = 8

    def __post_init__(self) -> None:
        check(len(self.channels) >= 1, "unet.channels", self.channels, "at least one level")
        check(self.layers >= 1, "unet.layers", self.layers, "1 or more")
        check(self.groups >= 1, "unet.groups", self.groups, "1 or more")
        ok = all(c > 0 and c % self.groups == 0 for c in self.channels)
        check(ok, "unet.channels", self.channels, f"multiples of unet.groups={self.groups}")
        ok = self.head >= 1 and all(c % self.head == 0 for c in self.channels)
        check(ok, "unet.head", self.head, f"a divisor of each of unet.channels={self.channels}")
        ok = all(0 <= a < len(self.channels) for a in self.attention)
        check(ok, "unet.attention", self.attention, f"levels 0 to {len(self.channels) - 1}")


@dataclass(frozen=True, kw_only=True)
class ScheduleRecipe:
    """The noise schedule of a ddpm, saved with the model.

    Args:
        kind: cosine (squaredcos_cap_v2, Nichol & Dhariwal 2021), linear (Ho et al. 2020) or scaled_linear
            (latent diffusion, Rombach et al. 2022).
        timesteps: steps of the whole chain.
        clip_sample: whether samplers clip their estimate of x_0 to [-1, 1]; latents are never clipped.
    """

    kind: Curve = "cosine"
    timesteps: int = 1000
    clip_sample: bool = True

    def __post_init__(self) -> None:
        check(2 <= self.timesteps <= 100_000, "schedule.timesteps", self.timesteps, "2 to 100000")


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """All that a system of networks and losses is built from.

    Attributes:
        model, objective, unet, schedule: the recipes.
        classes: that the network is conditioned on, 0 none.
        size, channels: of the pictures.
        seed: of the first weights.
    """

    model: ModelRecipe
    objective: ObjectiveRecipe
    unet: UnetRecipe
    schedule: ScheduleRecipe
    classes: int
    size: int
    channels: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class OptimizerRecipe:
    """AdamW and its step size.

    Args:
        lr: highest learning rate.
        warmup: steps of the straight line up to it.
        decay: cosine goes down to 0 at the last step, constant stays.
        weight_decay: of AdamW.
        betas: of AdamW.
        clip: largest norm of the gradient; 0 does not clip.
        eight_bit: keep AdamW's averages in 8 bits (Dettmers et al., arXiv 2110.02861); needs bitsandbytes.
    """

    lr: float = 1e-3
    warmup: int = 100
    decay: Literal["cosine", "constant"] = "cosine"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float = 1.0
    eight_bit: bool = False

    def __post_init__(self) -> None:
        check(0 < self.lr < math.inf, "optimizer.lr", self.lr, "above 0")
        check(self.warmup >= 0, "optimizer.warmup", self.warmup, "0 or more")
        check(self.weight_decay >= 0, "optimizer.weight_decay", self.weight_decay, "0 or more")
        check(all(0 <= b < 1 for b in self.betas), "optimizer.betas", self.betas, "0 to below 1")
        check(self.clip >= 0, "optimizer.clip", self.clip, "0 (off) or more")


@dataclass(frozen=True, kw_only=True)
class CheckpointRecipe:
    """What survives a kill.

    Args:
        every: steps between checkpoints; the last step always makes one.
        keep: newest checkpoints kept.
    """

    every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        check(self.every >= 1, "checkpoint.every", self.every, "1 or more")
        check(self.keep >= 1, "checkpoint.keep", self.keep, "1 or more")
