"""What each kind is built from, and that its losses are those of the objectives, on its own networks."""

import pytest
import torch
from diffusers import AutoencoderTiny, DDPMScheduler

from noiseweave.engine.networks import dcgan, vae
from noiseweave.engine.networks.recipes import KINDS
from noiseweave.engine.training import systems
from noiseweave.engine.training.objectives import ddpm_loss, flow_loss, mixing_loss
from noiseweave.engine.training.recipes import (
    Blueprint,
    ModelRecipe,
    ObjectiveRecipe,
    ScheduleRecipe,
    UnetRecipe,
)

UNET = UnetRecipe(channels=(8, 16), attention=(1,), groups=4)


def plan(kind="ddpm", classes=0, size=16, channels=1, seed=0, unet=UNET, schedule=None, dropout=0.1, **goal):
    model = ModelRecipe(kind=kind, classes=classes, width=4, latent=6, label_dropout=dropout)
    return Blueprint(
        model=model,
        objective=ObjectiveRecipe(**goal),
        unet=unet,
        schedule=schedule or ScheduleRecipe(),
        classes=classes,
        size=size,
        channels=channels,
        seed=seed,
    )


def batch_for(system, count=4, label=None):
    g = torch.Generator().manual_seed(1)
    model = system.model
    shape = (model.channels, model.size, model.size) if len(model.noise_shape) == 1 else model.noise_shape
    return systems.Batch(
        x0=torch.rand(count, *shape, generator=g) * 2 - 1,
        label=torch.full((count,), -1) if label is None else torch.tensor(label),
        eps=torch.randn(count, *model.noise_shape, generator=g),
        time=torch.rand(count, generator=g),
        hide=torch.linspace(0, 0.99, count),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_turn_gives_a_loss_a_picture_and_moves_its_network_alone(kind, channels):
    system = systems.build(plan(kind, channels=channels))
    batch = batch_for(system)
    for turn in system.turns:
        for network in system.networks.values():
            network.zero_grad(set_to_none=True)
        loss = turn.loss(system.networks, batch)
        assert loss.shape == (4,)
        assert loss.dtype == torch.float32
        loss.sum().backward()
        moved = {n for n, x in system.networks.items() if any(w.grad is not None for w in x.parameters())}
        assert moved == {turn.network}
    assert system.networks[system.drawing] is system.model.network


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_weights_are_a_function_of_the_seed(kind):
    torch.rand(3)  # what happened before does not count
    one, same, other = (systems.build(plan(kind, seed=s)).model.network.state_dict() for s in (0, 0, 1))
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert any(not torch.equal(one[n], other[n]) for n in one)


def test_the_losses_are_those_of_the_objectives():
    for target in ("epsilon", "sample", "v_prediction"):
        system = systems.build(plan(target=target, min_snr=5.0))
        b, network = batch_for(system), network_of(system)
        t = (b.time * 1000).long()
        alpha_bar = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod
        wanted = ddpm_loss(network, b.x0, b.eps, t, alpha_bar, target, 5.0)
        assert torch.allclose(system.turns[0].loss(system.networks, b), wanted)
    for kind, objective in (("flow", flow_loss), ("linear_mixing", mixing_loss)):
        system = systems.build(plan(kind))
        b, network = batch_for(system), network_of(system)
        wanted = objective(network, b.x0, b.eps, b.time)
        assert torch.allclose(system.turns[0].loss(system.networks, b), wanted)
    system = systems.build(plan("vae", beta=0.5))
    b, network = batch_for(system), system.networks["vae"]
    assert torch.equal(system.turns[0].loss(system.networks, b), vae.vae_loss(network, b.x0, b.eps, 0.5))


def network_of(system):
    return lambda x, t: system.networks["unet"](x, t).sample


def test_a_dcgan_watches_how_real_its_pictures_look():
    system = systems.build(plan("dcgan", smoothing=0.2))
    b, n = batch_for(system), system.networks
    watched = system.watch(n, b)
    wanted = dcgan.scores(n["discriminator"], n["generator"], b.x0, b.eps)
    assert torch.equal(watched["d_real"], wanted[0])
    assert torch.equal(watched["d_drawn"], wanted[1])
    assert [turn.name for turn in system.turns] == ["loss_d", "loss_g"]
    expected = dcgan.discriminator_loss(n["discriminator"], n["generator"], b.x0, b.eps, 0.2)
    torch.testing.assert_close(system.turns[0].loss(n, b), expected)


def test_hidden_and_missing_labels_are_the_null_class():
    """hide is 0, .33, .66, .99: a dropout of 0.5 hides the first two; the last has no label."""
    system = systems.build(plan(classes=3, dropout=0.5))
    seen = []
    handle = system.networks["unet"].class_embedding.register_forward_hook(
        lambda module, args, out: seen.append(args[0].tolist())
    )
    system.turns[0].loss(system.networks, batch_for(system, label=[0, 1, 2, -1]))
    handle.remove()
    assert seen == [[3, 3, 2, 3]]
    assert system.networks["unet"].config.num_class_embeds == 4


@pytest.mark.parametrize(
    ("kind", "name", "first"),
    [
        ("cosine", "squaredcos_cap_v2", None),
        ("linear", "linear", 1e-4),
        ("scaled_linear", "scaled_linear", 0.00085),
    ],
)
def test_the_schedule_is_diffusers(kind, name, first):
    schedule = ScheduleRecipe(kind=kind, timesteps=50)
    scheduler = systems.build(plan(schedule=schedule, target="v_prediction")).model.scheduler
    assert isinstance(scheduler, DDPMScheduler)
    assert (scheduler.config.beta_schedule, scheduler.config.num_train_timesteps) == (name, 50)
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.clip_sample
    assert first is None or float(scheduler.betas[0]) == pytest.approx(first)


def test_latents_have_their_own_shape_and_are_never_clipped():
    blocks = {"encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4)}
    encoder = AutoencoderTiny(**blocks, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))
    model = systems.build(plan(channels=3), encoder).model
    assert model.noise_shape == (4, 8, 8)
    assert (model.size, model.channels) == (16, 3)
    assert not model.scheduler.config.clip_sample
    with pytest.raises(ValueError, match="latents' side=9: a multiple of 2"):
        systems.build(plan(channels=3, size=18), encoder)
    with pytest.raises(ValueError, match=r"data\.size=17: a multiple of 2, the scale factor of model\.vae"):
        systems.build(plan(channels=3, size=17), encoder)


def test_sizes_that_do_not_halve_are_refused():
    with pytest.raises(ValueError, match=r"data\.size=9: a multiple of 2, as unet\.channels"):
        systems.build(plan(size=9))


def test_only_an_optimal_transport_flow_couples():
    assert systems.build(plan("flow", coupling="optimal_transport")).couples
    assert not systems.build(plan("flow")).couples
    assert not systems.build(plan("ddpm", coupling="optimal_transport")).couples
