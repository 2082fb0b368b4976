"""What is trained together: the networks of each kind of base model, and the losses that move them in turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel
from torch import Tensor, nn

from noiseweave.engine.networks import dcgan, vae
from noiseweave.engine.networks.base_models import BaseModel, latent_shape
from noiseweave.engine.networks.protocols import Autoencoder, Scheduler
from noiseweave.engine.records import Json
from noiseweave.engine.training.objectives import ddpm_loss, flow_loss, hidden, mixing_loss, step_of
from noiseweave.engine.training.recipes import Blueprint


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A worker's part of a step.

    Attributes:
        x0: float32 [B, C, H, W], pictures in [-1, 1] or scaled latents.
        label: int64 [B], -1 where there is none.
        eps: float32 [B, *noise_shape].
        time, hide: float32 [B] in [0, 1), chance for the time and for hiding the label.
    """

    x0: Tensor
    label: Tensor
    eps: Tensor
    time: Tensor
    hide: Tensor


Networks = Mapping[str, nn.Module]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One update within a step: the loss ``name`` moves the weights of ``network``.

    Attributes:
        loss: (networks, batch) -> float32 [B].
    """

    name: str
    network: str
    loss: Callable[[Networks, Batch], Tensor]


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Networks and how they are trained, on batches of any kind.

    Attributes:
        networks: all that are trained, by name; weights in them that need no gradient stay as they are.
        turns: the updates of a step, in order.
        drawing: the network that is averaged and, in the end, kept.
        couples: whether each batch's noise is assigned to its pictures by optimal transport.
        watch: more figures for the log, of one batch: (networks, batch) -> name -> float32 [B].
        products: more files of a checkpoint, made while the averaged weights stand in the network.
    """

    networks: Json
    turns: tuple[Turn, ...]
    drawing: str
    couples: bool = False
    watch: Callable[[Networks, Batch], Mapping[str, Tensor]] = lambda networks, batch: {}
    products: Callable[[], Mapping[str, bytes]] = dict


@dataclass(frozen=True, kw_only=True)
class System(Learner):
    """A base model in training.

    Attributes:
        model: draws with ``networks[drawing]``.
    """

    model: BaseModel


def build(plan: Blueprint, encoder: Autoencoder | None = None, *, start: BaseModel | None = None) -> System:
    """A system with its first weights, a function of the seed.

    Args:
        encoder: frozen VAE whose latents a UNet works on, or None.
        start: a model with a UNet that training goes on from, in place of plan.unet, plan.schedule and the encoder.

    Raises:
        ValueError: sizes that do not fit each other.
    """
    torch.manual_seed(plan.seed)
    kinds = {"vae": _vae, "dcgan": _dcgan}
    if plan.model.kind in kinds:
        return kinds[plan.model.kind](plan)
    return _denoising(plan, start or _fresh(plan, encoder))


def _fresh(plan: Blueprint, encoder: Autoencoder | None) -> BaseModel:
    """A UNet with first weights."""
    pixels = (plan.channels, plan.size, plan.size)
    shape = pixels if encoder is None else latent_shape(encoder, plan.size)
    halvings = 1 << (len(plan.unet.channels) - 1)
    if shape[1] % halvings:
        what = "data.size" if encoder is None else "latents' side"
        raise ValueError(f"{what}={shape[1]}: a multiple of {halvings}, as unet.channels has it")
    return BaseModel(
        kind=plan.model.kind,
        network=unet_of(plan, shape),
        classes=plan.classes,
        size=plan.size,
        channels=plan.channels,
        noise_shape=shape,
        scheduler=training_scheduler(plan, encoder is not None),
        encoder=encoder,
    )


def _denoising(plan: Blueprint, model: BaseModel) -> System:
    """A UNet that learns to take noise off."""
    turn = Turn(name="loss", network="unet", loss=_loss_of(plan, model.scheduler))
    couples = plan.model.kind == "flow" and plan.objective.coupling == "optimal_transport"
    return System(
        networks={"unet": model.network}, turns=(turn,), model=model, drawing="unet", couples=couples
    )


