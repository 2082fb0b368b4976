"""Flows: the loss against closed forms and diffusers' pipelines, adapters against diffusers' own loading."""

import copy

import diffusers
import numpy as np
import pytest
import small_transformers
import torch
from diffusers.training_utils import compute_loss_weighting_for_sd3

from noiseweave.engine.lora import adapters, weights
from noiseweave.engine.lora.loss import Goal, LoraBatch, LoraNetwork, held_out_loss, loss, prepare
from noiseweave.engine.lora.recipes import LoraObjective, LoraRecipe
from noiseweave.engine.lora.weights import Lora
from noiseweave.engine.networks import latents, text_encoding
from noiseweave.engine.networks.families.registry import family_of
from noiseweave.engine.networks.prompts import Prompt

KINDS = ("sd3", "dev", "schnell", "fill", "z_image", "qwen_image")
SHIFT = {"sd3": 3.0, "schnell": 1.0, "dev": float(np.exp(0.5 - 0.65 / 3840 * (256 - 16)))}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """kind -> a small pipeline with a network of its own."""
    root, known = tmp_path_factory.mktemp("small"), {}

    def pipeline(kind):
        if kind not in known:
            own = getattr(small_transformers, kind, None)
            folder = own(root / kind) if own else small_transformers.flux(root / kind, kind)
            known[kind] = diffusers.DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
            known[kind].set_progress_bar_config(disable=True)
        pipe = copy.copy(known[kind])
        pipe.transformer = copy.deepcopy(pipe.transformer)
        return pipe

    return pipeline


def words(pipe, count=2):
    prompts = [Prompt(text=f"a thing {i}", key="") for i in range(count)]
    return {n: x.float().detach() for n, x in text_encoding.embeddings(pipe, prompts, False).items()}


def goal(pipe, **objective):
    return Goal(family=family_of(pipe), scheduler=pipe.scheduler, objective=LoraObjective(**objective))


def batch_of(pipe, count=2, seed=0, side=8, **more):
    """Latents of 8 x 8: 16 tokens."""
    g = torch.Generator().manual_seed(seed)
    z, eps = torch.randn(2, count, 16, side, side, generator=g)
    values = {"z_BCHW": z, "eps_BCHW": eps, "time_B": torch.rand(count, generator=g), "size": (64, 64)}
    if family_of(pipe).sees_holes(pipe.transformer.config, 16):
        hole = (torch.rand(count, 1, 8 * side, 8 * side, generator=g) < 0.5).float()
        values |= {"hole_B1HW": hole, "around_BCHW": torch.randn(z.shape, generator=g)}
    return LoraBatch(words=words(pipe, count), **values | more)


def moved(sigma, shift):
    return shift * sigma / (1 + (shift - 1) * sigma)


@pytest.mark.parametrize("kind", ["sd3", "dev", "schnell"])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.0, 0.5)])
def test_levels_are_logit_normal_and_moved_as_the_family_moves_them(opened, kind, mean, std):
    """Of 1000 levels, as diffusers' training scripts draw; SD3's go from 1 to 0.003, moved once already."""
    time = torch.tensor([0.02, 0.3, 0.5, 0.9, 0.98])
    pipe = opened(kind)
    batch, levels = batch_of(pipe, 5, time_B=time), []
    found = loss(
        lambda seen, t, words, how: levels.append(t) or torch.zeros(seen.shape),
        batch,
        goal(pipe, logit_mean=mean, logit_std=std),
    )
    quantile = torch.distributions.Normal(mean, std).icdf(time)
    cleanest = moved(1e-3, 3.0) if kind == "sd3" else 0.0
    wanted = moved(1 - (1 - cleanest) * torch.sigmoid(-quantile), SHIFT[kind])
    assert torch.allclose(levels[0] / 1000, wanted, atol=2e-3), (levels[0] / 1000, wanted)
    target = batch.eps_BCHW - batch.z_BCHW
    torch.testing.assert_close(found, target.square().mean((1, 2, 3)))
    weight = compute_loss_weighting_for_sd3("logit_normal", wanted)
    assert torch.equal(weight, torch.ones(5))


