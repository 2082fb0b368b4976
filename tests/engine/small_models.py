"""Base models as small as can be."""

import torch
from diffusers import AutoencoderKL, AutoencoderTiny

from noiseweave.engine.training import systems
from noiseweave.engine.training.recipes import (
    Blueprint,
    ModelRecipe,
    ObjectiveRecipe,
    ScheduleRecipe,
    UnetRecipe,
)


def tiny_kl():
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=2,
        scaling_factor=0.5,
    ).eval()


def tiny_taesd():
    blocks = {"encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4)}
    return AutoencoderTiny(**blocks, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), scaling_factor=2.0)


def model_of(kind="ddpm", **more):
    model = system_of(kind, **more).model
    model.network.eval()
    return model


def taught_model(kind, x0_BCHW, label_B, steps=150, **more):
    """A model that has seen some pictures, or latents, for a little: a replay of it does not blow rounding up."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        system = system_of(kind, **more)
        network = system.model.network.train()
        optimizer = torch.optim.Adam(network.parameters(), 5e-3)
        for _ in range(steps):
            row = torch.randint(len(x0_BCHW), (16,))
            time, hide = torch.rand(2, 16)
            x0, label = x0_BCHW[row], label_B[row]
            batch = systems.Batch(x0=x0, label=label, eps=torch.randn_like(x0), time=time, hide=hide)
            optimizer.zero_grad()
            system.turns[0].loss(system.networks, batch).mean().backward()
            optimizer.step()
    network.eval()
    return system.model


def system_of(kind="ddpm", classes=0, size=16, channels=1, encoder=None, unet=(8, 16)):
    plan = Blueprint(
        model=ModelRecipe(kind=kind, classes=classes, width=4, latent=6),
        objective=ObjectiveRecipe(),
        unet=UnetRecipe(channels=unet, attention=(), groups=4),
        schedule=ScheduleRecipe(),
        classes=classes,
        size=size,
        channels=channels,
        seed=3,
    )
    return systems.build(plan, encoder)
