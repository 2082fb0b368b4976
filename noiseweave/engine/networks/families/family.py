"""What a family of text-to-image pipelines says of itself. A family is one file here and a line in ``registry``.

B rows, L tokens of D values, S kept steps; C, H, W are those of latents, sizes are (height, width) in pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from noiseweave.engine.networks.protocols import Network, Pipeline, Scheduler
from noiseweave.engine.networks.recipes import Usual
from noiseweave.engine.records import Json

Guidance = Literal["classifier-free", "embedded", "none"]
"""How strongly a prompt is followed: by two calls (arXiv 2207.12598), by an input of the network, or not at all."""

Rows = Mapping[str, Tensor]
"""What each of B rows is conditioned on: prompt_embeds [B, L, D], and what else a family's ``embeddings`` name."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """What reads words.

    Attributes:
        tokenizer: transformers'.
        most: tokens that it may give; what is beyond them is lost.
        ends: those of them that follow the words whatever they are.
    """

    tokenizer: Any
    most: int
    ends: int = 1


@dataclass(frozen=True, kw_only=True)
class How:
    """What a call is beside its rows.

    Attributes:
        size: (height, width) of the pictures in pixels, which SDXL is conditioned on.
        guidance: scale, where it is an input of the network.
    """

    size: tuple[int, int]
    guidance: float = 1.0


class Family:
    """A family of pipelines whose network works on a VAE's latents; what most of them share is said here.

    Attributes:
        name: as ``facts`` has it.
        pipeline: diffusers' class that draws pictures from texts.
        filling: diffusers' class whose network sees the hole that it fills, where there is one.
        also: diffusers' classes of folders that ``pipeline`` opens as well.
        network: the part that takes noise off.
        kind: diffusers' class of it.
        parts: that a folder must have, beside network, VAE and scheduler.
        embeddings: names of what a text becomes.
        patch: latents on a side of one token: the sides of latents are multiples of it.
        lora_layers: the layers of the network that a LoRA is put on.
    """

    name: str
    pipeline: str
    filling: str = ""
    also: tuple[str, ...] = ()
    network: Literal["unet", "transformer"] = "transformer"
    kind: str
    parts: tuple[str, ...] = ("text_encoder", "tokenizer")
    embeddings: tuple[str, ...] = ("prompt_embeds", "pooled_prompt_embeds")
    patch = 1
    lora_layers: tuple[str, ...] = ("to_k", "to_q", "to_v", "to_out.0")

    def network_of(self, pipeline: Pipeline) -> Any:
        """The network that takes noise off."""
        return getattr(pipeline, self.network)

    def usual(self, network: Json, scheduler: Json) -> Usual:
        """What is taken where a user does not choose, by their configs; ``network`` is the network's below too."""
        raise NotImplementedError

    def guidance(self, network: Json) -> Guidance:
        """How it is guided."""
        return "classifier-free"

    def channels(self, network: Json) -> int:
        """Channels of the noisy latents that the network takes, where it sees no hole."""
        return int(network.get("in_channels") or 0)

    def sees_holes(self, network: Json, latent_channels: int) -> bool:
        """Whether the network is shown a hole and what lies around it, beside the noisy latents."""
        return False

    def beside(self, hole_B1HW: Tensor, around_BCHW: Tensor) -> Tensor:
        """What a network that sees holes is shown beside the noisy latents, [B, C', H, W].

        Args:
            hole_B1HW: 1 in the hole, of each pixel.
            around_BCHW: ``latents.around``.
        """
        raise NotImplementedError

    def side(self, network: Json) -> int:
        """Latents on the (longer) side of what it was made for; 0 where its config does not say."""
        side = network.get("sample_size") or 0
        return side if isinstance(side, int) else max(side)

    def most(self, network: Json) -> int | None:
        """Latents on a side that it can take at most; None where there is no end."""
        return None

    def size(self, pipeline: Pipeline) -> tuple[int, int]:
        """What it was made for, in pixels."""
        side = self.side(self.network_of(pipeline).config) * int(pipeline.vae_scale_factor)
        return side, side

    def encode(self, pipeline: Pipeline, text: str, negative: bool) -> tuple[Tensor, ...]:
        """A text's ``embeddings``, one row each, as many as the family has.

        Args:
            negative: as what the picture keeps away from; the empty text is the family's own way of no words.
        """
        raise NotImplementedError

    def readers(self, pipeline: Pipeline) -> list[Reader]:
        """What reads words: a text that is too long for one of them is truncated."""
        both = [pipeline.tokenizer, getattr(pipeline, "tokenizer_2", None)]
        return [Reader(tokenizer=k, most=int(k.model_max_length)) for k in both if k is not None]

    def predict(self, network: Network, x_BCHW: Tensor, t_B: Tensor, rows: Rows, how: How) -> Tensor:
        """What the network gives of x at t, [B, C, H, W], as ``path.Path`` means it: of a flow v = eps - x_0.

        Args:
            t_B: diffusers' time step, 0 to 1000; of a flow 1000 sigma.
            rows: in the network's precision.
        """
        raise NotImplementedError

    def sigmas(self, scheduler: Scheduler, steps: int, size: tuple[int, int]) -> Tensor:
        """Of a flow: the S levels of noise that its own pipeline takes for latents of H x W, float64, descending."""
        raise NotImplementedError

    def rescaled(self, guided_BCHW: Tensor, conditional_BCHW: Tensor) -> Tensor:
        """What classifier-free guidance gives, as its own pipeline goes on with it; all that guides calls it."""
        return guided_BCHW

    def options(self, guidance: float, eta: float) -> Json:
        """What a call of diffusers' pipeline takes beside words, latents and steps."""
        return {"guidance_scale": guidance}

    def arguments(self, embeddings: Rows) -> Json:
        """Embeddings, and of guided ones the negative, as diffusers' pipeline takes them."""
        return dict(embeddings)

    def pack(self, z_BCHW: Tensor) -> Tensor:
        """Latents as diffusers' pipeline takes them."""
        return z_BCHW

    def unpack(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        """And back; size is that of the latents, H x W."""
        return z


def packed(z_BCHW: Tensor, patch: int) -> Tensor:
    """[B, C, H, W] -> tokens of patch x patch latents, [B, H W / patch^2, patch^2 C]."""
    return torch.nn.functional.pixel_unshuffle(z_BCHW, patch).flatten(2).transpose(1, 2)


def unpacked(z: Tensor, size: tuple[int, int], patch: int) -> Tensor:
    """And back; size is that of the latents, H x W."""
    height, width = (side // patch for side in size)
    return torch.nn.functional.pixel_shuffle(z.transpose(1, 2).unflatten(2, (height, width)), patch)


def shifted_sigmas(scheduler: Scheduler, steps: int, tokens: int, max_shift: float, **more: object) -> Tensor:
    """The scheduler's own levels of noise, moved as it moves them for so many tokens: float64 [S].

    The more tokens a picture has, the more noise it takes to hide it (Esser et al., arXiv 2403.03206, section 5.3.2).

    Args:
        max_shift: of the family, where the scheduler's config does not say.
        more: of its ``set_timesteps``.
    """
    # a single step has no end that could be stretched to the config's last level: 0 / 0
    one = {"shift_terminal": None} if steps == 1 else {}
    config, own = scheduler.config, scheduler.from_config(scheduler.config, **one)
    if config.get("use_dynamic_shifting"):
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
        slope = (high - low) / (many - few)
        more["mu"] = tokens * slope + low - slope * few
    own.set_timesteps(**({"num_inference_steps": steps} | more))
    return own.sigmas[:steps].double()


def filled_up(words_LD: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """A text's tokens filled up with zeros, [1, tokens, D], and 1 where there is one, [1, tokens]."""
    filled = words_LD.new_zeros(1, tokens, words_LD.shape[1])
    filled[0, : len(words_LD)] = words_LD
    return filled, (torch.arange(tokens, device=filled.device) < len(words_LD)).to(filled)[None]


def even(steps: int) -> list[float]:
    """Levels of noise from 1 to 1 / steps."""
    return torch.linspace(1, 1 / steps, steps, dtype=torch.float64).tolist()
