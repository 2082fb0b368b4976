"""Stable Diffusion 3 and 3.5 (Esser et al., arXiv 2403.03206)."""

from __future__ import annotations

from torch import Tensor

from noiseweave.engine.networks.families.family import Family, How, Reader, Rows, shifted_sigmas
from noiseweave.engine.networks.protocols import Network, Pipeline, Scheduler
from noiseweave.engine.networks.recipes import Usual
from noiseweave.engine.records import Json


class StableDiffusion3(Family):
    """A transformer of joint attention over latents and the tokens of two CLIPs and T5; a flow.

    A folder whose text_encoder_3 is null does without T5, as diffusers' pipeline can.
    """

    name = "sd3"
    pipeline, kind = "StableDiffusion3Pipeline", "SD3Transformer2DModel"
    parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    patch = 2
    lora_layers = (
        "attn.add_k_proj",
        "attn.add_q_proj",
        "attn.add_v_proj",
        "attn.to_add_out",
        "attn.to_k",
        "attn.to_out.0",
        "attn.to_q",
        "attn.to_v",
    )

    def usual(self, network: Json, scheduler: Json) -> Usual:
        """The edit's as FlowEdit has them (Kulikov et al., arXiv 2412.08629)."""
        return Usual(steps=28, guidance=7.0, edit=(3.5, 13.5), fill=7.0)

    def most(self, network: Json) -> int | None:
        """Its table of places has an end."""
        places = network.get("pos_embed_max_size")
        return places and int(places) * int(network.get("patch_size", 2))

    def encode(self, pipeline: Pipeline, text: str, negative: bool) -> tuple[Tensor, ...]:
        """CLIP's tokens, then T5's; the pooled ones of both CLIPs side by side."""
        out = pipeline.encode_prompt(
            text, None, None, device=pipeline.device, do_classifier_free_guidance=False
        )
        return out[0], out[2]

    def readers(self, pipeline: Pipeline) -> list[Reader]:
        """T5's, which reads on where CLIP stops."""
        t5 = pipeline.components["tokenizer_3"]
        return super().readers(pipeline)[:1] if t5 is None else [Reader(tokenizer=t5, most=256)]

    def predict(self, network: Network, x_BCHW: Tensor, t_B: Tensor, rows: Rows, how: How) -> Tensor:
        """Conditioned on the time step as it is."""
        return network(
            hidden_states=x_BCHW,
            timestep=t_B,
            encoder_hidden_states=rows["prompt_embeds"],
            pooled_projections=rows["pooled_prompt_embeds"],
            return_dict=False,
        )[0]

    def sigmas(self, scheduler: Scheduler, steps: int, size: tuple[int, int]) -> Tensor:
        """Shifted once for all sizes, or by the number of tokens where the scheduler's config says so."""
        return shifted_sigmas(scheduler, steps, size[0] * size[1] // self.patch**2, 1.16)