def test_the_median_of_evenly_drawn_chance_is_the_mean_and_its_ends_are_levels(opened):
    pipe, levels = opened("schnell"), []
    batch = batch_of(pipe, 3, time_B=torch.tensor([0.0, 0.5, 1.0]))  # float32 rounds up to 1
    loss(lambda seen, t, *_: levels.append(t) or torch.zeros(seen.shape), batch, goal(pipe))
    assert levels[0].tolist() == pytest.approx([1.0, 500.0, 1000.0], abs=1.5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_gives_the_velocity_has_no_loss_and_sees_the_straight_path(opened, kind):
    pipe = opened(kind)
    batch = batch_of(pipe, offset_BC11=torch.randn(2, 16, 1, 1))
    eps = batch.eps_BCHW + 0.1 * batch.offset_BC11

    def network(seen, t, words, how):
        s = (t / 1000).view(-1, 1, 1, 1)
        torch.testing.assert_close(seen[:, :16], (1 - s) * batch.z_BCHW + s * eps)
        assert seen.shape[1] == (16 + 16 + 64 if kind == "fill" else 16)
        assert (words, how.size, how.guidance) == (batch.words, (64, 64), 1.0)
        return eps - batch.z_BCHW

    found = loss(network, batch, goal(pipe, noise_offset=0.1))
    torch.testing.assert_close(found, torch.zeros(2), atol=1e-10, rtol=0)
    assert (found.shape, found.dtype) == ((2,), torch.float32)


def inputs_of(transformer, call):
    """What the network is given in the first call within ``call``."""
    seen = []
    handle = transformer.register_forward_pre_hook(
        lambda m, args, named: seen.append(named), with_kwargs=True
    )
    try:
        call()
    finally:
        handle.remove()
    return seen[0]


def test_fill_is_shown_in_training_what_its_own_pipeline_shows_it(opened):
    pipe = opened("fill")
    rng = np.random.default_rng(0)
    image, hole = rng.random((64, 64, 3), np.float32), np.zeros((64, 64), np.float32)
    hole[8:30, 19:55] = 1
    theirs = inputs_of(
        pipe.transformer,
        lambda: pipe(
            "a thing 0",
            image=image,
            mask_image=hole,
            height=64,
            width=64,
            num_inference_steps=1,
            output_type="latent",
        ),
    )
    x, hole_B1HW = torch.from_numpy(image).permute(2, 0, 1)[None] * 2 - 1, torch.from_numpy(hole)[None, None]
    around = latents.around(pipe.vae, x, hole_B1HW)
    batch = batch_of(pipe, 1, hole_B1HW=hole_B1HW, around_BCHW=around)
    network = LoraNetwork(adapters.attach(pipe, LoraRecipe(rank=2), 0), family_of(pipe))
    ours = inputs_of(pipe.transformer, lambda: loss(network, batch, goal(pipe, guidance=30.0)))
    torch.testing.assert_close(ours["hidden_states"][..., 64:], theirs["hidden_states"][..., 64:])
    for name in ("encoder_hidden_states", "pooled_projections", "img_ids", "txt_ids", "guidance"):
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=1e-3)
    plain = inputs_of(pipe.transformer, lambda: loss(network, batch, goal(pipe)))
    assert plain["guidance"].tolist() == [1.0], "data are no guided drawings"


def trained(pipe, recipe):
    networks = adapters.attach(pipe, recipe, 0)
    g = torch.Generator().manual_seed(1)
    for network in networks.values():
        filled = {n: torch.randn(p.shape, generator=g) * 0.2 for n, p in adapters.state(network).items()}
        adapters.load(network, filled)
    return networks


@torch.no_grad()
def velocity(pipe):
    batch = batch_of(pipe, time_B=torch.tensor([0.3, 0.7]))
    network, found = LoraNetwork({"transformer": pipe.transformer}, family_of(pipe)), []
    loss(lambda *a: found.append(network(*a)) or found[0], batch, goal(pipe))
    return found[0]


def saved(networks, recipe, folder):
    found = adapters.files(adapters.state(torch.nn.ModuleDict(networks)), recipe)
    for name, data in found.items():
        (folder / name).write_bytes(data)
    return found


FILES = ["lora_transformer.safetensors", "lora_transformer_kohya.safetensors"]


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_and_we_load_what_was_trained(opened, tmp_path, kind):
    recipe = LoraRecipe(rank=4, alpha=6.0)
    pipe, theirs = opened(kind), opened(kind)
    before = velocity(pipe)
    networks = trained(pipe, recipe)
    assert list(networks) == ["transformer"]
    found, wanted = saved(networks, recipe, tmp_path), velocity(pipe)
    assert (wanted - before).abs().max() > 1e-2
    theirs.load_lora_weights(tmp_path, weight_name=FILES[0])
    torch.testing.assert_close(velocity(theirs), wanted, atol=1e-5, rtol=1e-4)
    for name in FILES:
        ours = opened(kind)
        weights.add(ours, [Lora(name=name, data=found[name])])
        torch.testing.assert_close(velocity(ours), wanted, atol=1e-4, rtol=1e-4)


