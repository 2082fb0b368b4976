"""What LoRA files call the layers of a pipeline: diffusers' names, new and old, kohya's and ComfyUI's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace

import torch
from torch import Tensor

NETWORKS = ("unet", "transformer")
PARTS = (*NETWORKS, "text_encoder", "text_encoder_2")
PREFIXES = {
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "lora_transformer_": "transformer",
}
"""What kohya's names of a part begin with, and OneTrainer's of a transformer; lora_unet_ is the network in any case."""
COMFY = {"text_encoders.clip_l.transformer.": "text_encoder.", "diffusion_model.": ""}
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
# what names of layers in a network begin with
OWN = {
    "unet": (
        *("conv_in.", "conv_out.", "time_embedding.", "add_embedding."),
        *("down_blocks.", "mid_block.", "up_blocks."),
    ),
    "transformer": (
        *("transformer_blocks.", "single_transformer_blocks.", "x_embedder.", "context_embedder."),
        *("time_text_embed.", "norm_out.", "proj_out.", "pos_embed."),
        *("layers.", "noise_refiner.", "context_refiner.", "all_x_embedder.", "all_final_layer."),
        *("cap_embedder.", "t_embedder.", "img_in.", "txt_in."),
    ),
}


@dataclass(frozen=True)
class Layers:
    """The layers of a pipeline.

    Attributes:
        shapes: name, such as unet.conv_in -> [out, in, ...] of its weight; unet.conv_in.bias -> [out]. In a text
            encoder's names text_model is left out: some versions of transformers write it, others do not.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @cached_property
    def network(self) -> str:
        """The part that takes noise off: unet or transformer."""
        return "transformer" if any(n.startswith("transformer.") for n in self.shapes) else "unet"

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
        prefixes = PREFIXES | {"lora_unet_": self.network}
        prefix = next((p for p in prefixes if key.startswith(p)), None)
        if prefix is None:
            return _of_diffusers(key, self.network)
        rest = key.removeprefix(prefix).removeprefix("text_model_")
        known = self.flat.get(f"{prefixes[prefix]}_{rest}")
        return known or (_of_original(key, self.each_block) if self.network == "unet" else key)

    def split(self, key: str, A: Tensor, B: Tensor) -> list[tuple[str, Tensor, Tensor]]:
        """What a file calls a layer, with its A and B -> (name, A, B): several where the file has fused them."""
        layer = self.called(key)
        whole = [(layer, A, B)]
        if layer in self.shapes or self.network == "unet":
            return whole
        return _of_black_forest(key, A, B) or whole


def has_layer(parameter: str, dimensions: int) -> bool:
    """Whether it is a layer's weight or bias; the weights of normalisations have one dimension."""
    return parameter.endswith(".bias") or (parameter.endswith(".weight") and dimensions > 1)


def layer_name(part: str, parameter: str) -> str:
    """A parameter of a pipeline's part -> the name of its layer, as ``Layers`` has it."""
    return f"{part}.{parameter.removesuffix('.weight').removeprefix('text_model.')}"


def _of_diffusers(key: str, network: str) -> str:
    """A dotted name, in the new or the old spelling; a network saved on its own comes without the word unet."""
    for prefix, own in COMFY.items():
        key = own + key.removeprefix(prefix) if key.startswith(prefix) else key
    part, dot, rest = key.partition(".")
    if part not in PARTS:
        part, rest = network, part + dot + rest
    rest = rest.replace(".processor.", ".").removeprefix("text_model.")
    if part in NETWORKS:
        return f"{part}.{rest}" + (".0" if rest.endswith(".to_out") else "")
    return f"{part}." + re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", rest)


# Only the names are diffusers' here, and not its loading: docs/decisions.md says why.


