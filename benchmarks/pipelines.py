"""Text-to-image pipelines of Stable Diffusion 1.5's layout at two sizes, with random weights, and pictures for them."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from noiseweave.engine.networks import pretrained
from noiseweave.engine.networks.latent_backbone import LatentBackbone, LatentNetworks
from noiseweave.engine.networks.text_pipeline import TextModel
from noiseweave.engine.pictures import images

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
import small_pipeline  # noqa: E402

PHOTOS = ROOT.parent / "shared/data/flowers"
# runwayml/stable-diffusion-v1-5, scheduler_config.json
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "prediction_type": "epsilon",
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is not Stable Diffusion 1.5's own; unet, text and vae are arguments of their configs.

    Attributes:
        size: side of the pictures in pixels.
        vae: of an AutoencoderKL; None takes TAESD, or a small random one where that is not there.
    """

    size: int
    unet: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)
    vae: Mapping[str, Any] | None = field(default_factory=dict)


SHAPES = {
    # a tenth of the width, half as deep, 128 pixels: the real one's layout at a price that a CPU can pay
    "small": Shape(
        size=128,
        unet={"block_out_channels": (32, 64, 128, 128), "layers_per_block": 1, "cross_attention_dim": 64},
        text={"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2},
        vae=None,
    ),
    # two levels, 64 pixels: what a CPU can teach something in a minute
    "tiny": Shape(
        size=64,
        unet={
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "cross_attention_dim": 32,
            "attention_head_dim": 4,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
        text={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
        vae=None,
    ),
    "sd15": Shape(size=512),
}


def build(shape: Shape) -> StableDiffusionPipeline:
    """A pipeline with random weights, the same at each call: float32, on the CPU."""
    pretrained.quiet()
    tokens = small_pipeline.tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        bos_token_id=len(tokens) - 2,
        eos_token_id=len(tokens) - 1,
        pad_token_id=len(tokens) - 1,
        **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
        | dict(shape.text),
    )
    unet = {"sample_size": shape.size // 8, "cross_attention_dim": 768, "attention_head_dim": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return StableDiffusionPipeline(
            unet=UNet2DConditionModel(**unet | dict(shape.unet)),
            text_encoder=CLIPTextModel(text),
            vae=autoencoder(shape),
            tokenizer=tokens,
            scheduler=DDIMScheduler(**SCHEDULE),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def autoencoder(shape: Shape) -> Any:
    if shape.vae is None:
        return small_pipeline.autoencoder("taesd")
    kl = {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "sample_size": shape.size,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    return AutoencoderKL(**kl | dict(shape.vae))


def backbone(
    pipeline: StableDiffusionPipeline, device: str, precision: str = "fp32", micro_batch: int = 0
) -> LatentBackbone:
    """A pipeline, copied, as ``latent_backbone.load`` would make it from a folder."""
    pipe = copy.deepcopy(pipeline)
    pipe.text_encoder.to(device)
    text = TextModel(pipeline=pipe, scheduler=pipe.scheduler, micro_batch=1)
    return LatentBackbone(
        LatentNetworks(unet=pipe.unet, vae=pipe.vae, text=text),
        pipe.scheduler,
        device,
        precision,
        micro_batch,
    )


def pictures(count: int, size: int) -> np.ndarray:
    """uint8 [count, size, size, 3]: photos of flowers, or smooth noise where they are not there."""
    found = photos("validation", count, size)
    if len(found) == count:
        return np.stack([picture for picture, _ in found])
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return (smooth * 255).byte().permute(0, 2, 3, 1).numpy()


def photos(part: str, count: int, size: int) -> list[tuple[np.ndarray, str]]:
    """Up to ``count`` photos of flowers, uint8 [size, size, 3], each with its class: daisy, roses, ..."""
    files = sorted(PHOTOS.glob(f"{part}/*/*.jpg"))
    spread = files[:: max(1, len(files) // count)][:count]
    return [(images.fit(images.decode(f.read_bytes(), 3), size), f.parent.name) for f in spread]


def psnr(x: torch.Tensor, reference: torch.Tensor, peak: float | None = None) -> float:
    """dB; without a peak it is the reference's range, as latents have no fixed one."""
    peak = peak or float(reference.max() - reference.min())
    error = float((x - reference).double().square().mean())
    return round(10 * math.log10(peak**2 / error), 1) if error else math.inf
