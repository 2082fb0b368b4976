"""Stable Diffusion 1 and 2 (Rombach et al., arXiv 2112.10752)."""

from __future__ import annotations

import torch
from torch import Tensor

from noiseweave.engine.networks import latents
from noiseweave.engine.networks.families.family import Family, How, Rows
from noiseweave.engine.networks.protocols import Network, Pipeline
from noiseweave.engine.networks.recipes import Usual
from noiseweave.engine.records import Json


class StableDiffusion(Family):
    """A U-Net with cross-attention to CLIP's tokens."""

    name = "sd"
    pipeline, filling = "StableDiffusionPipeline", "StableDiffusionInpaintPipeline"
    network, kind = "unet", "UNet2DConditionModel"

    def usual(self, network: Json) -> Usual:
        """The edit's as Huberman-Spiegelglas et al. have them (arXiv 2304.06140)."""
        return Usual(sampler="dpm-solver++", steps=25, guidance=7.5, edit=(3.5, 15.0))

    def sees_holes(self, network: Json, latent_channels: int) -> bool:
        """A U-Net made for inpainting takes the mask and the masked picture's latent too (2112.10752, 4.5)."""
        return network.get("in_channels") == 2 * latent_channels + 1

    def beside(self, hole_B1HW: Tensor, around_BCHW: Tensor) -> Tensor:
        """The mask at the size of latents, then the masked picture's latents."""
        hole = latents.hole_in_latents(hole_B1HW, around_BCHW).to(around_BCHW)
        return torch.cat([hole, around_BCHW], 1)

    def size(self, pipeline: Pipeline) -> tuple[int, int]:
        """Where its config has two sides, it was made for no square."""
        made_for = self.network_of(pipeline).config.sample_size
        height, width = (made_for, made_for) if isinstance(made_for, int) else made_for
        return int(height * pipeline.vae_scale_factor), int(width * pipeline.vae_scale_factor)

    def encode(self, pipeline: Pipeline, text: str, negative: bool) -> tuple[Tensor, ...]:
        """The empty text is given as None where it is the negative one: SDXL's way of no words may be zeros."""
        out = pipeline.encode_prompt(
            prompt="" if negative else text,
            device=pipeline.device,
            num_images_per_prompt=1,
            negative_prompt=(text or None) if negative else None,
            do_classifier_free_guidance=negative,
        )
        return tuple(out[int(negative) :: 2])

    def predict(self, network: Network, x_BCHW: Tensor, t_B: Tensor, rows: Rows, how: How) -> Tensor:
        """One call."""
        words = rows["prompt_embeds"]
        return network(x_BCHW, t_B, encoder_hidden_states=words, return_dict=False)[0]

    def options(self, guidance: float, eta: float) -> Json:
        """These pipelines hand eta on to DDIM."""
        return {"guidance_scale": guidance, "eta": eta}
