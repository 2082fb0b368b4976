"""Adapters against the closed form, and their files against diffusers' own loading and ours."""

import copy
import functools
import json
import re

import pytest
import torch
from diffusers import (
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load as tensors_of

from noiseweave.engine.lora import adapters, weights
from noiseweave.engine.lora.names import PARTS, Layers, layer_name
from noiseweave.engine.lora.recipes import LoraRecipe
from noiseweave.engine.lora.weights import Lora
from noiseweave.engine.networks.families.registry import family_of

WIDE = ("to_q", "to_out.0", "ff.net.2", "proj_in", "conv1", "time_emb_proj", "linear_1", "linear_2")
KINDS = {
    (4, False): StableDiffusionPipeline,
    (4, True): StableDiffusionXLPipeline,
    (9, False): StableDiffusionInpaintPipeline,
    (9, True): StableDiffusionXLInpaintPipeline,
}


@pytest.fixture(scope="module")
def pipelines(kl_folder, xl_folder):
    """(channels, xl) -> a small pipeline, the same at each call, with networks of its own."""

    @functools.cache
    def first(channels, xl):
        pipe = KINDS[channels, xl].from_pretrained(xl_folder if xl else kl_folder, use_safetensors=True)
        if channels == 9:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                pipe.register_modules(unet=UNet2DConditionModel.from_config(pipe.unet.config, in_channels=9))
        return pipe

    def opened(channels=4, xl=False):
        pipe = copy.copy(first(channels, xl))
        for part in PARTS:
            if hasattr(pipe, part):
                setattr(pipe, part, copy.deepcopy(getattr(pipe, part)))
        return pipe

    return opened


def state_of(networks):
    return adapters.state(torch.nn.ModuleDict(networks))


def trained(pipe, recipe):
    """The networks of a pipeline with adapters that change something."""
    networks = adapters.attach(pipe, recipe, 0)
    g = torch.Generator().manual_seed(1)
    for network in networks.values():
        filled = {n: torch.randn(p.shape, generator=g) * 0.1 for n, p in adapters.state(network).items()}
        adapters.load(network, filled)
    return networks


@torch.no_grad()
def drawn(pipe):
    """The unet's output on the words of a prompt, as the pipeline encodes them."""
    words = pipe.encode_prompt(
        "a red wall", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    x = torch.randn(1, pipe.unet.config.in_channels, 4, 4, generator=torch.Generator().manual_seed(0))
    more = {}
    if pipe.unet.config.addition_embed_type:
        sizes = torch.tensor([[32.0, 32, 0, 0, 32, 32]])
        more["added_cond_kwargs"] = {"text_embeds": words[2], "time_ids": sizes}
    return pipe.unet(x, 500, words[0], **more).sample


def saved(networks, recipe, folder):
    found = adapters.files(state_of(networks), recipe)
    for name, data in found.items():
        (folder / name).write_bytes(data)
    return found


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("xl", [False, True])
@pytest.mark.parametrize("name", ["lora_unet.safetensors", "lora_unet_kohya.safetensors"])
def test_diffusers_and_we_load_what_was_trained(pipelines, tmp_path, channels, xl, name):
    recipe = LoraRecipe(rank=4, alpha=6.0)
    pipe, theirs, ours = (pipelines(channels, xl) for _ in range(3))
    before = drawn(pipe)
    found = saved(trained(pipe, recipe), recipe, tmp_path)
    wanted = drawn(pipe)
    theirs.load_lora_weights(tmp_path, weight_name=name)
    weights.add(ours, [Lora(name=name, data=found[name])])
    assert (wanted - before).abs().max() > 1e-2
    assert torch.allclose(drawn(theirs), wanted, atol=1e-5)
    assert torch.allclose(drawn(ours), wanted, atol=1e-4)


@pytest.mark.parametrize("xl", [False, True])
@pytest.mark.parametrize("name", ["lora_unet.safetensors", "lora_unet_kohya.safetensors"])
def test_with_text_encoders_and_more_kinds_of_layers(pipelines, tmp_path, xl, name):
    recipe = LoraRecipe(rank=3, alpha=1.5, targets=WIDE, text_encoder=True)
    pipe, theirs, ours = (pipelines(4, xl) for _ in range(3))
    networks = trained(pipe, recipe)
    assert list(networks) == ["unet", "text_encoder", *["text_encoder_2"] * xl]
    found = saved(networks, recipe, tmp_path)
    theirs.load_lora_weights(tmp_path, weight_name=name)
    weights.add(ours, [Lora(name=name, data=found[name])])
    wanted = drawn(pipe)
    assert (wanted - drawn(pipelines(4, xl))).abs().max() > 1e-2
    assert torch.allclose(drawn(theirs), wanted, atol=1e-5)
    assert torch.allclose(drawn(ours), wanted, atol=1e-4)


@pytest.mark.parametrize("xl", [False, True])
def test_kohyas_file_converts_back_to_the_same_tensors(pipelines, xl):
    """By diffusers' conversion and by ours."""
    recipe = LoraRecipe(rank=3, alpha=1.5, text_encoder=True)
    pipe = pipelines(4, xl)
    state = state_of(trained(pipe, recipe))
    found = adapters.files(state, recipe)
    data = found["lora_unet_kohya.safetensors"]
    theirs, alphas = type(pipe).lora_state_dict(tensors_of(data), unet_config=pipe.unet.config)
    count = len(state) // 2
    assert len(alphas) == count
    assert set(alphas.values()) == {1.5}
    wanted = [t for _, t in sorted(state.items())]
    for converted in (theirs.values(), tensors_of(found["lora_unet.safetensors"]).values()):
        left = list(converted)
        for t in wanted:
            left.pop(next(i for i, other in enumerate(left) if torch.equal(t, other)))
        assert not left
    layers = Layers(
        {
            layer_name(part, n): tuple(w.shape)
            for part in ("unet", "text_encoder", "text_encoder_2")
            if getattr(pipelines(4, xl), part, None)
            for n, w in getattr(pipelines(4, xl), part).named_parameters()
            if n.endswith(".weight")
        }
    )
    changes = weights.read(Lora(name="k", data=data), layers)
    again = {f"{c.layer}.lora_{side}.weight": getattr(c, side) for c in changes for side in "AB"}
    state = {n.replace(".text_model.", "."): t for n, t in state.items()}
    assert again.keys() == state.keys()
    assert all(torch.equal(t, state[n]) for n, t in again.items())
    assert {c.scale for c in changes} == {0.5}


@pytest.mark.parametrize("method", ["lora", "partial"])
def test_only_the_chosen_layers_get_gradients(pipelines, method):
    pipe = pipelines()
    networks = adapters.attach(pipe, LoraRecipe(method=method, rank=2), 0)
    pipe.unet(torch.randn(2, 4, 4, 4), 10, torch.randn(2, 77, 32)).sample.square().mean().backward()
    everything = {
        f"{n}.{k}": p for n in ("unet", "vae", "text_encoder") for k, p in getattr(pipe, n).named_parameters()
    }
    moved = {n for n, p in everything.items() if p.grad is not None}
    kind = r"lora_[AB]\.default\.weight" if method == "lora" else "(weight|bias)"
    assert all(re.search(rf"attn[12]\.to_(q|k|v|out\.0)\.{kind}$", n) for n in moved)
    assert len(moved) == len(state_of(networks)) == (8 * 4 * 2 if method == "lora" else 8 * 5)


def test_first_weights_are_a_function_of_the_seed_and_change_nothing(pipelines):
    pipes = [pipelines() for _ in range(3)]
    before = drawn(pipes[0])
    noise = torch.get_rng_state()
    states = [
        state_of(adapters.attach(p, LoraRecipe(rank=2), s)) for p, s in zip(pipes, (5, 5, 6), strict=True)
    ]
    assert torch.equal(torch.get_rng_state(), noise)
    assert torch.equal(drawn(pipes[0]), before)
    assert all(torch.equal(t, states[1][n]) for n, t in states[0].items())
    assert all(torch.equal(t, states[2][n]) == n.endswith("lora_B.weight") for n, t in states[0].items())
    assert all(t.dtype == torch.float32 for t in states[0].values())


@pytest.mark.parametrize("method", ["lora", "partial"])
def test_a_state_comes_back_in_another_pipeline(pipelines, method):
    recipe = LoraRecipe(method=method, rank=2)
    one, other = pipelines(), pipelines()
    state = {n: t.clone() for n, t in adapters.state(trained(one, recipe)["unet"]).items()}
    again = adapters.attach(other, recipe, 7)["unet"]
    adapters.load(again, state)
    assert torch.equal(drawn(one), drawn(other))
    assert all(torch.equal(t, state[n]) for n, t in adapters.state(again).items())


@pytest.mark.parametrize("other", [LoraRecipe(rank=3), LoraRecipe(rank=2, targets=("to_q",))])
def test_a_state_of_other_adapters_is_one_line(pipelines, other):
    state = adapters.state(adapters.attach(pipelines(), LoraRecipe(rank=2), 0)["unet"])
    network = adapters.attach(pipelines(), other, 0)["unet"]
    with pytest.raises(ValueError, match=r"^weights of another adapter: \d+ do not fit, the first is \S+$"):
        adapters.load(network, state)


def test_weights_of_partial_are_the_unets_own(pipelines):
    """As the file of the original was loaded: load_state_dict with strict=False."""
    recipe = LoraRecipe(method="partial")
    pipe, other = pipelines(9), pipelines(9)
    files = adapters.files(state_of(trained(pipe, recipe)), recipe)
    assert list(files) == ["unet_partial_tuned.safetensors"]
    kept = tensors_of(files["unet_partial_tuned.safetensors"])
    assert other.unet.load_state_dict(kept, strict=False).unexpected_keys == []
    assert (drawn(other) - drawn(pipelines(9))).abs().max() > 1e-2
    assert torch.equal(drawn(other), drawn(pipe))


def test_weights_of_partial_are_read_as_a_lora_is(pipelines):
    """Weight 1 replaces, a half is half way, and beside another file each adds its own."""
    recipe, small = (
        LoraRecipe(method="partial", targets=("to_q", "to_out.0", "conv_in", "linear_1")),
        LoraRecipe(rank=2),
    )
    tuned = adapters.files(state_of(trained(pipelines(), recipe)), recipe)["unet_partial_tuned.safetensors"]
    other = adapters.files(state_of(trained(pipelines(), small)), small)["lora_unet.safetensors"]

    def added(*files):
        pipe = pipelines()
        weights.add(pipe, [Lora(name="a", data=data, weight=w) for data, w in files])
        return dict(pipe.unet.named_parameters())

    base, whole, half, low = added(), added((tuned, 1.0)), added((tuned, 0.5)), added((other, 1.0))
    kept = tensors_of(tuned)
    one, two = added((tuned, 1.0), (other, 1.0)), added((other, 1.0), (tuned, 1.0))
    assert {n for n in base if not torch.equal(base[n], whole[n])} == kept.keys()
    for name, w in base.items():
        torch.testing.assert_close(whole[name], kept.get(name, w))
        torch.testing.assert_close(half[name], (whole[name] + w) / 2)
        torch.testing.assert_close(one[name], whole[name] + low[name] - w, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(one[name], two[name])


def test_weights_of_partial_for_another_model_are_one_line(pipelines):
    recipe = LoraRecipe(method="partial")
    data = adapters.files(state_of(trained(pipelines(4, True), recipe)), recipe)[
        "unet_partial_tuned.safetensors"
    ]
    line = r"^lora 'a': made for another base model: 8 of its 40 layers do not fit: \S+attn2.to_k.weight \(32x64, .*$"
    with pytest.raises(ValueError, match=line):
        weights.add(pipelines(), [Lora(name="a", data=data)])


def test_dropout_is_off_in_eval(pipelines):
    pipe = pipelines()
    unet = trained(pipe, LoraRecipe(rank=4, dropout=0.5))["unet"]
    without = pipelines()
    adapters.attach(without, LoraRecipe(rank=4), 0)
    adapters.load(without.unet, adapters.state(unet))
    assert torch.equal(drawn(pipe), drawn(without))
    unet.train()
    assert not torch.allclose(drawn(pipe), drawn(without), atol=1e-4)


def test_beside_bfloat16_weights_the_adapters_are_float32(pipelines):
    pipe = pipelines().to(torch.bfloat16)
    networks = adapters.attach(pipe, LoraRecipe(rank=2), 0)
    assert {t.dtype for t in state_of(networks).values()} == {torch.float32}
    out = pipe.unet(torch.randn(1, 4, 4, 4).bfloat16(), 10, torch.randn(1, 77, 32).bfloat16()).sample
    assert out.dtype == torch.bfloat16
    out.float().square().mean().backward()
    assert all(p.grad is not None for p in pipe.unet.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        (
            LoraRecipe(targets=("to_q", "to_z")),
            "lora.targets='to_z': no linear or convolution layer of the unet is called so; it has conv, .*to_q.*",
        ),
        (LoraRecipe(targets=("norm1",)), "lora.targets='norm1': no linear or convolution layer .*"),
        (LoraRecipe(rank=33), r"lora.rank=33: at most 32, the width of unet\.\S+, the narrowest layer"),
        (
            LoraRecipe(rank=5, targets=("conv_out", "to_q")),
            r"lora.rank=5: at most 4, the width of unet\.conv_out, the narrowest layer",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_one_line(pipelines, recipe, line):
    pipe = pipelines()
    with pytest.raises(ValueError, match=f"^{line}$"):
        adapters.attach(pipe, recipe, 0)
    assert all(p.requires_grad for p in pipe.unet.parameters())
    with pytest.raises(ValueError, match=f"^{line}$"):
        adapters.check_targets(family_of(pipe), json.loads(pipe.unet.to_json_string()), recipe)


@pytest.mark.parametrize("kind", [(4, False), (9, True)])
def test_what_fits_the_model_passes_the_check_of_its_config(pipelines, kind):
    pipe = pipelines(*kind)
    config, family = json.loads(pipe.unet.to_json_string()), family_of(pipe)
    adapters.check_targets(family, config, LoraRecipe(rank=32, text_encoder=True))
    adapters.check_targets(family, config, LoraRecipe(rank=4, targets=("conv_in", "conv_out")))
