"""The loss against closed forms and diffusers, the networks against the pipelines' own calls, and that it learns."""

import dataclasses

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from diffusers.training_utils import compute_snr

from noiseweave.engine.lora import adapters
from noiseweave.engine.lora.loss import Goal, LoraBatch, LoraNetwork, held_out_loss, loss
from noiseweave.engine.lora.recipes import LoraObjective, LoraRecipe
from noiseweave.engine.networks.families.family import How
from noiseweave.engine.networks.families.registry import FAMILIES, family_of

PLAIN = LoraObjective()
TARGETS = pytest.mark.parametrize("target", ["epsilon", "v_prediction"])


def schedule(target="epsilon"):
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=target
    )


def goal(scheduler, objective=PLAIN, family="sd"):
    return Goal(family=FAMILIES[family], scheduler=scheduler, objective=objective)


def batch_of(count=6, seed=0, **more):
    g = torch.Generator().manual_seed(seed)
    z, eps = torch.randn(2, count, 4, 4, 4, generator=g)
    values = {
        "z_BCHW": z,
        "eps_BCHW": eps,
        "time_B": torch.rand(count, generator=g),
        "size": (32, 32),
        "words": {"prompt_embeds": torch.randn(count, 77, 32, generator=g)},
        "offset_BC11": torch.randn(count, 4, 1, 1, generator=g),
    }
    return LoraBatch(**values | more)


def truth(batch, scheduler, eps=None):
    """(z_t, target) by diffusers' own arithmetic."""
    eps, t = batch.eps_BCHW if eps is None else eps, (batch.time_B * 1000).long()
    v = scheduler.get_velocity(batch.z_BCHW, eps, t)
    target = v if scheduler.config.prediction_type == "v_prediction" else eps
    return scheduler.add_noise(batch.z_BCHW, eps, t), target


@TARGETS
def test_a_network_that_gives_the_target_has_no_loss_and_sees_diffusers_noise(target):
    batch, scheduler = batch_of(), schedule(target)
    z_t, wanted = truth(batch, scheduler)

    def network(seen, t, words, how):
        torch.testing.assert_close(seen, z_t)
        assert torch.equal(t, (batch.time_B * 1000).long())
        assert (words, how.size) == (batch.words, (32, 32))
        return wanted

    found = loss(network, batch, goal(scheduler))
    assert (found.shape, found.dtype) == ((6,), torch.float32)
    torch.testing.assert_close(found, torch.zeros(6), atol=1e-10, rtol=0)


@TARGETS
def test_an_error_of_two_costs_four_times_the_weight_of_min_snr(target):
    """min(SNR, 5) / SNR for epsilon, min(SNR, 5) / (SNR + 1) for v, as diffusers' training scripts have it."""
    batch, scheduler = batch_of(), schedule(target)
    _, wanted = truth(batch, scheduler)
    snr = compute_snr(scheduler, (batch.time_B * 1000).long())
    weight = snr.clamp(max=5) / (snr if target == "epsilon" else snr + 1)
    found = loss(lambda *_: wanted + 2, batch, goal(scheduler, LoraObjective(min_snr=5)))
    torch.testing.assert_close(found, 4 * weight, rtol=1e-4, atol=1e-6)
    assert weight.min() < 0.5 * weight.max()


@TARGETS
def test_the_noise_offset_is_one_number_for_each_picture_and_channel(target):
    batch, scheduler = batch_of(), schedule(target)
    eps = batch.eps_BCHW + 0.1 * batch.offset_BC11
    z_t, wanted = truth(batch, scheduler, eps)
    before, _ = truth(batch, scheduler)

    def network(seen, *_):
        torch.testing.assert_close(seen, z_t)
        added = seen - before
        torch.testing.assert_close(added, added[..., :1, :1].expand_as(added), atol=1e-6, rtol=0)
        return wanted

    found = loss(network, batch, goal(scheduler, LoraObjective(noise_offset=0.1)))
    torch.testing.assert_close(found, torch.zeros(6), atol=1e-10, rtol=0)
    without = loss(lambda *_: truth(batch, scheduler)[1], batch, goal(scheduler))
    torch.testing.assert_close(without, torch.zeros(6), atol=1e-10, rtol=0)


