"""The losses against closed forms and the library, the chance of samples, the step size, the average."""

import itertools
import math

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_snr
from torch import nn

from noiseweave.engine.training.objectives import (
    coupled,
    ddpm_loss,
    draw_chance,
    flow_loss,
    hidden,
    learning_rate,
    min_snr_weight,
    mixing_loss,
    moving_average,
    step_of,
)


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(0)
    x0 = torch.randn(64, 1, 4, 4, generator=g)
    eps = torch.randn(64, 1, 4, 4, generator=g)
    return x0, eps, torch.randint(1000, (64,), generator=g)


@pytest.mark.parametrize("kind", ["squaredcos_cap_v2", "linear"])
def test_the_network_sees_what_diffusers_add_noise_gives(batch, kind):
    x0, eps, t = batch
    scheduler = DDPMScheduler(1000, beta_schedule=kind)
    seen = {}

    def spy(x, steps):
        seen.update(x=x, t=steps)
        return torch.zeros_like(x)

    loss = ddpm_loss(spy, x0, eps, t, scheduler.alphas_cumprod)
    torch.testing.assert_close(seen["x"], scheduler.add_noise(x0, eps, t))
    assert torch.equal(seen["t"], t)
    torch.testing.assert_close(loss, eps.square().mean((1, 2, 3)))


def test_the_loss_is_zero_for_the_true_noise_and_one_sigma_off_costs_one(batch):
    x0, eps, t = batch
    alpha_bar = DDPMScheduler(1000).alphas_cumprod
    assert ddpm_loss(lambda x, t: eps, x0, eps, t, alpha_bar).abs().max() == 0
    torch.testing.assert_close(ddpm_loss(lambda x, t: eps + 1, x0, eps, t, alpha_bar), torch.ones(64))


def test_the_optimal_denoiser_of_a_gaussian_reaches_its_closed_form_loss():
    """x0 ~ N(0, 1): E[eps | x_t] = sqrt(1 - alpha_bar) x_t, whose mean squared error is alpha_bar."""
    g = torch.Generator().manual_seed(1)
    x0, eps = torch.randn(2, 4096, 1, 4, 4, generator=g)
    alpha_bar = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    for t in (100, 500, 900):
        steps = torch.full((4096,), t)
        loss = ddpm_loss(
            lambda x, t: (1 - alpha_bar[t]).sqrt().view(-1, 1, 1, 1) * x, x0, eps, steps, alpha_bar
        )
        assert loss.mean().item() == pytest.approx(alpha_bar[t].item(), rel=0.02)


@pytest.mark.parametrize("target", ["epsilon", "sample", "v_prediction"])
def test_a_perfect_network_has_no_loss_and_an_error_of_one_costs_the_weight(batch, target):
    x0, eps, t = batch
    scheduler = DDPMScheduler(1000, prediction_type=target)
    truth = {"epsilon": eps, "sample": x0, "v_prediction": scheduler.get_velocity(x0, eps, t)}[target]
    a = scheduler.alphas_cumprod
    loss = ddpm_loss(lambda x, t: truth, x0, eps, t, a, target)
    torch.testing.assert_close(loss, torch.zeros(64), atol=1e-8, rtol=0)
    weighted = ddpm_loss(lambda x, t: truth + 1, x0, eps, t, a, target, min_snr=5.0)
    torch.testing.assert_close(weighted, min_snr_weight(a[t], target, 5.0), rtol=1e-4, atol=1e-6)


def test_min_snr_is_the_clipped_snr_as_an_error_in_x0():
    """One error in x0, written as an error in each target, has one and the same weighted loss."""
    scheduler = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2")
    t = torch.tensor([1, 50, 200, 500, 800])
    a, snr = scheduler.alphas_cumprod[t].double(), compute_snr(scheduler, t).double()
    in_eps, in_v = (a / (1 - a)).sqrt(), 1 / (1 - a).sqrt()  # of an error of 1 in x0, at a given x_t
    clipped = snr.clamp(max=5)
    for target, error in (("sample", torch.ones(5)), ("epsilon", in_eps), ("v_prediction", in_v)):
        torch.testing.assert_close(min_snr_weight(a, target, 5.0) * error**2, clipped, rtol=1e-4, atol=0)


def test_the_flow_is_told_what_diffusers_scheduler_hands_it_and_its_velocity_leads_back(batch):
    x0, eps, _ = batch
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(4)
    t = scheduler.timesteps[1]
    sigma = scheduler.sigmas[1].expand(64)
    seen = {}

    def spy(x, time):
        seen.update(x=x, t=time)
        return eps - x0

    assert flow_loss(spy, x0, eps, sigma).abs().max() == 0
    torch.testing.assert_close(seen["t"], t.expand(64))
    torch.testing.assert_close(seen["x"], scheduler.scale_noise(x0, t.reshape(1), eps))
    torch.testing.assert_close(seen["x"] - sigma.view(-1, 1, 1, 1) * (eps - x0), x0, atol=1e-5, rtol=0)


