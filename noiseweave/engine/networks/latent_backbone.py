"""Latent models as the algorithms see them (Rombach et al., arXiv 2112.10752), with words where they read any.

B rows, P prompts, L tokens of D values; C, H, W are those of latents. Two layouts of folders: pipelines of the
Stable Diffusion family, and the LDMPipeline without words that ``noiseweave train --model.vae`` writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine.diffusion.path import Denoiser
from noiseweave.engine.networks import base_models, latents, pretrained, text_pipeline
from noiseweave.engine.networks.backbone import Backbone, alike
from noiseweave.engine.networks.conditioning import Words, words_of
from noiseweave.engine.networks.facts import check_classes, check_schedule
from noiseweave.engine.networks.latents import shrink_of
from noiseweave.engine.networks.micro_batch import MicroBatch
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.recipes import ModelConfig, TextRecipe
from noiseweave.engine.networks.text_pipeline import TextModel

ROWS, AREA = {"cuda": 256, "cpu": 64}, {"cuda": 64 * 64 * 64, "cpu": 8 * 64 * 64}
"""Most rows in one network call, and most places of their latents together, where micro_batch is 0."""
VAE_SHARE = 8  # a decoder's pictures take about so many times the memory of the network's latents
TARGETS = ("epsilon", "v_prediction", "sample")


class LatentBackbone(Backbone):
    """A diffusion model of a VAE's latents: encode, decode and the noise in them.

    Attributes:
        vae: AutoencoderKL or AutoencoderTiny, in the network's precision; what is not finite then is done
            once more in float32.
        shrink: pixels on a latent's side.
        text: the pipeline that reads words, or None.
        encoding, decoding: the VAE in micro-batches; parts is the network in its own.
    """

    def __init__(
        self,
        unet: Any,
        vae: Any,
        scheduler: Any,
        device: str = "cpu",
        precision: str = "fp32",
        micro_batch: int = 0,
        size: int | None = None,
        text: TextModel | None = None,
    ) -> None:
        self.shrink = shrink_of(vae.config)
        side = size // self.shrink if size else int(unet.config.sample_size)
        most = micro_batch or _rows(device, side)
        super().__init__(unet, scheduler, device, precision, micro_batch or alike(most, device, precision))
        self.channels, self.size = int(vae.config.in_channels), side * self.shrink
        half = torch.float32 if precision == "fp16" and vae.config.force_upcast else self.dtype
        self.vae = vae.to(self.device, half).eval().requires_grad_(False)
        self.text = text
        few = max(1, most // VAE_SHARE)
        self.encoding = MicroBatch(self._encode, few, self.device)
        self.decoding = MicroBatch(self._decode, few, self.device)

    @torch.inference_mode()
    def encode(self, image_BHWC: np.ndarray) -> Tensor:
        """uint8 [B, H, W, channels] -> scaled latents, float32 [B, C, H, W]: the mode of the VAE's distribution.

        Raises:
            ValueError: sides that are no multiple of ``shrink``.
        """
        height, width = image_BHWC.shape[1:3]
        if height % self.shrink or width % self.shrink:
            raise ValueError(
                f"picture of {width} x {height}: sides must be multiples of {self.shrink}, as the VAE "
                "shrinks by that"
            )
        return self._finite(self.encoding, super().encode(image_BHWC))

    @torch.inference_mode()
    def decoded(self, x_BCHW: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Scaled latents, float [B, C, H, W] -> uint8 [B, H, W, channels], and bool [B]: which are finite.

        Where the pipeline has a safety checker, what it flags comes out black.
        """
        image_BHWC, finite_B = super().decoded(self._finite(self.decoding, x_BCHW.to(self.device)))
        pipeline: Any = self.text.pipeline if self.text else None
        if getattr(pipeline, "safety_checker", None) is None:
            return image_BHWC, finite_B
        unit = image_BHWC.astype(np.float32) / 255
        _, flagged_B = pipeline.run_safety_checker(unit, self.device, self.dtype)
        image_BHWC[np.array(flagged_B)] = 0
        return image_BHWC, finite_B

    def _finite(self, parts: MicroBatch, x_BCHW: Tensor) -> Tensor:
        """The parts' result; rows that overflow are done again in float32, whatever else is in the batch."""
        out = parts(x_BCHW)
        bad_B = ~out.flatten(1).isfinite().all(1)
        if not bad_B.any():
            return out
        half = self.vae.dtype
        self.vae.to(torch.float32)
        out[bad_B] = parts(x_BCHW[bad_B])
        self.vae.to(half)
        return out

    def _encode(self, x_BCHW: Tensor) -> Tensor:
        return latents.encode(self.vae, x_BCHW)

    def _decode(self, z_BCHW: Tensor) -> Tensor:
        return latents.decode(self.vae, z_BCHW)

    @torch.inference_mode()
    def epsilon(self, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """The predicted noise, float32 [B, C, H, W]; a model that reads words is told none."""
        return super().epsilon(x_BCHW, t_B) if self.text is None else self._silence(x_BCHW, t_B)

    @cached_property
    def _silence(self) -> Denoiser:
        return self.told(self.labels([None]) if self.text is None else self.words([""]))

    @torch.inference_mode()
    def words(self, texts: Sequence[str]) -> Words:
        """P texts -> their embeddings, each distinct one encoded once."""
        assert self.text is not None
        return words_of(self.text.pipeline, [Prompt(text=text, key="") for text in texts], self.dtype)


def _rows(device: str, side: int) -> int:
    kind = torch.device(device).type
    return max(1, min(ROWS.get(kind, 64), AREA.get(kind, AREA["cpu"]) // side**2))


# folders


def locate(name: str) -> Path:
    """A folder or hub id -> the folder with a whole latent model.

    Raises:
        ValueError: one line: what is missing.
    """
    if text_pipeline.is_text_model(name):
        return text_pipeline.locate(name)
    folder = pretrained.find(name, base_models.FILES)
    for part in ("unet", "vqvae"):
        missing = f"{part}/config.json" if not (folder / part / "config.json").is_file() else None
        if not missing and not any((folder / part).glob("*.safetensors")):
            missing = f"{part}/diffusion_pytorch_model.safetensors"
        if missing:
            raise ValueError(f"model {name!r}: {missing} is missing in {folder}")
    return folder


def fingerprint(name: str) -> str:
    """A hash of the model's configs and weights, 16 hex digits."""
    if text_pipeline.is_text_model(name):
        return text_pipeline.fingerprint(text_pipeline.locate(name))
    return base_models.fingerprint(name)


def shape(name: str, size: int | None = None) -> tuple[int, int]:
    """(channels, side) of the pictures, in pixels, read from the configs alone.

    Raises:
        ValueError: the model is of another kind, or cannot take that size.
    """
    folder, words = locate(name), text_pipeline.is_text_model(name)
    unet = pretrained.read(name, folder, "unet/config.json")
    vae = pretrained.read(name, folder, "vae/config.json" if words else "vqvae/config.json")
    _check(name, folder, unet, vae)
    shrink = shrink_of(vae)
    # UNet2DConditionModel pads what it cannot halve, UNet2DModel does not
    step = shrink if words else shrink * 2 ** (len(unet["block_out_channels"]) - 1)
    if size is not None and (size < step or size % step):
        raise ValueError(f"size={size}: for model {name!r} a multiple of {step}")
    return int(vae.get("in_channels", 3)), size or unet["sample_size"] * shrink


def _check(name: str, folder: Path, unet: Mapping[str, Any], vae: Mapping[str, Any]) -> None:
    check_schedule(name, folder)
    target = pretrained.read(name, folder, "scheduler/scheduler_config.json").get("prediction_type")
    if target not in (None, *TARGETS):
        raise ValueError(f"model {name!r}: it predicts {target}; supported are {', '.join(TARGETS)}")
    if vae.get("_class_name") not in ("AutoencoderKL", "AutoencoderTiny"):
        kinds = "AutoencoderKL and AutoencoderTiny"
        raise ValueError(f"model {name!r}: its VAE is a {vae.get('_class_name')}; supported are {kinds}")
    if unet.get("in_channels") != vae.get("latent_channels", 4):
        raise ValueError(
            f"model {name!r}: its unet takes {unet.get('in_channels')} channels and its vae gives "
            f"{vae.get('latent_channels', 4)}"
        )
    if not isinstance(unet.get("sample_size"), int):
        raise ValueError(f"model {name!r}: supported are square pictures")
    check_classes(name, unet)


def load(config: ModelConfig, device: str = "cpu", size: int | None = None) -> LatentBackbone:
    """Load a latent model.

    Args:
        size: side of the pictures, in pixels; None takes what the model was made for.

    Raises:
        ValueError: one line, when it is missing, broken, of another kind, or cannot take that size.
    """
    from diffusers import DDIMScheduler

    shape(config.name, size)
    more: dict[str, Any] = {"precision": config.precision, "micro_batch": config.micro_batch, "size": size}
    if not text_pipeline.is_text_model(config.name):
        base = base_models.load(config, device)
        scheduler = DDIMScheduler.from_config(base.scheduler.config)
        return LatentBackbone(base.network, base.encoder, scheduler, device, **more)
    text = text_pipeline.load(config, TextRecipe(steps=1), device)
    scheduler = text_pipeline.scheduler_of(text, TextRecipe(sampler="ddim", steps=1))
    return LatentBackbone(text.pipeline.unet, text.pipeline.vae, scheduler, device, text=text, **more)
