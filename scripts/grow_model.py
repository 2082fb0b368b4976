"""A latent base model as the start of one of twice its side: its levels become the inner ones of a new network.

    python scripts/grow_model.py MODEL NEW

The outer level, half as wide as the next, is random, and so are the few weights beside it whose shape changes with it;
`train --init NEW` goes on from there. Progressive growing (Karras et al., arXiv 1710.10196), in one step.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import UNet2DModel
from torch import Tensor

from noiseweave.engine.networks.facts import read_facts

GROUPS = 16
FACTS = "noiseweave.json"
OUTER = ("conv_in", "conv_norm_out", "conv_out")


def grown(old: UNet2DModel, groups: int = GROUPS) -> UNet2DModel:
    """The network of twice the side, float32, with the old one's weights wherever they fit."""
    c = old.config
    first, *_ = c.block_out_channels
    new = UNet2DModel(
        **{name: value for name, value in c.items() if not name.startswith("_")}
        | {
            "sample_size": 2 * c.sample_size,
            "block_out_channels": (first // 2, *c.block_out_channels),
            "down_block_types": ("DownBlock2D", *c.down_block_types),
            "up_block_types": (*c.up_block_types, "UpBlock2D"),
            "norm_num_groups": groups,
            "time_embedding_dim": c.time_embedding_dim or 4 * first,
        }
    )
    state = new.state_dict()
    for name, weight in old.float().state_dict().items():
        inner = inner_name(name)
        if inner == "time_embedding.linear_1.weight":
            weight = of_half_the_frequencies(weight)
        if not name.startswith(OUTER) and state[inner].shape == weight.shape:
            state[inner] = weight
    new.load_state_dict(state)
    return new


def inner_name(name: str) -> str:
    """What a weight is called where a level has come before the first."""
    head, *rest = name.split(".")
    return ".".join([head, str(int(rest[0]) + 1), *rest[1:]]) if head == "down_blocks" else name


def of_half_the_frequencies(weight_OI: Tensor) -> Tensor:
    """A layer on sines and cosines of I / 2 frequencies -> on every other of them: neighbours are added."""
    return weight_OI.unflatten(1, (-1, 2)).sum(2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a shipped one or a folder")
    parser.add_argument("new", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    folder = read_facts(args.model).folder
    shutil.copytree(folder, args.new)
    facts = json.loads((folder / FACTS).read_text())
    (args.new / FACTS).write_text(json.dumps(facts | {"size": 2 * facts["size"]}, indent=1) + "\n")
    grown(UNet2DModel.from_pretrained(folder / "unet", torch_dtype=torch.float32)).save_pretrained(
        args.new / "unet"
    )


if __name__ == "__main__":
    main()