def test_the_best_flow_of_a_gaussian_reaches_its_closed_form_loss():
    """x0, eps ~ N(0, 1): E[eps - x0 | x] = (2 s - 1) x / (s^2 + (1 - s)^2), and the rest is 1 / that sum."""
    x0, eps = torch.randn(2, 4096, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    for s in (0.1, 0.5, 0.8):
        spread = s**2 + (1 - s) ** 2
        best = lambda x, t: (2 * s - 1) / spread * x  # noqa: B023, E731
        loss = flow_loss(best, x0, eps, torch.full((4096,), s))
        assert loss.mean().item() == pytest.approx(1 / spread, rel=0.02)


def test_linear_mixing_asks_for_the_picture(batch):
    x0, eps, _ = batch
    w = torch.linspace(0, 1, 64)
    seen = {}

    def spy(x, time):
        seen.update(x=x, t=time)
        return x0 + 2

    torch.testing.assert_close(mixing_loss(spy, x0, eps, w), torch.full((64,), 4.0))
    torch.testing.assert_close(seen["x"][0], x0[0])
    torch.testing.assert_close(seen["x"][-1], eps[-1])
    assert seen["t"][-1] == 1000


def test_the_coupling_is_the_cheapest_of_all_permutations():
    g = torch.Generator().manual_seed(2)
    x0, eps = torch.randn(2, 6, 1, 2, 2, generator=g)
    found = coupled(x0, eps)

    def cost(order):
        return (x0 - eps[list(order)]).square().sum().item()

    cheapest = min(itertools.permutations(range(6)), key=cost)
    assert found.tolist() == list(cheapest)
    assert cost(found.tolist()) < cost(range(6))


def test_labels_are_hidden_at_the_asked_share_and_missing_ones_always():
    label, chance = torch.tensor([0, 1, 2, -1]).repeat(2500), torch.rand(10_000)
    out = hidden(label, chance, 0.3, 3)
    assert (out[label < 0] == 3).all()
    share = (out[label >= 0] == 3).float().mean()
    assert 0.27 < share < 0.33
    assert torch.equal(hidden(label, chance, 0.0, 3)[label >= 0], label[label >= 0])


def test_a_time_is_a_step_and_float32s_one_is_the_last():
    time = torch.tensor([0.0, 0.0009, 0.001001, 0.5, 1 - 1e-9])
    assert step_of(time, 1000).tolist() == [0, 0, 1, 500, 999]


def test_a_draw_depends_on_seed_step_and_position_only():
    first, again = draw_chance(0, 3, 5, (1, 4, 4)), draw_chance(0, 3, 5, (1, 4, 4))
    assert torch.equal(first.eps, again.eps)
    assert (first.time, first.hide, first.flip) == (again.time, again.hide, again.flip)
    for other in (
        draw_chance(1, 3, 5, (1, 4, 4)),
        draw_chance(0, 4, 5, (1, 4, 4)),
        draw_chance(0, 3, 6, (1, 4, 4)),
    ):
        assert not torch.equal(first.eps, other.eps)
        assert first.time != other.time


def test_draws_have_the_right_moments():
    draws = [draw_chance(0, step, place, (1, 8, 8)) for step in range(20) for place in range(64)]
    eps = torch.stack([d.eps for d in draws])
    assert abs(eps.mean()) < 0.02
    assert abs(eps.std() - 1) < 0.02
    for values in ([d.time for d in draws], [d.hide for d in draws]):
        assert abs(sum(values) / 1280 - 0.5) < 5 / math.sqrt(12 * 1280)
        assert 0 <= min(values) <= max(values) < 1
    assert 0.4 < sum(d.flip for d in draws) / 1280 < 0.6


def test_learning_rate_rises_straight_and_falls_as_a_half_cosine():
    def lr(step, decay="cosine"):
        return learning_rate(step, peak=2.0, steps=110, warmup=10, decay=decay)

    assert [lr(0), lr(4), lr(9), lr(10)] == pytest.approx([0.2, 1.0, 2.0, 2.0])
    assert [lr(35), lr(60), lr(110)] == pytest.approx([1 + math.sqrt(0.5), 1.0, 0.0])
    assert [lr(4, "constant"), lr(109, "constant")] == pytest.approx([1.0, 2.0])


def test_moving_average_matches_its_recurrence_and_goes_on_after_a_restart():
    weight = nn.Parameter(torch.zeros(3))
    average, expected = moving_average([weight], 0.9), torch.zeros(3)
    for k in range(40):
        with torch.no_grad():
            weight.copy_(torch.randn(3))
        if k == 20:
            kept = average.shadow_params
            average = moving_average([weight], 0.9, step=20)
            average.shadow_params = kept
        average.step([weight])
        decay = min(0.9, (1 + k) / (10 + k)) if k else 0.0
        expected = decay * expected + (1 - decay) * weight.detach()
        torch.testing.assert_close(average.shadow_params[0], expected)
