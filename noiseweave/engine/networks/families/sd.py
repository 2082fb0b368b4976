"""Stable Diffusion 1 and 2 (Rombach et al., arXiv 2112.10752)."""

from __future__ import annotations

import torch
from torch import Tensor

from noiseweave.engine.networks import latents
from noiseweave.engine.networks.families.family import Family, Guidance, How, Rows
from noiseweave.engine.networks.protocols import Network, Pipeline
from noiseweave.engine.networks.recipes import Usual
from noiseweave.engine.records import Json


class StableDiffusion(Family):
    """A U-Net with cross-attention to CLIP's tokens.

    Distilled ones: SD-Turbo and SDXL-Turbo (arXiv 2311.17042), whose scheduler takes trailing steps of the plain noise
    schedule, and latent consistency models (arXiv 2310.04378), whose guidance is an input of the network.
    """

    name = "sd"
    pipeline, filling = "StableDiffusionPipeline", "StableDiffusionInpaintPipeline"
    also: tuple[str, ...] = ("LatentConsistencyModelPipeline",)
    network, kind = "unet", "UNet2DConditionModel"

    def usual(self, network: Json, scheduler: Json) -> Usual:
        """The edit's as Huberman-Spiegelglas et al. have them (arXiv 2304.06140); distilled ones as diffusers draws."""
        if self.guidance(network) == "embedded":
            return Usual(steps=4, guidance=8.5, edit=(8.5, 8.5), fill=8.5, distilled=True)
        trailing = scheduler.get("timestep_spacing") == "trailing"
        plain = scheduler.get("prediction_type", "epsilon") == "epsilon"
        if (trailing and plain) or scheduler.get("_class_name") == "LCMScheduler":
            return Usual(steps=4, guidance=1.0, edit=(1.0, 1.0), fill=1.0, distilled=True)
        return Usual(sampler="dpm-solver++", steps=25, guidance=7.5, edit=(3.5, 15.0))

    def guidance(self, network: Json) -> Guidance:
        """Embedded in a latent consistency model."""
        return "embedded" if network.get("time_cond_proj_dim") else "classifier-free"

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
        words, scale = rows["prompt_embeds"], guidance_embedding(network, x_BCHW, how.guidance)
        return network(x_BCHW, t_B, encoder_hidden_states=words, timestep_cond=scale, return_dict=False)[0]

    def options(self, guidance: float, eta: float) -> Json:
        """These pipelines hand eta on to DDIM."""
        return {"guidance_scale": guidance, "eta": eta}


def guidance_embedding(network: Network, x_BCHW: Tensor, guidance: float) -> Tensor | None:
    """The scale as a latent consistency model takes it, [B, D]: counted from 0; None of a network without."""
    from diffusers.models.embeddings import get_timestep_embedding

    if not (width := network.config.time_cond_proj_dim):
        return None
    scale_B = torch.full((len(x_BCHW),), 1000 * (guidance - 1), device=x_BCHW.device)
    return get_timestep_embedding(scale_B, width, downscale_freq_shift=1).to(x_BCHW.dtype)
