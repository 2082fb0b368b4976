"""Base models as small as can be."""

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


def model_of(kind="ddpm", classes=0, size=16, channels=1, encoder=None, unet=(8, 16)):
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
    model = systems.build(plan, encoder).model
    model.network.eval()
    return model