def _loss_of(plan: Blueprint, scheduler: Scheduler) -> Callable[[Networks, Batch], Tensor]:
    goal = plan.objective

    def loss(networks: Networks, b: Batch) -> Tensor:
        label = hidden(b.label, b.hide, plan.model.label_dropout, plan.classes) if plan.classes else None

        def network(x: Tensor, t: Tensor) -> Tensor:
            return networks["unet"](x, t, class_labels=label).sample

        if plan.model.kind != "ddpm":
            straight = flow_loss if plan.model.kind == "flow" else mixing_loss
            return straight(network, b.x0, b.eps, b.time)
        t = step_of(b.time, plan.schedule.timesteps)
        alpha_bar = scheduler.alphas_cumprod.to(b.x0.device)
        return ddpm_loss(network, b.x0, b.eps, t, alpha_bar, goal.target, goal.min_snr)

    return loss


def unet_of(plan: Blueprint, shape: tuple[int, int, int]) -> UNet2DModel:
    """UNet2DModel for [C, H, W]; with classes, one embedding more than classes: the last is "no class"."""
    wide, levels = plan.unet, range(len(plan.unet.channels))
    at = [i in wide.attention for i in levels]
    return UNet2DModel(
        sample_size=shape[1],
        in_channels=shape[0],
        out_channels=shape[0],
        block_out_channels=wide.channels,
        layers_per_block=wide.layers,
        attention_head_dim=wide.head,
        norm_num_groups=wide.groups,
        down_block_types=tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in at),
        up_block_types=tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(at)),
        num_class_embeds=plan.classes + 1 if plan.classes else None,
    )


def training_scheduler(plan: Blueprint, latent: bool) -> DDPMScheduler | FlowMatchEulerDiscreteScheduler:
    """The scheduler that is saved with the model: DDPMScheduler, or FlowMatchEulerDiscreteScheduler."""
    if plan.model.kind != "ddpm":
        return FlowMatchEulerDiscreteScheduler()
    kinds = {"cosine": "squaredcos_cap_v2", "linear": "linear", "scaled_linear": "scaled_linear"}
    # latent diffusion's betas; Ho et al.'s are the library's default
    ends = {"beta_start": 0.00085, "beta_end": 0.012} if plan.schedule.kind == "scaled_linear" else {}
    return DDPMScheduler(
        num_train_timesteps=plan.schedule.timesteps,
        beta_schedule=kinds[plan.schedule.kind],
        clip_sample=plan.schedule.clip_sample and not latent,
        prediction_type=plan.objective.target,
        **ends,
    )


def _vae(plan: Blueprint) -> System:
    network = vae.VAE(
        size=plan.size, channels=plan.channels, width=plan.model.width, latent=plan.model.latent
    )
    turn = Turn(
        name="loss", network="vae", loss=lambda n, b: vae.vae_loss(n["vae"], b.x0, b.eps, plan.objective.beta)
    )
    return System(networks={"vae": network}, turns=(turn,), model=_drawn_by(plan, network), drawing="vae")


def _dcgan(plan: Blueprint) -> System:
    shape = {"size": plan.size, "channels": plan.channels, "width": plan.model.width}
    generator = dcgan.Generator(latent=plan.model.latent, **shape)
    judge = dcgan.Discriminator(**shape)
    turns = (
        Turn(
            name="loss_d",
            network="discriminator",
            loss=lambda n, b: dcgan.discriminator_loss(
                n["discriminator"], n["generator"], b.x0, b.eps, plan.objective.smoothing
            ),
        ),
        Turn(
            name="loss_g",
            network="generator",
            loss=lambda n, b: dcgan.generator_loss(n["discriminator"], n["generator"], b.eps),
        ),
    )
    networks = {"generator": generator, "discriminator": judge}
    model = _drawn_by(plan, generator)
    return System(networks=networks, turns=turns, model=model, drawing="generator", watch=_scores)


def _scores(networks: Networks, b: Batch) -> Mapping[str, Tensor]:
    """D(x) and D(G(z)): 1/2 each where the discriminator is undecided."""
    real, drawn = dcgan.scores(networks["discriminator"], networks["generator"], b.x0, b.eps)
    return {"d_real": real, "d_drawn": drawn}


def _drawn_by(plan: Blueprint, network: nn.Module) -> BaseModel:
    return BaseModel(
        kind=plan.model.kind,
        network=network,
        classes=0,
        size=plan.size,
        channels=plan.channels,
        noise_shape=(plan.model.latent,),
    )
