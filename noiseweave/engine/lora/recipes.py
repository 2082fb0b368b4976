"""What a user can choose about LoRA training, with its checks. Free of torch, so that ``--help`` is quick."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from noiseweave.engine.checks import check

ATTENTION = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
)  # the projections of attention in a UNet, as diffusers names them


@dataclass(frozen=True, kw_only=True)
class LoraRecipe:
    """Which weights are trained.

    Args:
        method: lora adds B A to the chosen layers and trains these two small matrices (Hu et al., arXiv
            2106.09685); partial trains the chosen layers themselves.
        rank: of B A, at most the width of each chosen layer.
        alpha: B A is multiplied by alpha / rank; null takes the rank, so by 1.
        dropout: share of a layer's inputs that A does not see in training.
        targets: ends of names of the UNet's linear and convolution layers, such as to_q or ff.net.2.
        text_encoder: whether the text encoders' attention projections are trained too.
    """

    method: Literal["lora", "partial"] = "lora"
    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = ATTENTION
    text_encoder: bool = False

    def __post_init__(self) -> None:
        check(self.rank >= 1, "lora.rank", self.rank, "1 or more")
        positive = self.alpha is None or 0 < self.alpha < math.inf
        check(positive, "lora.alpha", self.alpha, "above 0, or null for the rank")
        check(0 <= self.dropout < 1, "lora.dropout", self.dropout, "0 (off) to below 1")
        named = bool(self.targets) and all(self.targets) and len(set(self.targets)) == len(self.targets)
        check(named, "lora.targets", self.targets, "names of layers, each once")
        alone = self.method == "lora" or not self.text_encoder
        check(alone, "lora.text_encoder", self.text_encoder, "false with lora.method=partial")

    @property
    def scale(self) -> float:
        """alpha / rank."""
        return self.strength / self.rank

    @property
    def strength(self) -> float:
        """alpha."""
        return float(self.rank) if self.alpha is None else self.alpha


@dataclass(frozen=True, kw_only=True)
class LoraObjective:
    """What the weights are trained to do.

    Args:
        min_snr: gamma of the min-SNR weighting (Hang et al., arXiv 2303.09556); 0 is off, 5 is usual.
        noise_offset: standard deviation of a noise that is one number for each picture and channel, added to
            the noise of each pixel, so that brightness is learnt too; 0 is off, 0.05 is usual.
        prior_weight: weight of the pictures that keep what the model knew of a class (Ruiz et al., arXiv
            2208.12242, equation 2); 0 takes none.
    """

    min_snr: float = 0.0
    noise_offset: float = 0.0
    prior_weight: float = 0.0

    def __post_init__(self) -> None:
        check(0 <= self.min_snr < math.inf, "objective.min_snr", self.min_snr, "0 (off) or more")
        check(0 <= self.noise_offset <= 1, "objective.noise_offset", self.noise_offset, "0 (off) to 1")
        check(
            0 <= self.prior_weight < math.inf, "objective.prior_weight", self.prior_weight, "0 (off) or more"
        )