def test_the_other_file_is_onetrainers_which_diffusers_reads_for_flux(opened, tmp_path):
    recipe = LoraRecipe(rank=4, alpha=6.0, targets=("attn.to_q", "attn.to_out.0", "x_embedder"))
    pipe, theirs = opened("dev"), opened("dev")
    saved(trained(pipe, recipe), recipe, tmp_path)
    theirs.load_lora_weights(tmp_path, weight_name=FILES[1])
    torch.testing.assert_close(velocity(theirs), velocity(pipe), atol=1e-5, rtol=1e-4)


def test_the_usual_layers_are_those_of_diffusers_training_scripts(opened):
    names = {n.partition(".")[2] for n in _layers(opened("sd3"))}
    sides = {f"{n}_proj" for n in ("add_k", "add_q", "add_v")} | {"to_k", "to_q", "to_v"}
    assert {n.removeprefix("0.").removeprefix("1.") for n in names} == {
        f"attn.{n}" for n in sides | {"to_out.0", "to_add_out"}
    }
    flux = _layers(opened("dev"))
    assert {"transformer_blocks.0.ff_context.net.2", "single_transformer_blocks.0.attn.to_q"} <= flux
    assert "single_transformer_blocks.0.proj_mlp" not in flux


def _layers(pipe):
    state = adapters.state(adapters.attach(pipe, LoraRecipe(rank=2), 0)["transformer"])
    return {name.partition(".lora_")[0] for name in state}


@pytest.mark.parametrize("kind", ["sd3", "dev"])
def test_weights_of_partial_are_read_as_a_lora_is(opened, kind):
    recipe = LoraRecipe(
        method="partial", targets=("attn.to_q", "x_embedder" if kind == "dev" else "proj_out")
    )
    pipe, ours = opened(kind), opened(kind)
    found = adapters.files(adapters.state(torch.nn.ModuleDict(trained(pipe, recipe))), recipe)
    assert list(found) == ["transformer_partial_tuned.safetensors"]
    weights.add(ours, [Lora(name="a", data=found["transformer_partial_tuned.safetensors"])])
    torch.testing.assert_close(velocity(ours), velocity(pipe), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_all_that_is_trained_gets_gradients_with_checkpointing_too(opened, kind):
    pipe, found = opened(kind), []
    network = LoraNetwork(trained(pipe, LoraRecipe(rank=2)), family_of(pipe))
    for checkpointing in (False, True):
        prepare(network, "fp32", checkpointing, gpu=False)
        loss(network, batch_of(pipe), goal(pipe)).mean().backward()
        found.append({n: p.grad.clone() for n, p in network.named_parameters() if p.requires_grad})
        network.zero_grad()
    assert any(g.abs().max() > 0 for g in found[0].values())
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4)
    frozen = [p for p in pipe.transformer.parameters() if not p.requires_grad]
    assert all(p.grad is None for p in frozen)


@pytest.mark.parametrize("kind", ["sd3", "fill"])
def test_frozen_weights_in_bfloat16_under_autocast_are_near(opened, kind):
    """As on a GPU: the frozen weights in half precision, latents and words in float32."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        pipe = opened(kind)
        network = LoraNetwork(trained(pipe, LoraRecipe(rank=2)), family_of(pipe))
        for p in network.parameters():
            if not p.requires_grad:
                p.data = p.data.to(dtype)
        batch = batch_of(pipe)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            found.append(loss(network, batch, goal(pipe)))
        found[-1].mean().backward()
    assert found[1].dtype == torch.float32
    torch.testing.assert_close(found[1], found[0], rtol=0.02, atol=0)


@pytest.mark.parametrize("kind", ["sd3", "fill", "z_image"])
def test_some_steps_lower_the_loss_of_pictures_that_were_not_seen(opened, kind):
    pipe = opened(kind)
    g = torch.Generator().manual_seed(0)
    z = torch.randn(1, 16, 8, 8, generator=g) + 0.3 * torch.randn(6, 16, 8, 8, generator=g)
    network = LoraNetwork(adapters.attach(pipe, LoraRecipe(rank=8), 0), family_of(pipe))
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 2e-2)
    held, keys = batch_of(pipe, z_BCHW=z[4:]), ["a", "b"]
    before = held_out_loss(network, held, goal(pipe), keys, 0)
    batches = [batch_of(pipe, 4, seed=step, z_BCHW=z[:4]) for step in range(5)]
    for batch in batches * 4:
        loss(network, batch, goal(pipe)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = held_out_loss(network, held, goal(pipe), keys, 0)
    assert (after < 0.97 * before).all(), (before, after)
