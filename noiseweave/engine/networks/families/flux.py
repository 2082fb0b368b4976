"""FLUX.1 of Black Forest Labs: dev, schnell and Fill (their code is at github.com/black-forest-labs/flux)."""

from __future__ import annotations

import torch
from torch import Tensor

from noiseweave.engine.networks.families.family import (
    Family,
    Guidance,
    How,
    Reader,
    Rows,
    even,
    packed,
    shifted_sigmas,
    unpacked,
)
from noiseweave.engine.networks.protocols import Network, Pipeline, Scheduler
from noiseweave.engine.networks.recipes import Usual
from noiseweave.engine.records import Json

SIDE = 128  # latents: its config has no size, its pipeline draws 1024 pixels


class Flux(Family):
    """A transformer over 2 x 2 latents a token, T5's tokens and CLIP's pooled embedding; a flow.

    dev is distilled with its guidance as an input, schnell without any: neither takes a negative prompt.
    """

    name = "flux"
    pipeline, filling = "FluxPipeline", "FluxFillPipeline"
    kind = "FluxTransformer2DModel"
    parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    patch = 2
    lora_layers = (
        *("attn.to_k", "attn.to_q", "attn.to_v", "attn.to_out.0"),
        *("attn.add_k_proj", "attn.add_q_proj", "attn.add_v_proj", "attn.to_add_out"),
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"),
    )

    def usual(self, network: Json, scheduler: Json) -> Usual:
        """dev's edit as FlowEdit has it (Kulikov et al., arXiv 2412.08629)."""
        if self.guidance(network) == "none":
            return Usual(steps=4, guidance=1.0, edit=(1.0, 1.0), fill=1.0, distilled=True)
        fill = 30.0 if self.sees_holes(network, 16) else 3.5
        return Usual(steps=28, guidance=3.5, edit=(1.5, 5.5), fill=fill)

    def guidance(self, network: Json) -> Guidance:
        """Embedded in dev and Fill."""
        return "embedded" if network.get("guidance_embeds") else "none"

    def channels(self, network: Json) -> int:
        """Four latents are one token."""
        return int(network.get("in_channels") or 64) // self.patch**2

    def sees_holes(self, network: Json, latent_channels: int) -> bool:
        """Fill's is shown the masked picture's latents and, pixel by pixel, the mask."""
        return self.channels(network) == 2 * latent_channels + 64

    def beside(self, hole_B1HW: Tensor, around_BCHW: Tensor) -> Tensor:
        """The masked picture's latents, then the mask, the pixels of a latent as its channels."""
        factor = hole_B1HW.shape[-1] // around_BCHW.shape[-1]
        hole = torch.nn.functional.pixel_unshuffle(hole_B1HW.to(around_BCHW), factor)
        return torch.cat([around_BCHW, hole], 1)

    def side(self, network: Json) -> int:
        """The same for all."""
        return SIDE

    def encode(self, pipeline: Pipeline, text: str, negative: bool) -> tuple[Tensor, ...]:
        """T5's tokens; CLIP's pooled embedding."""
        return tuple(pipeline.encode_prompt(text, None, device=pipeline.device)[:2])

    def readers(self, pipeline: Pipeline) -> list[Reader]:
        """T5's, which reads on where CLIP stops."""
        return [Reader(tokenizer=pipeline.components["tokenizer_2"], most=512)]

    def predict(self, network: Network, x_BCHW: Tensor, t_B: Tensor, rows: Rows, how: How) -> Tensor:
        """Conditioned on sigma, 0 to 1. What is shown beside x goes in with it, the noisy latents first."""
        height, width = x_BCHW.shape[2:]
        words, x = rows["prompt_embeds"], self.pack(x_BCHW)
        embedded = network.config.guidance_embeds
        out = network(
            hidden_states=x,
            timestep=t_B.to(x.dtype) / 1000,
            guidance=torch.full((len(x),), how.guidance, device=x.device) if embedded else None,
            encoder_hidden_states=words,
            pooled_projections=rows["pooled_prompt_embeds"],
            txt_ids=x.new_zeros(words.shape[1], 3),
            img_ids=_places(height // self.patch, width // self.patch).to(x),
            return_dict=False,
        )[0]
        return self.unpack(out, (height, width))

    def sigmas(self, scheduler: Scheduler, steps: int, size: tuple[int, int]) -> Tensor:
        """Even levels, moved by the number of tokens: dev's scheduler; schnell's leaves them as they are."""
        tokens = size[0] * size[1] // self.patch**2
        return shifted_sigmas(scheduler, steps, tokens, 1.15, sigmas=even(steps))

    def pack(self, z_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> tokens, [B, H W / 4, 4 C]."""
        return packed(z_BCHW, self.patch)

    def unpack(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        """And back."""
        return unpacked(z, size, self.patch)


def _places(height: int, width: int) -> Tensor:
    """Row and column of each token, [height width, 3]; the first number is 0."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1)
