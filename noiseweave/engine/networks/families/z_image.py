"""Z-Image and Z-Image-Turbo (Tongyi-MAI, arXiv 2511.22699)."""

from __future__ import annotations

import torch
from torch import Tensor

from noiseweave.engine.networks.families.family import (
    Family,
    How,
    Reader,
    Rows,
    even,
    filled_up,
    shifted_sigmas,
)
from noiseweave.engine.networks.protocols import Network, Pipeline, Scheduler
from noiseweave.engine.networks.recipes import Usual
from noiseweave.engine.records import Json

SIDE = 128  # latents: its config has no size, its pipeline draws 1024 pixels
TOKENS = 512  # of a prompt in its chat template


class ZImage(Family):
    """One stream of latents and a language model's tokens, as many as the prompt has; a flow.

    Its network takes lists of tensors, is conditioned on 1 - sigma, and gives x_0 - eps.
    """

    name = "z_image"
    pipeline, kind = "ZImagePipeline", "ZImageTransformer2DModel"
    embeddings = ("prompt_embeds", "prompt_mask")
    patch = 2

    def usual(self, network: Json, scheduler: Json) -> Usual:
        """Turbo's, whose guidance is distilled: the configs of both are alike."""
        return Usual(steps=9, guidance=1.0, edit=(1.0, 1.0), fill=1.0)

    def side(self, network: Json) -> int:
        """The same for all."""
        return SIDE

    def encode(self, pipeline: Pipeline, text: str, negative: bool) -> tuple[Tensor, ...]:
        """The tokens' states, filled up with zeros to 512, and 1 where there is a token."""
        (words_LD,), _ = pipeline.encode_prompt(
            text, device=pipeline.device, do_classifier_free_guidance=False
        )
        return filled_up(words_LD, TOKENS)

    def readers(self, pipeline: Pipeline) -> list[Reader]:
        """Its chat template comes before the words."""
        tokenizer, mark = pipeline.tokenizer, "X"
        said = tokenizer.apply_chat_template([{"role": "user", "content": mark}], tokenize=False)
        before = len(tokenizer(said.partition(mark)[0]).input_ids)
        return [Reader(tokenizer=tokenizer, most=TOKENS - before, ends=0)]

    def predict(self, network: Network, x_BCHW: Tensor, t_B: Tensor, rows: Rows, how: How) -> Tensor:
        """Without the filling; the sign turned, so that it is the velocity towards noise."""
        out = network(
            list(x_BCHW.unsqueeze(2)),
            (1000 - t_B.float()) / 1000,
            _tokens(rows["prompt_embeds"], rows["prompt_mask"]),
            return_dict=False,
        )[0]
        return -torch.stack(out).squeeze(2)

    def sigmas(self, scheduler: Scheduler, steps: int, size: tuple[int, int]) -> Tensor:
        """Even levels, moved as the scheduler's config says."""
        tokens = size[0] * size[1] // self.patch**2
        return shifted_sigmas(scheduler, steps, tokens, 1.15, sigmas=even(steps))

    def options(self, guidance: float, eta: float) -> Json:
        """Its pipeline counts guidance from 0: c + s (c - u)."""
        return {"guidance_scale": guidance - 1}

    def arguments(self, embeddings: Rows) -> Json:
        """Lists of the tokens that there are."""
        pairs = {prefix: f"{prefix}prompt_embeds" for prefix in ("", "negative_")}
        return {
            name: _tokens(embeddings[name], embeddings[f"{prefix}prompt_mask"])
            for prefix, name in pairs.items()
            if name in embeddings
        }


def _tokens(words_BLD: Tensor, mask_BL: Tensor) -> list[Tensor]:
    return [words_LD[mask_L > 0] for words_LD, mask_L in zip(words_BLD, mask_BL, strict=True)]
