"""Stable Diffusion XL (Podell et al., arXiv 2307.01952)."""

from __future__ import annotations

from torch import Tensor

from noiseweave.engine.networks.families.family import How, Rows
from noiseweave.engine.networks.families.sd import StableDiffusion, guidance_embedding
from noiseweave.engine.networks.protocols import Network


class StableDiffusionXL(StableDiffusion):
    """Two text encoders, a pooled embedding, and the picture's size as a condition."""

    name = "sdxl"
    pipeline, filling = "StableDiffusionXLPipeline", "StableDiffusionXLInpaintPipeline"
    also = ()
    parts = ("text_encoder_2", "tokenizer_2")

    def predict(self, network: Network, x_BCHW: Tensor, t_B: Tensor, rows: Rows, how: How) -> Tensor:
        """Conditioned on the original size, no crop, and the target size (section 2.2)."""
        pooled = rows["pooled_prompt_embeds"]
        sizes = pooled.new_tensor([*how.size, 0, 0, *how.size])
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(pooled), -1)}
        words, scale = rows["prompt_embeds"], guidance_embedding(network, x_BCHW, how.guidance)
        more = {"timestep_cond": scale, "added_cond_kwargs": added, "return_dict": False}
        return network(x_BCHW, t_B, encoder_hidden_states=words, **more)[0]