def _of_original(key: str, each_block: int) -> str:
    """A kohya name after the blocks of the original code (input_blocks_4_1_...), as SDXL's are."""
    from diffusers import StableDiffusionXLPipeline

    pair = {f"{key}.lora_{side}.weight": torch.empty(1, 1) for side in ("down", "up")}
    try:
        renamed, _ = StableDiffusionXLPipeline.lora_state_dict(
            pair, unet_config=SimpleNamespace(layers_per_block=each_block)
        )
        name = min(renamed)
    except (ValueError, KeyError, IndexError):
        return key
    return _of_diffusers(name.removesuffix(next((e for e in ENDS if name.endswith(e)), "")), "unet")


def _of_black_forest(key: str, A: Tensor, B: Tensor) -> list[tuple[str, Tensor, Tensor]]:
    """A layer after the names of FLUX.1's own code (double_blocks.0.img_attn.qkv), kohya's or ComfyUI's spelling.

    That code has queries, keys and values in one layer, diffusers in three; diffusers knows which rows are whose.
    """
    from diffusers import FluxPipeline

    flat = "lora_unet_" + re.sub(r"^(lora_unet_|diffusion_model\.)", "", key).replace(".", "_")
    # with an alpha of the rank diffusers scales nothing: the scale is the file's, and read elsewhere
    tensors = {"lora_down.weight": A, "lora_up.weight": B, "alpha": torch.tensor(float(len(A)))}
    try:
        found = FluxPipeline.lora_state_dict({f"{flat}.{end}": x for end, x in tensors.items()})
    except (ValueError, KeyError, IndexError, AssertionError, RuntimeError):
        return []  # another name, or of another width than FLUX.1's
    names = [n.removesuffix(".lora_A.weight") for n in found if n.endswith(".lora_A.weight")]
    return [
        (_of_diffusers(n, "transformer"), found[f"{n}.lora_A.weight"], found[f"{n}.lora_B.weight"])
        for n in names
    ]


# whose


SD3, FLUX, Z_IMAGE, QWEN = "Stable Diffusion 3", "FLUX.1", "Z-Image", "Qwen-Image"
WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
"""Of the words that a U-Net attends to, by which models they are told apart."""
MARKS = {
    r"(double|single|single_transformer)_blocks_\d": FLUX,
    r"joint_blocks_\d|(^|_)transformer_blocks_\d+_attn2_": SD3,
    r"noise_refiner_\d|context_refiner_\d|(^|model_|transformer_|unet_)layers_\d+_(attention|feed_forward)": Z_IMAGE,
    r"(^|_)transformer_blocks_\d+_(img|txt)_(mlp|mod)_": QWEN,
}


def made_for(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """The families of models that names of layers, in any spelling, and their widths speak of; () where they do not.

    Args:
        shapes: name -> [out, in, ...], of a file's layers or of a model's.
    """
    flat = {re.sub(r"[./]", "_", name): shape for name, shape in shapes.items()}
    names = "\n".join(flat)

    def widths(end: str) -> set[int]:
        return {shape[1] for name, shape in flat.items() if name.endswith(end) and len(shape) > 1}

    if re.search(r"(down|up|input|output)_blocks_\d|mid(dle)?_block_", names):
        if re.search(r"^(lora_te2_|text_encoder_2_)|add_embedding|label_emb", names, re.M):
            return ("Stable Diffusion XL",)
        return tuple(WIDTHS[n] for n in sorted(widths("attn2_to_k") & WIDTHS.keys())) or tuple(
            WIDTHS.values()
        )
    marked = [family for pattern, family in MARKS.items() if re.search(pattern, names, re.M)]
    blocks = [int(n) for n in re.findall(r"(?:^|_)transformer_blocks_(\d+)_", names, re.M)]
    if marked or not blocks:
        return tuple(marked[:1])
    # FLUX.1 has 19 such blocks of 3072 values, Qwen-Image 60, SD3 24 or 38 of 1536 or 2432
    wide = widths("attn_to_q")
    if max(blocks) >= 38 or (3072 in wide and max(blocks) >= 19):
        return (QWEN,)
    if wide & {1536, 2432} or max(blocks) >= 19:
        return (SD3,)
    return (FLUX,) if 3072 in wide else (SD3, FLUX)
