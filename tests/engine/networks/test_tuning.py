"""How a network is run changes its results by rounding alone, and where it cannot be compiled one line says so."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from noiseweave.engine.identity import identity_of
from noiseweave.engine.inpainting import models
from noiseweave.engine.networks import backbone, base_models, loading, memory, text_pipeline, tuning
from noiseweave.engine.networks.recipes import ModelConfig, TextRecipe

WAYS = [{"channels_last": True}, {"attention": "eager"}, {"channels_last": True, "attention": "eager"}]


@pytest.fixture(autouse=True)
def fresh():
    """Nothing compiled before; no memory of what this machine can compile."""
    tuning._compiles.cache_clear()
    torch._dynamo.reset()
    yield
    tuning._compiles.cache_clear()
    torch._dynamo.reset()


def noise_of(model, rows=3):
    g = torch.Generator().manual_seed(0)
    shape = (model.unet.config.in_channels, model.unet.config.sample_size, model.unet.config.sample_size)
    return model.denoise(torch.randn(rows, *shape, generator=g), torch.tensor([10, 500, 900][:rows]))


def is_channels_last(network):
    weights = [p for p in network.parameters() if p.dim() == 4 and min(p.shape[1:3]) > 1]
    assert weights
    return all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


def processors(network):
    return {type(m.processor).__name__ for m in network.modules() if hasattr(m, "processor")}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("latent", [False, True])
def test_layout_and_attention_change_a_network_and_not_its_result(way, latent, kl_folder):
    name = str(kl_folder) if latent else "digits-ddpm"
    plain = loading.load(ModelConfig(name=name, channels_last=False, attention="sdpa"))
    other = loading.load(ModelConfig(name=name, **way))
    assert processors(plain.unet) == {"AttnProcessor2_0"}
    assert ("AttnProcessor" in processors(other.unet)) == (way.get("attention") == "eager")
    assert not is_channels_last(plain.unet)
    assert is_channels_last(other.unet) == bool(way.get("channels_last"))
    torch.testing.assert_close(noise_of(other), noise_of(plain), rtol=1e-4, atol=1e-5)


def test_every_loader_of_a_network_listens(kl_folder):
    digits = ModelConfig(name="digits-ddpm", channels_last=True, attention="eager")
    small = ModelConfig(name=str(kl_folder), channels_last=True, attention="eager")
    loaded = [
        loading.load(digits).unet,
        loading.load(small).unet,
        base_models.load(digits).network,
        text_pipeline.load(small, TextRecipe()).pipeline.unet,
        models.load(small).text.pipeline.unet,
        models.load(digits).base.network,
    ]
    for network in loaded:
        assert is_channels_last(network)
        assert processors(network) == {"AttnProcessor"}


def test_a_layout_outlives_the_precision(kl_folder):
    model = loading.load(ModelConfig(name=str(kl_folder), channels_last=True, precision="bf16"))
    assert model.unet.dtype == torch.bfloat16
    assert is_channels_last(model.unet)


def test_null_is_what_measured_fastest(monkeypatch):
    told = {"channels_last": True, "attention": "eager"}
    monkeypatch.setitem(tuning.FASTEST, "cpu", told)
    network = loading.load(ModelConfig(name="digits-ddpm")).unet
    assert is_channels_last(network)
    assert processors(network) == {"AttnProcessor"}
    network = loading.load(ModelConfig(name="digits-ddpm", channels_last=False, attention="sdpa")).unet
    assert not is_channels_last(network)
    assert processors(network) == {"AttnProcessor2_0"}


class Tiny(nn.Module):
    """A network as Backbone calls it, small enough to be compiled in a moment."""

    config = SimpleNamespace(in_channels=1, sample_size=8)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x, t, return_dict):
        return (self.last(nn.functional.silu(self.first(x) + t.view(-1, 1, 1, 1) / 1000)),)


def compiled(backend):
    """(Backbone whose network is compiled, the same one not compiled)."""
    both = [backbone.Backbone(Tiny(), DDIMScheduler()) for _ in "ab"]
    tuning.tune(both[0].unet, ModelConfig(name="digits-ddpm", compile=True), "cpu", backend=backend)
    return both


def test_compiled_networks_take_any_number_of_rows_and_halved_micro_batches(monkeypatch):
    """Traced by Dynamo and run without a compiler: what changes with the number of rows is the same."""
    model, plain = compiled("eager")
    assert model.unet._compiled_call_impl is not None
    for rows in (3, 1):
        torch.testing.assert_close(noise_of(model, rows), noise_of(plain, rows))
    network = model.parts.network

    def limited(x, *more):
        if len(x) > 2:
            raise torch.OutOfMemoryError("not enough memory")
        return network(x, *more)

    model.parts.size = 4
    monkeypatch.setattr(model.parts, "network", limited)
    torch.testing.assert_close(noise_of(model), noise_of(plain))
    assert model.parts.size == 2


@pytest.mark.slow
def test_a_network_compiled_for_this_machine_gives_the_same():
    model, plain = compiled("inductor")
    if model.unet._compiled_call_impl is None:
        pytest.skip("no C++ compiler here")
    torch.testing.assert_close(noise_of(model), noise_of(plain), rtol=1e-4, atol=1e-5)


def test_without_a_compiler_one_line_says_so_once_and_the_network_runs(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("/no/such/compiler",))
    for _ in "ab":
        network = loading.load(ModelConfig(name="digits-ddpm", compile=True)).unet
        assert network._compiled_call_impl is None
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert said[0].startswith("model.compile: this machine cannot compile")


def test_auto_is_float32_on_a_cpu_and_bfloat16_where_all_gpus_compute_in_it(monkeypatch):
    assert tuning.precision_for(gpu=False, bfloat16=False) == tuning.cpu_precision() == "fp32"
    assert tuning.precision_for(gpu=True, bfloat16=True) == "bf16"
    assert tuning.precision_for(gpu=True, bfloat16=False) == "fp32"
    model = ModelConfig(name="digits-ddpm")
    assert (model.precision, model.compile) == ("auto", "auto")
    assert tuning.settled_here(model, "cpu") == (ModelConfig(name="digits-ddpm", precision="fp32"), "fp32")
    half = ModelConfig(name="digits-ddpm", precision="fp16")
    assert tuning.settled_here(half, "cuda") == (half, "fp16")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert tuning.settled_here(model, "cuda:1")[1] == "bf16"


def test_every_loader_takes_what_auto_is_here(monkeypatch, kl_folder):
    monkeypatch.setattr(tuning, "cpu_precision", lambda: "bf16")
    digits, small = ModelConfig(name="digits-ddpm"), ModelConfig(name=str(kl_folder))
    loaded = [
        loading.load(digits).unet,
        loading.load(small).unet,
        loading.load(small).vae,
        base_models.load(digits).network,
        text_pipeline.load(small, TextRecipe()).pipeline.unet,
        models.load(small).text.pipeline.unet,
        models.load(digits).base.network,
    ]
    assert {network.dtype for network in loaded} == {torch.bfloat16}


def test_compiling_is_repaid_by_many_rows_alone_and_never_where_it_was_not_measured(monkeypatch, kl_folder):
    known = loading.describe("digits-ddpm")
    flop = memory.flop_of_a_row(known)
    counted = 0.158e9  # torch's FlopCounterMode, of one row
    assert 0.7 < flop / counted < 1.4
    cost = tuning.COMPILING["cpu"]
    enough = cost.seconds / cost.gain * cost.rate / flop
    for threads in (1, 4):
        assert tuning.compiling_repaid(known, 1.01 * threads * enough, "cpu", threads)
        assert not tuning.compiling_repaid(known, 0.99 * threads * enough, "cpu", threads)
    assert not tuning.compiling_repaid(known, 1e12, "cuda")
    wide = loading.describe(str(kl_folder), 64)
    assert memory.flop_of_a_row(wide) == pytest.approx(
        4 * memory.flop_of_a_row(loading.describe(str(kl_folder)))
    )


def test_what_is_still_auto_is_not_compiled():
    assert loading.load(ModelConfig(name="digits-ddpm")).unet._compiled_call_impl is None


def test_how_it_runs_is_no_part_of_a_runs_identity():
    one = ModelConfig(name="a", precision="bf16")
    other = ModelConfig(
        name="a", precision="bf16", micro_batch=3, compile=True, channels_last=True, attention="eager"
    )
    assert identity_of(one) == identity_of(other)
    assert identity_of(one).items() >= {"name": "a", "precision": "bf16", "safety_checker": True}.items()
    assert identity_of(ModelConfig(name="b")) != identity_of(one)


@pytest.mark.parametrize(("side", "written_out"), [(16, True), (20, False)])
def test_training_in_bf16_on_a_cpu_writes_short_attention_out(monkeypatch, side, written_out):
    """At 16 x 16 tokens three products, above PyTorch's kernel; the function is the same and learns the same."""
    unet = {"in_channels": 4, "block_out_channels": (8, 8), "norm_num_groups": 4, "attention_head_dim": 4}
    blocks = {"down_block_types": ("AttnDownBlock2D",) * 2, "up_block_types": ("AttnUpBlock2D",) * 2}
    network = UNet2DModel(sample_size=side, out_channels=4, layers_per_block=1, **unet, **blocks)
    x, calls = torch.randn(2, 4, side, side), []
    monkeypatch.setattr(AttnProcessor, "__call__", spying(AttnProcessor.__call__, calls))
    plain = network(x, 500).sample
    plain.sum().backward()
    gradient = network.conv_in.weight.grad.clone()
    for precision, device in (("fp32", "cpu"), ("bf16", "cuda")):
        tuning.tune_training(network, precision, device)
    network(x, 500)
    assert not calls
    tuning.tune_training(network, "bf16", "cpu")
    network.zero_grad()
    other = network(x, 500).sample
    other.sum().backward()
    assert (side * side in calls) == written_out
    torch.testing.assert_close(other, plain)
    torch.testing.assert_close(network.conv_in.weight.grad, gradient, rtol=1e-3, atol=1e-3)


def spying(call, seen):
    def processor(self, attn, x, *more):
        seen.append(x.shape[2:].numel())
        return call(self, attn, x, *more)

    return processor
