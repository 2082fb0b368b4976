"""How much memory a pipeline takes: its parameters, part by part, counted from its configs without a weight read.

Activations are not in it: they grow with the pictures, and a micro-batch that does not fit is halved.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from noiseweave.engine.networks import dcgan, pretrained, vae
from noiseweave.engine.networks.facts import ModelFacts
from noiseweave.engine.networks.recipes import Precision
from noiseweave.engine.records import Json

MODULES = {
    "diffusers": "diffusers",
    "transformers": "transformers",
    "stable_diffusion": "diffusers.pipelines.stable_diffusion",  # its safety checker
}
BYTES: Mapping[Precision, int] = {"fp32": 4, "bf16": 2, "fp16": 2}
WORKING = {"unet": 0.15, "transformer": 0.25}
"""Share of a network's parameters that work at a place: a U-Net's lower levels are smaller (counted: 0.11 of Stable
Diffusion 1.5, 0.17 of flowers-flow and digits-ddpm), a transformer takes 2 x 2 places as one token."""
ROOM = 1.25  # of the weights: what activations, caches and the CUDA context take at the least
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What a model's weights take.

    Attributes:
        parameters: of each part that has any, in the order of its model_index.json.
    """

    parameters: Mapping[str, int]

    @property
    def total(self) -> int:
        """Parameters of all parts."""
        return sum(self.parameters.values())

    def bytes(self, precision: Precision) -> int:
        """Of the weights."""
        return self.total * BYTES[precision]

    def needed(self, precision: Precision) -> int:
        """Bytes that must be free for a worker, with the least ``ROOM`` beside its weights."""
        return int(self.bytes(precision) * ROOM)

    def workers(self, precision: Precision, free: int) -> int:
        """Workers that fit into so many bytes; 0 where none does."""
        return free // self.needed(precision)


def plan(model: ModelFacts) -> MemoryPlan:
    """Count the parameters of each part on torch's meta device, which holds no numbers.

    Raises:
        ValueError: one line, when a config is broken or names a class that is not there.
    """
    index = pretrained.read(model.name, model.folder, "model_index.json")
    parts = {part: named for part, named in index.items() if isinstance(named, list) and named[0]}
    found = {part: _parameters(model, part, *named) for part, named in parts.items()}
    return MemoryPlan(parameters={part: count for part, count in found.items() if count})


def flop_of_a_row(model: ModelFacts) -> float:
    """FLOP of one latent, or picture, through the network that takes noise off, estimated from its parameters.

    A product and a sum for each parameter at each place, times ``WORKING``. 0 of a baseline, which has no such network.
    """
    if not model.unet:
        return 0.0
    part = model.reader.network if model.conditioning == "text" else "unet"
    index = pretrained.read(model.name, model.folder, "model_index.json")
    places = (model.side / model.vae_scale_factor) ** 2
    return 2 * _parameters(model, part, *index[part]) * places * WORKING[part]


def _parameters(model: ModelFacts, part: str, library: str, kind: str) -> int:
    """0 of what has no weights: a scheduler, a tokenizer."""
    if not (model.folder / part / "config.json").is_file():
        return 0
    config = pretrained.read(model.name, model.folder, f"{part}/config.json")
    with pretrained.one_line(model.name, model.folder / part), torch.device("meta"):
        network = _network(library, kind, config)
    return sum(p.numel() for p in network.parameters())


def _network(library: str, kind: str, config: Json) -> nn.Module:
    """Only of the libraries that pipelines are made of: a folder never says what else is imported."""
    own = {"VAE": vae.VAE, "Generator": dcgan.Generator}
    made = own[kind] if library == "noiseweave" else getattr(importlib.import_module(MODULES[library]), kind)
    if library in ("transformers", "stable_diffusion"):
        return made(made.config_class(**config))
    return made.from_config(config)


def check_fits(model: ModelFacts, precision: Precision, device: str) -> None:
    """Raise ValueError, one line that says how much is needed, when a pipeline's weights do not fit into memory."""
    needed, free = plan(model).bytes(precision), free_bytes(device)
    if free is not None and needed > free:
        where = "GPU" if torch.device(device).type == "cuda" else "main memory"
        raise ValueError(
            f"model {model.name!r}: its weights take {needed / GIB:.1f} GiB in {precision}, and {free / GIB:.1f} GiB "
            f"of {where} are free; give it more, or a smaller precision (model.precision)"
        )


def free_bytes(device: str) -> int | None:
    """What is free on a device now; None where that cannot be said."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kib = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), None)
    return None if kib is None else int(kib) * 1024
