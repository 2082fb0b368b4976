"""scripts/grow_model.py: what a model of latents has learnt is the inner part of one of twice its side."""

import importlib.util
import json
import sys
from pathlib import Path

import torch
from diffusers import UNet2DModel

from noiseweave.engine.networks import base_models
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.models import resolve

spec = importlib.util.spec_from_file_location(
    "grow_model", Path(__file__).parents[1] / "scripts" / "grow_model.py"
)
grow_model = importlib.util.module_from_spec(spec)
spec.loader.exec_module(grow_model)


def small() -> UNet2DModel:
    return UNet2DModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=3,
    )


def test_the_inner_levels_are_those_of_the_old_network():
    old = small()
    new = grow_model.grown(old, groups=8)
    assert (new.config.sample_size, new.config.block_out_channels) == (8, (8, 16, 32))
    was, now = old.state_dict(), new.state_dict()
    for name, inner in (
        ("down_blocks.1.attentions.0.to_q.weight", "down_blocks.2.attentions.0.to_q.weight"),
        ("mid_block.resnets.0.conv1.weight",) * 2,
        ("up_blocks.0.resnets.1.conv2.weight",) * 2,
        ("class_embedding.weight",) * 2,
    ):
        assert torch.equal(was[name], now[inner])
    taken = sum(w.numel() for n, w in was.items() if now[grow_model.inner_name(n)].shape == w.shape)
    assert taken > 0.85 * sum(w.numel() for w in was.values())
    x = torch.randn(2, 4, 8, 8)
    assert new(x, torch.tensor([10, 20]), class_labels=torch.tensor([0, 2])).sample.shape == x.shape


def test_half_the_frequencies_are_every_other_one():
    """The sines of 16 channels are those of every other one of 32; so neighbours' weights are added."""
    from diffusers.models.embeddings import get_timestep_embedding

    t, weight = torch.tensor([3.0]), torch.randn(5, 32)
    wide, narrow = (
        get_timestep_embedding(t, n, flip_sin_to_cos=True, downscale_freq_shift=0) for n in (32, 16)
    )
    assert torch.allclose(wide[:, ::2], narrow, atol=1e-6)
    doubled = narrow.repeat_interleave(2, dim=1)
    assert torch.allclose(
        doubled @ weight.T, narrow @ grow_model.of_half_the_frequencies(weight).T, atol=1e-5
    )


def test_the_folder_is_a_model_to_start_from(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["grow_model.py", "flowers-flow", str(tmp_path / "new")])
    grow_model.main()
    size = json.loads((Path(resolve("flowers-flow")) / "noiseweave.json").read_text())["size"]
    model = base_models.load(ModelConfig(name=str(tmp_path / "new")))
    assert (model.size, model.noise_shape[-1]) == (2 * size, 2 * size // 8)
