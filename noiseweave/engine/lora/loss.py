"""The loss that adapters of a text-to-image pipeline are trained with, of any Gaussian path.

Letters of training/objectives.py, with z for scaled latents (Rombach et al., arXiv 2112.10752). B pictures, C channels,
H x W pixels or h x w latents, L tokens of D values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import cast

import torch
from torch import Tensor, nn

from noiseweave.engine.diffusion.path import Prediction
from noiseweave.engine.lora.recipes import LoraObjective
from noiseweave.engine.networks import paths
from noiseweave.engine.networks.backbone import DTYPES
from noiseweave.engine.networks.conditioning import POOLED
from noiseweave.engine.networks.families.family import Family, How
from noiseweave.engine.networks.protocols import Network, Scheduler
from noiseweave.engine.networks.recipes import Precision
from noiseweave.engine.pictures.crops import Size
from noiseweave.engine.records import Json
from noiseweave.engine.seeding import generator
from noiseweave.engine.training.objectives import logit_normal, min_snr_weight, path_loss, step_of

HELD_OUT = (0.1, 0.3, 0.5, 0.7, 0.9)  # times of the validation loss
LoraCall = Callable[[Tensor, Tensor, Mapping[str, Tensor], How], Tensor]
"""network(seen_BCHW, t_B, words, how) -> float32 [B, C, h, w]; a LoraNetwork, as a rule."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What the loss depends on, beside network and batch.

    Attributes:
        family: of the pipeline.
        scheduler: the pipeline's; its noise schedule and target are read.
    """

    family: Family
    scheduler: Scheduler
    objective: LoraObjective


@dataclass(frozen=True, kw_only=True)
class LoraBatch:
    """A worker's part of a step: pictures of one size.

    Attributes:
        z_BCHW: float32, scaled latents of the pictures.
        hole_B1HW: 0 or 1 of each pixel, 1 is repaired; None for a network that is shown no holes.
        around_BCHW: float32 scaled latents of the pictures with grey in their holes (latents.around), or None.
        words: prompt_embeds [B, L, D] and what else ``Family.embeddings`` names; where the text encoders are
            trained, their tokens instead: input_ids int64 [B, L] and, of SDXL, input_ids_2.
        eps_BCHW: float32, standard normal noise.
        offset_BC11: the same for the noise offset, or None without one.
        time_B: float32 in [0, 1), chance for the level of noise.
        prior_B: bool, True where the picture keeps what the model knew of a class; None: nowhere.
        size: (height, width) of the pictures in pixels, which SDXL is conditioned on.
    """

    z_BCHW: Tensor
    hole_B1HW: Tensor | None = None
    around_BCHW: Tensor | None = None
    words: Mapping[str, Tensor]
    eps_BCHW: Tensor
    offset_BC11: Tensor | None = None
    time_B: Tensor
    prior_B: Tensor | None = None
    size: Size

    def __post_init__(self) -> None:
        assert (self.hole_B1HW is None) == (self.around_BCHW is None)
        assert self.eps_BCHW.shape == self.z_BCHW.shape

    def to(self, device: torch.device | str) -> LoraBatch:
        """The same batch, its tensors on a device."""
        words = {name: x.to(device) for name, x in self.words.items()}
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        own |= {name: x.to(device) for name, x in own.items() if isinstance(x, Tensor)}
        return LoraBatch(**own | {"words": words})


class LoraNetwork(nn.Module):
    """The networks that are trained together as one: for one optimizer, one average, one wrapper of DDP.

    Args:
        networks: as ``adapters.attach`` gives them.
        family: of their pipeline.
    """

    def __init__(self, networks: Mapping[str, nn.Module], family: Family) -> None:
        super().__init__()
        self.family = family
        for name, network in networks.items():
            self.add_module(name, network)

    def forward(self, seen_BCHW: Tensor, t_B: Tensor, words: Mapping[str, Tensor], how: How) -> Tensor:
        """See ``LoraCall``."""
        rows = self._embed(words) if "input_ids" in words else words
        # that of the frozen weights; latents are float32 always
        seen = seen_BCHW.to(rows["prompt_embeds"].dtype)
        network = cast(Network, self.get_submodule(self.family.network))
        return self.family.predict(network, seen, t_B, rows, how).float()

    def _embed(self, ids: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tokens -> embeddings, as encode_prompt of diffusers' pipelines has it."""
        encoders: Json = dict(self.named_children())
        if "text_encoder_2" not in encoders:
            return {"prompt_embeds": encoders["text_encoder"](ids["input_ids"])[0]}
        first = encoders["text_encoder"](ids["input_ids"], output_hidden_states=True)
        second = encoders["text_encoder_2"](ids["input_ids_2"], output_hidden_states=True)
        # SDXL reads the states before each encoder's last layer (Podell et al., arXiv 2307.01952)
        states = [out.hidden_states[-2] for out in (first, second)]
        return {"prompt_embeds": torch.cat(states, -1), POOLED: second.text_embeds}