def test_pictures_of_the_prior_count_as_much_as_is_said():
    prior = torch.tensor([True, False, True, False, False, True])
    batch, scheduler = batch_of(prior_B=prior), schedule()
    _, wanted = truth(batch, scheduler)
    found = loss(lambda *_: wanted + 1, batch, goal(scheduler, LoraObjective(prior_weight=0.25)))
    torch.testing.assert_close(found, torch.where(prior, 0.25, 1.0), rtol=1e-5, atol=0)


def test_a_unet_for_inpainting_sees_noise_then_hole_then_surroundings():
    hole = torch.zeros(6, 1, 32, 32)
    hole[0, :, 8:16, 16:32] = 1  # whole latents
    hole[1, :, 31, 0] = 1  # one pixel is a latent's hole
    around = torch.randn(6, 4, 4, 4)
    batch, scheduler = batch_of(hole_B1HW=hole, around_BCHW=around), schedule()
    z_t, wanted = truth(batch, scheduler)

    def network(seen, *_):
        assert torch.equal(seen[:, :4], z_t)
        small = torch.zeros(6, 4, 4)
        small[0, 1, 2:] = small[1, 3, 0] = 1
        assert torch.equal(seen[:, 4], small)
        assert torch.equal(seen[:, 5:], around)
        return wanted

    assert loss(network, batch, goal(scheduler)).max() == 0


def test_a_time_that_float32_rounds_to_one_is_the_last_step():
    batch = batch_of(1, time_B=torch.tensor([1 - 1e-9]))
    assert batch.time_B == 1
    loss(lambda seen, t, *_: seen * (t == 999), batch, goal(schedule()))


@pytest.fixture(scope="module")
def pipelines(kl_folder, xl_folder):
    """xl -> a small pipeline with networks of its own."""

    def opened(xl):
        kind = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
        return kind.from_pretrained(xl_folder if xl else kl_folder, use_safetensors=True)

    return opened


def tokens(pipe, texts):
    ids = {}
    for name, kind in (("input_ids", "tokenizer"), ("input_ids_2", "tokenizer_2")):
        if hasattr(pipe, kind):
            ids[name] = getattr(pipe, kind)(texts, padding="max_length", return_tensors="pt").input_ids
    return ids


@pytest.mark.parametrize("xl", [False, True])
def test_the_denoiser_does_as_the_pipeline_and_all_it_trains_gets_gradients(pipelines, xl):
    pipe = pipelines(xl)
    texts = ["a red wall", "a blue one"]
    told = pipe.encode_prompt(texts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    x, t, more = torch.randn(2, 4, 4, 6), torch.tensor([10, 700]), {}
    if xl:
        sizes = torch.tensor([[32.0, 48, 0, 0, 32, 48]]).expand(2, -1)
        more["added_cond_kwargs"] = {"text_embeds": told[2], "time_ids": sizes}
    with torch.no_grad():
        wanted = pipe.unet(x, t, told[0], **more).sample
    frozen = {"prompt_embeds": told[0].detach()} | ({"pooled_prompt_embeds": told[2].detach()} if xl else {})
    network = LoraNetwork(adapters.attach(pipe, LoraRecipe(rank=2, text_encoder=True), 0), family_of(pipe))
    for words in (frozen, tokens(pipe, texts)):
        torch.testing.assert_close(network(x, t, words, How(size=(32, 48))), wanted, atol=1e-5, rtol=1e-5)
    filled = {n: torch.randn_like(w) * 0.1 for n, w in adapters.state(network).items()}
    adapters.load(network, filled)
    network(x, t, tokens(pipe, texts), How(size=(32, 48))).square().mean().backward()
    assert {n.partition(".")[0] for n in filled} == {"unet", "text_encoder", *["text_encoder_2"] * xl}
    gradients = [(n, p.grad) for n, p in network.named_parameters() if p.requires_grad]
    assert all(g is not None and g.abs().max() > 0 for _, g in gradients), gradients


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_in_bfloat16_the_loss_is_near_that_of_float32_and_float32(pipelines, trained, autocast):
    recipe, found = LoraRecipe(rank=2, text_encoder=trained), []
    for dtype in (torch.float32, torch.bfloat16):
        pipe = pipelines(False).to(dtype)
        words = tokens(pipe, ["a red wall"] * 6)
        with torch.no_grad():
            told = {"prompt_embeds": pipe.text_encoder(words["input_ids"])[0]}
        network = LoraNetwork(adapters.attach(pipe, recipe, 0), family_of(pipe))
        batch = batch_of(words=words if trained else told)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype == torch.bfloat16):
            found.append(loss(network, batch, goal(schedule())))
        found[-1].mean().backward()
    assert found[1].dtype == torch.float32
    torch.testing.assert_close(found[1], found[0], rtol=0.02, atol=0)


