"""What LoRA files call the layers of a pipeline: diffusers' names, new and old, and kohya's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace

import torch

PARTS = ("unet", "text_encoder", "text_encoder_2")
KOHYA = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
# what the keys of a layer's A, B, alpha and DoRA's magnitudes end with, in all formats
ENDS = {
    ".lora_A.weight": "A",
    ".lora.down.weight": "A",
    ".lora_linear_layer.down.weight": "A",
    "_lora.down.weight": "A",
    ".lora_down.weight": "A",
    ".lora_B.weight": "B",
    ".lora.up.weight": "B",
    ".lora_linear_layer.up.weight": "B",
    "_lora.up.weight": "B",
    ".lora_up.weight": "B",
    ".alpha": "alpha",
    ".lora_magnitude_vector": "m",  # DoRA's, in diffusers' files
    ".dora_scale": "dora",  # in kohya's
}
# what names of layers in a UNet begin with
UNET = (
    "conv_in.",
    "conv_out.",
    "time_embedding.",
    "add_embedding.",
    "down_blocks.",
    "mid_block.",
    "up_blocks.",
)


@dataclass(frozen=True)
class Layers:
    """The layers of a pipeline.

    Attributes:
        shapes: name, such as unet.conv_in -> [out, in, ...] of its weight; unet.conv_in.bias -> [out]. In a text
            encoder's names text_model is left out: some versions of transformers write it, others do not.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @cached_property
    def flat(self) -> dict[str, str]:
        """As kohya spells a name, which keeps no dots -> the name."""
        return {layer.replace(".", "_"): layer for layer in self.shapes}

    @cached_property
    def each_block(self) -> int:
        """Residual blocks in a block of the UNet."""
        return sum(f"unet.down_blocks.0.resnets.{i}.conv1" in self.shapes for i in range(16)) or 1

    def called(self, key: str) -> str:
        """What a file calls a layer -> its name; there may be no such layer."""
        prefix = next((p for p in KOHYA if key.startswith(p)), None)
        if prefix is None:
            return _of_diffusers(key)
        rest = key.removeprefix(prefix).removeprefix("text_model_")
        return self.flat.get(f"{KOHYA[prefix]}_{rest}") or _of_original(key, self.each_block)


def has_layer(parameter: str, dimensions: int) -> bool:
    """Whether it is a layer's weight or bias; the weights of normalisations have one dimension."""
    return parameter.endswith(".bias") or (parameter.endswith(".weight") and dimensions > 1)


def layer_name(part: str, parameter: str) -> str:
    """A parameter of a pipeline's part -> the name of its layer, as ``Layers`` has it."""
    return f"{part}.{parameter.removesuffix('.weight').removeprefix('text_model.')}"


def _of_diffusers(key: str) -> str:
    """A dotted name, in the new or the old spelling; a UNet saved on its own comes without the word unet."""
    part, dot, rest = key.partition(".")
    if part not in PARTS:
        part, rest = "unet", part + dot + rest
    rest = rest.replace(".processor.", ".").removeprefix("text_model.")
    if part == "unet":
        return f"{part}.{rest}" + (".0" if rest.endswith(".to_out") else "")
    return f"{part}." + re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", rest)


def _of_original(key: str, each_block: int) -> str:
    """A kohya name after the blocks of the original code (input_blocks_4_1_...), as SDXL's are; diffusers knows them.

    Only the names are diffusers' here, and not its loading: docs/decisions.md says why.
    """
    from diffusers import StableDiffusionXLPipeline

    pair = {f"{key}.lora_{side}.weight": torch.empty(1, 1) for side in ("down", "up")}
    try:
        renamed, _ = StableDiffusionXLPipeline.lora_state_dict(
            pair, unet_config=SimpleNamespace(layers_per_block=each_block)
        )
        name = min(renamed)
    except (ValueError, KeyError, IndexError):
        return key
    return _of_diffusers(name.removesuffix(next((e for e in ENDS if name.endswith(e)), "")))
