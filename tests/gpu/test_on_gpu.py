"""On a CUDA device: the pictures of a CPU, memory that runs out, half precision in drawing and training."""

import numpy as np
import pytest
import torch

from noiseweave.engine.networks import base_models
from noiseweave.engine.networks.micro_batch import MicroBatch
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.sampling import samplers
from noiseweave.engine.sampling.recipes import SamplerRecipe
from noiseweave.jobs.cli import main

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm-solver++"])
def test_a_picture_is_the_same_as_on_a_cpu(name):
    """Ancestral noise is drawn on the CPU too; 20 steps keep rounding below two grey levels for nearly all."""
    recipe = SamplerRecipe(name=name, steps=20)
    on = {d: base_models.load(ModelConfig(name="digits-ddpm", precision="fp32"), d) for d in ("cpu", "cuda")}
    cpu, gpu = (samplers.draw(on[d], range(16), None, recipe, 0).image_BHWC.astype(int) for d in on)
    assert np.quantile(np.abs(cpu - gpu), 0.99) <= 2


@pytest.mark.parametrize(("precision", "most"), [("bf16", 24), ("fp16", 12)])
def test_half_precision_draws_nearly_the_same(precision, most):
    recipe = SamplerRecipe(name="dpm-solver++", steps=10)
    full, half = (
        samplers.draw(
            base_models.load(ModelConfig(name="digits-ddpm", precision=p), "cuda"), range(16), None, recipe, 0
        ).image_BHWC
        for p in ("fp32", precision)
    )
    assert np.abs(full.astype(int) - half).mean() <= most


def test_memory_that_runs_out_halves_the_micro_batch():
    free, _ = torch.cuda.mem_get_info()
    row = torch.zeros(1, device="cuda").expand(64)
    values = int(free / 4 / 40)  # 64 rows do not fit at once, a few do

    def network(x):
        return torch.zeros(len(x), values, device="cuda").sum(1, keepdim=True) + x[:, None]

    parts = MicroBatch(network, 64, "cuda")
    assert parts(row).shape == (64, 1)
    assert 1 <= parts.size < 64


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_on_a_gpu(tmp_path, precision):
    pack = ["pack", "--dataset", "digits", "--size", "16", "--output", str(tmp_path / "digits")]
    assert main(pack) == 0
    train = ["train", "--input", str(tmp_path / "digits/shards"), "--output", str(tmp_path / "model")]
    small = ["--unet.channels", "[16,32]", "--unet.attention", "[1]", "--preview.every", "0"]
    assert main([*train, *small, "--steps", "200", "--batch", "64", "--precision", precision]) == 0
    log = (tmp_path / "model/_run/log.jsonl").read_text().splitlines()
    first, last = (float(row.split('"loss": ')[1].split(",")[0]) for row in (log[0], log[-1]))
    assert last < 0.5 * first