def test_held_out_loss_is_the_mean_over_fixed_times_whatever_the_batch(pipelines):
    pipe, scheduler = pipelines(False), schedule("v_prediction")
    network = LoraNetwork(adapters.attach(pipe, LoraRecipe(rank=2, dropout=0.5), 0), family_of(pipe)).train()
    adapters.load(network, {n: torch.randn_like(w) * 0.1 for n, w in adapters.state(network).items()})
    batch, keys = batch_of(3), ["a", "b", "c"]
    found = held_out_loss(network, batch, goal(scheduler), keys, 7)
    assert network.training
    assert not found.requires_grad
    other = batch_of(
        3, seed=1, z_BCHW=batch.z_BCHW, words=batch.words, prior_B=torch.ones(3, dtype=torch.bool)
    )
    assert torch.equal(held_out_loss(network, other, goal(scheduler), keys, 7), found)
    one = dataclasses.replace(
        batch,
        z_BCHW=batch.z_BCHW[1:2],
        eps_BCHW=batch.eps_BCHW[1:2],
        words={n: x[1:2] for n, x in batch.words.items()},
    )
    torch.testing.assert_close(held_out_loss(network, one, goal(scheduler), ["b"], 7), found[1:2])
    each = [
        held_out_loss(network, batch, goal(scheduler), keys, 7, times=[t]) for t in (0.1, 0.3, 0.5, 0.7, 0.9)
    ]
    torch.testing.assert_close(torch.stack(each).mean(0), found)
    for keys, seed in ((["a", "b", "d"], 7), (["a", "b", "c"], 8)):
        assert not torch.allclose(
            held_out_loss(network, batch, goal(scheduler), keys, seed)[2], found[2], atol=1e-4
        )


def test_held_out_loss_of_nothing_said_is_the_targets_square():
    """A network that says 0 loses the mean square of the noise: 1, but for its chance."""

    class Silent(torch.nn.Module):
        def forward(self, seen, t, words, how):
            return torch.zeros_like(seen)

    batch = batch_of(64)
    found = held_out_loss(Silent(), batch, goal(schedule()), [str(i) for i in range(64)], 0)
    assert abs(found.mean() - 1) < 4 * (2 / (64 * 5 * 64)) ** 0.5


@pytest.mark.parametrize("method", ["lora", "partial"])
def test_thirty_steps_lower_the_loss_of_pictures_that_were_not_seen(pipelines, method):
    """Twelve variants of one latent, nine to train with; the network begins with random weights."""
    torch.manual_seed(0)
    pipe, scheduler = pipelines(False), schedule("v_prediction")
    z = torch.randn(1, 4, 4, 4) + 0.3 * torch.randn(12, 4, 4, 4)
    words = {"prompt_embeds": torch.randn(1, 77, 32).expand(12, -1, -1)}
    network = LoraNetwork(adapters.attach(pipe, LoraRecipe(method=method, rank=8), 0), family_of(pipe))
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-2)
    held = batch_of(3, z_BCHW=z[9:], words={n: x[9:] for n, x in words.items()})
    before = held_out_loss(network, held, goal(scheduler), ["a", "b", "c"], 0)
    for step in range(30):
        batch = batch_of(9, seed=step, z_BCHW=z[:9], words={n: x[:9] for n, x in words.items()})
        loss(network, batch, goal(scheduler)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = held_out_loss(network, held, goal(scheduler), ["a", "b", "c"], 0)
    assert (after < 0.9 * before).all(), (before, after)
