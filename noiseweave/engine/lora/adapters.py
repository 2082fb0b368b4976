"""The weights of a pipeline that are trained, and the files that they are kept in.

With LoRA (Hu et al., arXiv 2106.09685, equation 3) a chosen layer W [out, in] becomes W + alpha / r B A: peft holds A
[r, in] and B [out, r], B is zero at first. All else is frozen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save
from torch import Tensor, nn

from noiseweave.engine.lora.names import NETWORKS
from noiseweave.engine.lora.recipes import LoraRecipe
from noiseweave.engine.lora.weights import METADATA
from noiseweave.engine.networks.families.family import Family
from noiseweave.engine.networks.families.registry import family_of
from noiseweave.engine.networks.protocols import Pipeline
from noiseweave.engine.records import Json
from noiseweave.engine.seeding import seed_of

ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")  # attention's projections in transformers' CLIP
# SDXL's own names for two layers, the only ones that diffusers, reading a kohya file, knows by no other name
ORIGINAL = {"add_embedding_linear_1": "label_emb_0_0", "add_embedding_linear_2": "label_emb_0_2"}
PEFT = ".default."  # peft writes the adapter's name into those of its weights: lora_A.default.weight


def attach(pipeline: Pipeline, recipe: LoraRecipe, seed: int) -> dict[str, nn.Module]:
    """Freeze a pipeline but for the weights that a recipe trains: float32, LoRA's a function of the seed.

    A pipeline takes it once. Where its own weights are half precision, LoRA's run in float32 beside them; partial
    needs autocast there.

    Returns:
        The networks with trained weights: unet or transformer, and with ``recipe.text_encoder`` text_encoder and, of
        SDXL, text_encoder_2.

    Raises:
        ValueError: one line: a target that is no layer, or a rank over a layer's width.
    """
    family = family_of(pipeline)
    parts = [family.network, *(("text_encoder", "text_encoder_2") if recipe.text_encoder else ())]
    networks = {part: getattr(pipeline, part, None) for part in parts}
    present = {part: network for part, network in networks.items() if network is not None}
    chosen = {part: _chosen(part, network, recipe, family, len(present)) for part, network in present.items()}
    for frozen in pipeline.components.values():
        if isinstance(frozen, nn.Module):
            frozen.requires_grad_(False)
    for part, layers in chosen.items():
        if recipe.method == "partial":
            for layer in layers.values():
                layer.requires_grad_(True).float()
        else:
            _insert(present[part], list(layers), recipe, seed_of(seed, "adapter", part))
    return present


def check_targets(family: Family, config: Json, recipe: LoraRecipe) -> None:
    """Raise ValueError as ``attach`` does, from a network's config alone: no weight is read."""
    import diffusers

    kind = getattr(diffusers, family.kind)
    with torch.device("meta"):
        network = kind.from_config(dict(config))
    _chosen(family.network, network, recipe, family, 1)


def _insert(network: Any, layers: list[str], recipe: LoraRecipe, seed: int) -> None:
    # peft's own hint says int of alpha; it takes any number
    more: Json = {"lora_alpha": recipe.strength, "lora_dropout": recipe.dropout}
    config = LoraConfig(r=recipe.rank, target_modules=layers, **more)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.add_adapter(config, "default")
    network.train(network.training)  # peft's new dropout layers do not ask which mode the network is in
    for p in network.parameters():
        if p.requires_grad:
            p.data = p.data.float()


def _chosen(part: str, network: Any, recipe: LoraRecipe, family: Family, parts: int) -> Json:
    """The layers that are trained, by name."""
    targets = (recipe.targets or family.lora_layers) if part in NETWORKS else ATTENTION
    layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    for target in targets:
        if not any(_is(name, target) for name in layers):
            has = ", ".join(sorted({_tail(name) for name in layers}))
            raise ValueError(
                f"lora.targets={target!r}: no linear or convolution layer of the {part} is called so; it has {has}"
            )
    found = {n: m for n, m in layers.items() if any(_is(n, t) for t in targets)}
    if part == "text_encoder" and parts == 3:  # SDXL reads the state before the first encoder's last layer
        last = f"layers.{network.config.num_hidden_layers - 1}."
        found = {n: m for n, m in found.items() if last not in n}
    if recipe.method == "lora":
        _check_rank(part, found, recipe.rank)
    return found


def _is(name: str, target: str) -> bool:
    return name == target or name.endswith("." + target)


