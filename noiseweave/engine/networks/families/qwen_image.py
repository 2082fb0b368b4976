"""Qwen-Image (Alibaba, arXiv 2508.02324)."""

from __future__ import annotations

from torch import Tensor

from noiseweave.engine.networks.families.family import (
    Family,
    How,
    Reader,
    Rows,
    even,
    filled_up,
    packed,
    shifted_sigmas,
    unpacked,
)
from noiseweave.engine.networks.protocols import Network, Pipeline, Scheduler
from noiseweave.engine.networks.recipes import Usual
from noiseweave.engine.records import Json

SIDE = 128  # latents: its config has no size, its pipeline draws 1024 pixels
TOKENS = 512  # that its pipeline takes of a prompt; those of the template before it are no part of them
TINY = 1e-12  # length of a token's prediction below which it stays as it is


class QwenImage(Family):
    """A transformer of joint attention over 2 x 2 latents a token and a language model's tokens; a flow.

    Its VAE is one of videos, see ``latents``.
    """

    name = "qwen_image"
    pipeline, kind = "QwenImagePipeline", "QwenImageTransformer2DModel"
    embeddings = ("prompt_embeds", "prompt_embeds_mask")
    patch = 2

    def usual(self, network: Json, scheduler: Json) -> Usual:
        """As its authors draw; no edit of it is published, so the replay has the guidance of a drawing."""
        return Usual(steps=50, guidance=4.0, edit=(1.0, 4.0), fill=4.0)

    def channels(self, network: Json) -> int:
        """Four latents are one token."""
        return int(network.get("in_channels") or 64) // self.patch**2

    def side(self, network: Json) -> int:
        """The same for all."""
        return SIDE

    def encode(self, pipeline: Pipeline, text: str, negative: bool) -> tuple[Tensor, ...]:
        """The tokens' states, filled up with zeros to 512, and 1 where there is a token; no words are a space."""
        (words_LD,), _ = pipeline.encode_prompt(
            text or " ", device=pipeline.device, max_sequence_length=TOKENS
        )
        return filled_up(words_LD, TOKENS)

    def readers(self, pipeline: Pipeline) -> list[Reader]:
        """What its template has behind the words is given up first."""
        return [Reader(tokenizer=pipeline.tokenizer, most=TOKENS, ends=0)]

    def predict(self, network: Network, x_BCHW: Tensor, t_B: Tensor, rows: Rows, how: How) -> Tensor:
        """Without the filling that no row needs."""
        height, width = x_BCHW.shape[2:]
        x, shape = self.pack(x_BCHW), (1, height // self.patch, width // self.patch)
        words, mask = _tokens(rows["prompt_embeds"], rows["prompt_embeds_mask"])
        out = network(
            hidden_states=x,
            timestep=t_B.to(x.dtype) / 1000,
            encoder_hidden_states=words,
            encoder_hidden_states_mask=mask,
            img_shapes=[[shape]] * len(x),
            return_dict=False,
        )[0]
        return self.unpack(out, (height, width))

    def rescaled(self, guided_BCHW: Tensor, conditional_BCHW: Tensor) -> Tensor:
        """Each token as long as the conditional prediction's, as its pipeline has it."""
        guided, conditional = self.pack(guided_BCHW), self.pack(conditional_BCHW)
        own = guided.norm(dim=-1, keepdim=True).clamp_min(TINY)
        height, width = guided_BCHW.shape[2:]
        return self.unpack(guided * (conditional.norm(dim=-1, keepdim=True) / own), (height, width))

    def sigmas(self, scheduler: Scheduler, steps: int, size: tuple[int, int]) -> Tensor:
        """Even levels, moved by the number of tokens and stretched to the scheduler's last one."""
        tokens = size[0] * size[1] // self.patch**2
        return shifted_sigmas(scheduler, steps, tokens, 1.15, sigmas=even(steps))

    def options(self, guidance: float, eta: float) -> Json:
        """Its guidance_scale is that of a distilled network, which there is none of."""
        return {"true_cfg_scale": guidance}

    def arguments(self, embeddings: Rows) -> Json:
        """Without the filling."""
        out: Json = {}
        for name in ("prompt_embeds", "negative_prompt_embeds"):
            if name in embeddings:
                out[name], out[f"{name}_mask"] = _tokens(embeddings[name], embeddings[f"{name}_mask"])
        return out

    def pack(self, z_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> tokens, [B, H W / 4, 4 C]."""
        return packed(z_BCHW, self.patch)

    def unpack(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        """And back."""
        return unpacked(z, size, self.patch)


def _tokens(words_BLD: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
    """As long as the longest row, and where there are tokens, bool [B, L]; a mixture of two has those of both."""
    present_BL = mask_BL > 0
    longest = int(present_BL.sum(1).max())
    return words_BLD[:, :longest], present_BL[:, :longest]
