"""What a user can choose about LoRA training, with its checks. Free of torch, so that ``--help`` is quick."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from noiseweave.engine.checks import check


@dataclass(frozen=True, kw_only=True)
class LoraRecipe:
    """Which weights are trained.

    Args:
        method: lora adds B A to the chosen layers and trains these two small matrices (Hu et al., arXiv
            2106.09685); partial trains the chosen layers themselves.
        rank: of B A, at most the width of each chosen layer.
        alpha: B A is multiplied by alpha / rank; null takes the rank, so by 1.
        dropout: share of a layer's inputs that A does not see in training.
        targets: ends of names of the network's linear and convolution layers, such as to_q or ff.net.2. null takes the
            projections of attention; of FLUX.1 the feed-forward layers beside text and picture too.
        text_encoder: whether the text encoders' attention projections are trained too; of Stable Diffusion 1, 2 and XL.
    """

    method: Literal["lora", "partial"] = "lora"
    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    text_encoder: bool = False

    def __post_init__(self) -> None:
        check(self.rank >= 1, "lora.rank", self.rank, "1 or more")
        positive = self.alpha is None or 0 < self.alpha < math.inf
        check(positive, "lora.alpha", self.alpha, "above 0, or null for the rank")
        check(0 <= self.dropout < 1, "lora.dropout", self.dropout, "0 (off) to below 1")
        names = self.targets
        named = names is None or (bool(names) and all(names) and len(set(names)) == len(names))
        check(named, "lora.targets", names, "names of layers, each once, or null")
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
        logit_mean: of a flow (SD3, FLUX.1, Qwen-Image), the mean of logit(sigma), which is drawn from a normal
            distribution (Esser et al., arXiv 2403.03206, eq. 19) before the model's own shift; above 0 is noisier.
        logit_std: its standard deviation.
        guidance: what FLUX.1 dev and Fill are conditioned on in training, where guidance is an input of the network.
    """

    min_snr: float = 0.0
    noise_offset: float = 0.0
    prior_weight: float = 0.0
    logit_mean: float = 0.0
    logit_std: float = 1.0
    guidance: float = 1.0

    def __post_init__(self) -> None:
        check(0 <= self.min_snr < math.inf, "objective.min_snr", self.min_snr, "0 (off) or more")
        check(0 <= self.noise_offset <= 1, "objective.noise_offset", self.noise_offset, "0 (off) to 1")
        check(
            0 <= self.prior_weight < math.inf, "objective.prior_weight", self.prior_weight, "0 (off) or more"
        )
        check(-10 <= self.logit_mean <= 10, "objective.logit_mean", self.logit_mean, "-10 to 10")
        check(0 < self.logit_std <= 10, "objective.logit_std", self.logit_std, "above 0, at most 10")
        check(1 <= self.guidance <= 100, "objective.guidance", self.guidance, "1 to 100")