def _tail(name: str) -> str:
    """The end that says what a layer is: to_q, to_out.0."""
    *above, last = name.split(".")
    return f"{above[-1]}.{last}" if last.isdecimal() and above else last


def _check_rank(part: str, layers: Json, rank: int) -> None:
    widths = {name: min(layer.weight.flatten(1).shape) for name, layer in layers.items()}
    narrowest = min(widths, key=lambda name: widths[name])
    if rank > widths[narrowest]:
        raise ValueError(
            f"lora.rank={rank}: at most {widths[narrowest]}, the width of {part}.{narrowest}, the narrowest layer"
        )


# state


def _trained(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((n.replace(PEFT, "."), p) for n, p in network.named_parameters() if p.requires_grad)


def state(network: nn.Module) -> dict[str, Tensor]:
    """The trained weights by name, such as ``....attn1.to_q.lora_A.weight``; not copied."""
    return {name: p.detach() for name, p in _trained(network)}


@torch.no_grad()
def load(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Take the trained weights from ``state``.

    Raises:
        ValueError: one line: they are of other layers or of another rank.
    """
    trained = dict(_trained(network))
    unfit = sorted(n for n, p in trained.items() if n not in state or state[n].shape != p.shape)
    unfit += sorted(state.keys() - trained.keys())
    if unfit:
        raise ValueError(f"weights of another adapter: {len(unfit)} do not fit, the first is {unfit[0]}")
    for name, p in trained.items():
        p.copy_(state[name])


# files


def files(state: Mapping[str, Tensor], recipe: LoraRecipe) -> dict[str, bytes]:
    """The files that trained weights are kept in, by name.

    Args:
        state: as ``state`` gives it, with the network's name in front of each: unet.mid_block....
    """
    plain = {name: t.detach().cpu().contiguous() for name, t in state.items()}
    network = next(n for n in NETWORKS if any(name.startswith(f"{n}.") for name in plain))
    if recipe.method == "partial":
        own = {name.removeprefix(f"{network}."): t for name, t in plain.items()}
        return {f"{network}_partial_tuned.safetensors": save(own, {"format": "pt"})}
    return {
        f"lora_{network}.safetensors": _diffusers(plain, recipe),
        f"lora_{network}_kohya.safetensors": _kohya(plain, recipe),
    }


def _diffusers(state: Mapping[str, Tensor], recipe: LoraRecipe) -> bytes:
    """peft's names, and as much of its config as each of its versions can read."""
    header: Json = {}
    for part in dict.fromkeys(_split(name)[0] for name in state):
        layers = sorted({_split(n)[1].partition(".lora_")[0] for n in state if _split(n)[0] == part})
        own = {"r": recipe.rank, "lora_alpha": recipe.strength, "target_modules": layers}
        header |= {f"{part}.{field}": value for field, value in own.items()}
    # diffusers takes text_model away where a text encoder has none, and never adds it
    tensors = {".".join(_with_model(*_split(name))): t for name, t in state.items()}
    return save(tensors, {"format": "pt", METADATA: json.dumps(header, sort_keys=True)})


def _kohya(state: Mapping[str, Tensor], recipe: LoraRecipe) -> bytes:
    """kohya's names, which have no dots but at the end, with an alpha for each layer; of a transformer OneTrainer's."""
    parts = {_split(name)[0] for name in state}
    first = "te1" if "text_encoder_2" in parts else "te"
    short = {network: network for network in NETWORKS} | {"text_encoder": first, "text_encoder_2": "te2"}
    tensors = {}
    for name, t in state.items():
        part, rest = _with_model(*_split(name))
        layer, _, side = rest.removesuffix(".weight").partition(".lora_")
        flat = layer.replace(".", "_")
        key = f"lora_{short[part]}_{ORIGINAL.get(flat, flat)}"
        tensors[f"{key}.lora_{'down' if side == 'A' else 'up'}.weight"] = t
        tensors[f"{key}.alpha"] = torch.tensor(recipe.strength)
    header = {
        "ss_network_module": "networks.lora",
        "ss_network_dim": recipe.rank,
        "ss_network_alpha": recipe.strength,
    }
    return save(tensors, {"format": "pt", **{k: str(v) for k, v in header.items()}})


def _split(name: str) -> tuple[str, str]:
    """(network, layer and weight): text_model, which not all versions of transformers have, is left out."""
    part, _, rest = name.partition(".")
    return part, rest.removeprefix("text_model.")


def _with_model(part: str, rest: str) -> tuple[str, str]:
    return part, rest if part in NETWORKS else f"text_model.{rest}"