def loss(network: LoraCall, batch: LoraBatch, goal: Goal) -> Tensor:
    """float32 [B]: ``path_loss`` in latents, for the target that the pipeline's scheduler names.

    A network made for inpainting sees [z_t, ``Family.beside``]. With a noise offset eps is eps + offset times one
    number for each picture and channel, in z_t and in the target alike.

    Args:
        network: a LoraNetwork, or what wraps it.
    """
    objective, eps = goal.objective, batch.eps_BCHW
    if objective.noise_offset:
        assert batch.offset_BC11 is not None
        eps = eps + objective.noise_offset * batch.offset_BC11
    how = How(size=batch.size, guidance=objective.guidance)

    def predict(z_t: Tensor, t: Tensor) -> Tensor:
        return network(_seen(z_t, batch, goal.family), t, batch.words, how)

    level, target = _level(batch, goal)
    loss_B = path_loss(predict, batch.z_BCHW, eps, level, target)
    if objective.min_snr:
        loss_B = loss_B * min_snr_weight(level[0].square(), target, objective.min_snr)
    return (
        loss_B if batch.prior_B is None else torch.where(batch.prior_B, objective.prior_weight, 1.0) * loss_B
    )


def _level(batch: LoraBatch, goal: Goal) -> tuple[tuple[Tensor, Tensor, Tensor], Prediction]:
    """alpha, sigma and time step of each picture, and the target.

    Of a flow sigma is one of the scheduler's own levels, moved as the family moves them for latents of that size; which
    one is logit-normal, and no loss is weighted: as diffusers' training scripts have it (arXiv 2403.03206, 3.1).
    """
    scheduler, objective, target = goal.scheduler, goal.objective, paths.prediction_of(goal.scheduler)
    trained, device = int(scheduler.config.num_train_timesteps), batch.z_BCHW.device
    if paths.is_straight(scheduler):
        height, width = batch.z_BCHW.shape[2:]
        sigma_S = goal.family.sigmas(scheduler, trained, (height, width)).float().to(device)
        noise_B = logit_normal(batch.time_B, objective.logit_mean, objective.logit_std)
        sigma_B = sigma_S[step_of(1 - noise_B, trained)]
        return (1 - sigma_B, sigma_B, trained * sigma_B), target
    alpha_bar_T = scheduler.alphas_cumprod.to(device)
    t_B = step_of(batch.time_B, len(alpha_bar_T))
    return (alpha_bar_T[t_B].sqrt(), (1 - alpha_bar_T[t_B]).sqrt(), t_B), target


def _seen(z_t: Tensor, batch: LoraBatch, family: Family) -> Tensor:
    if batch.hole_B1HW is None or batch.around_BCHW is None:
        return z_t
    return torch.cat([z_t, family.beside(batch.hole_B1HW, batch.around_BCHW)], 1)


@torch.no_grad()
def held_out_loss(
    network: nn.Module,
    batch: LoraBatch,
    goal: Goal,
    keys: Sequence[str],
    seed: int,
    times: Sequence[float] = HELD_OUT,
) -> Tensor:
    """float32 [B]: the loss's mean over fixed times, with noise from (seed, key, time): two calls can be compared.

    Dropout is off, and no weighting, noise offset or prior has a part in it; the batch's own noise and times
    are not looked at. Of a flow the times are shares of the usual logit-normal distribution.

    Args:
        network: a LoraNetwork or what wraps it; its mode is as before afterwards.
        keys: of the B pictures.
    """
    mode, plain = network.training, replace(batch, offset_BC11=None, prior_B=None)
    bare = replace(goal, objective=LoraObjective(guidance=goal.objective.guidance))
    network.eval()
    try:
        each = [loss(network, _at(plain, keys, seed, time), bare) for time in times]
    finally:
        network.train(mode)
    return torch.stack(each).mean(0)


def _at(batch: LoraBatch, keys: Sequence[str], seed: int, time: float) -> LoraBatch:
    z = batch.z_BCHW
    noises = [torch.randn(z.shape[1:], generator=generator(seed, "held-out", key, time)) for key in keys]
    return replace(batch, eps_BCHW=torch.stack(noises).to(z.device), time_B=z.new_full((len(z),), time))


def prepare(network: LoraNetwork, precision: Precision, gradient_checkpointing: bool, gpu: bool) -> None:
    """Half precision for frozen weights on a GPU, and checkpointing."""
    network.train()
    if gpu and precision != "fp32":
        for w in network.parameters():
            if not w.requires_grad:
                w.data = w.data.to(DTYPES[precision])
    if gradient_checkpointing:
        parts: Json = dict(network.named_children())
        parts.pop(network.family.network).enable_gradient_checkpointing()
        for encoder in parts.values():  # transformers' own name
            encoder.gradient_checkpointing_enable()
