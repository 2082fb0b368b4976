"""Latent models as the algorithms see them (Rombach et al., arXiv 2112.10752), with words where they read any.

B rows, P prompts, L tokens of D values; C, H, W are those of latents. Two layouts of folders: pipelines of the
``families``, and the LDMPipeline without words that ``noiseweave train --model.vae`` writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine.diffusion.path import Denoiser, Path, Prediction
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.networks import latents, paths, safety
from noiseweave.engine.networks.backbone import Backbone, limit_rows
from noiseweave.engine.networks.conditioning import Words, words_of
from noiseweave.engine.networks.micro_batch import MicroBatch
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.protocols import Autoencoder, Scheduler, Unet
from noiseweave.engine.networks.text_pipeline import TextModel

ROWS, AREA = {"cuda": 256, "cpu": 64}, {"cuda": 64 * 64 * 64, "cpu": 8 * 64 * 64}
"""Most rows in one network call, and most places of their latents together, where micro_batch is 0."""
VAE_SHARE = 8  # a decoder's pictures take about so many times the memory of the network's latents


@dataclass(frozen=True, kw_only=True)
class LatentNetworks:
    """The parts of a latent model.

    Attributes:
        unet: UNet2DConditionModel or a transformer; UNet2DModel of a model without text.
        vae: one of ``loading.VAES``.
        text: the pipeline that reads prompts, or None.
        prediction: what the unet gives; None is what the scheduler says.
    """

    unet: Unet
    vae: Autoencoder
    text: TextModel | None = None
    prediction: Prediction | None = None


class LatentBackbone(Backbone):
    """A diffusion model of a VAE's latents: encode, decode and what the network predicts of them.

    Attributes:
        vae: one of ``loading.VAES``, in the network's precision; what is not finite then is done
            once more in float32.
        vae_scale_factor: pixels on a latent's side.
        text: the pipeline that reads words, or None.
        encoding, decoding: the VAE in micro-batches; parts is the network in its own.
    """

    def __init__(
        self,
        networks: LatentNetworks,
        scheduler: Scheduler,
        device: str = "cpu",
        precision: str = "fp32",
        micro_batch: int = 0,
        size: int | None = None,
    ) -> None:
        unet, vae = networks.unet, networks.vae
        self.vae_scale_factor = latents.vae_scale_factor(vae.config)
        side = size // self.vae_scale_factor if size else int(unet.config.sample_size)
        most = micro_batch or _rows(device, side)
        rows = micro_batch or limit_rows(most, device, precision)
        super().__init__(unet, scheduler, device, precision, rows, networks.prediction)
        self.channels, self.size = latents.picture_channels(vae.config), side * self.vae_scale_factor
        half = torch.float32 if precision == "fp16" and latents.overflows(vae.config) else self.dtype
        self.vae = vae.to(self.device, half).eval().requires_grad_(False)
        self.text = networks.text
        few = max(1, most // VAE_SHARE)
        self.encoding = MicroBatch(self._encode, few, self.device)
        self.decoding = MicroBatch(self._decode, few, self.device)

    def path(self, recipe: InversionRecipe) -> Path:
        """The steps of a recipe: of a pipeline that is a flow, those that its family takes for this size."""
        if self.text is None or not paths.is_straight(self.scheduler):
            return super().path(recipe)
        side, family = self.size // self.vae_scale_factor, self.text.family
        size, r = (side, side), recipe
        shift = r.noise_shift or 0.0
        return paths.pipeline_path(family, self.scheduler, size, r.num_steps, r.skip, r.eta, shift)

    @torch.inference_mode()
    def encode(self, image_BHWC: np.ndarray) -> Tensor:
        """uint8 [B, H, W, channels] -> scaled latents, float32 [B, C, H, W]: the mode of the VAE's distribution.

        Raises:
            ValueError: sides that are no multiple of ``vae_scale_factor``.
        """
        height, width = image_BHWC.shape[1:3]
        if height % self.vae_scale_factor or width % self.vae_scale_factor:
            raise ValueError(
                f"picture of {width} x {height}: sides must be multiples of {self.vae_scale_factor}, "
                "the VAE's scale factor"
            )
        return self._finite(self.encoding, super().encode(image_BHWC))

    @torch.inference_mode()
    def decoded(self, x_BCHW: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Scaled latents, float [B, C, H, W] -> uint8 [B, H, W, channels], and bool [B]: which are finite."""
        return super().decoded(self._finite(self.decoding, x_BCHW.to(self.device)))

    def flagged(self, image_BHWC: np.ndarray) -> np.ndarray:
        """bool [B]: which pictures the pipeline's safety checker flags, where it has one."""
        return safety.flagged(self.text.checker if self.text else None, image_BHWC)

    def _finite(self, parts: MicroBatch, x_BCHW: Tensor) -> Tensor:
        """The parts' result; rows that overflow are done again in float32, whatever else is in the batch."""
        out = parts(x_BCHW)
        infinite_B = ~out.flatten(1).isfinite().all(1)
        if not infinite_B.any():
            return out
        half = self.vae.dtype
        self.vae.to(torch.float32)
        try:
            out[infinite_B] = parts(x_BCHW[infinite_B])
        finally:
            self.vae.to(half)
        return out

    def _encode(self, x_BCHW: Tensor) -> Tensor:
        return latents.encode(self.vae, x_BCHW)

    def _decode(self, z_BCHW: Tensor) -> Tensor:
        return latents.decode(self.vae, z_BCHW)

    @torch.inference_mode()
    def denoise(self, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """What the network predicts, float32 [B, C, H, W], without conditioning: of a text model the empty prompt."""
        return super().denoise(x_BCHW, t_B) if self.text is None else self._silence(x_BCHW, t_B)

    @cached_property
    def _silence(self) -> Denoiser:
        return self.conditioned(self.labels([None]) if self.text is None else self.words([""]))

    @torch.inference_mode()
    def words(self, texts: Sequence[str]) -> Words:
        """P texts -> their embeddings, each distinct one encoded once."""
        assert self.text is not None
        return words_of(self.text.pipeline, [Prompt(text=text, key="") for text in texts], self.dtype)


def _rows(device: str, side: int) -> int:
    kind = torch.device(device).type
    return max(1, min(ROWS.get(kind, 64), AREA.get(kind, AREA["cpu"]) // side**2))
