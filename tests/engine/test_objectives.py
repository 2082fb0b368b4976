"""The loss against its closed form and the library, the order of samples, the step size, the average."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from noiseweave.engine.objectives import draw, epsilon_loss, learning_rate, moving_average, order


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

    loss = epsilon_loss(spy, x0, eps, t, scheduler.alphas_cumprod)
    torch.testing.assert_close(seen["x"], scheduler.add_noise(x0, eps, t))
    assert torch.equal(seen["t"], t)
    torch.testing.assert_close(loss, eps.square().mean((1, 2, 3)))


def test_the_loss_is_zero_for_the_true_noise_and_one_sigma_off_costs_one(batch):
    x0, eps, t = batch
    alpha_bar = DDPMScheduler(1000).alphas_cumprod
    assert epsilon_loss(lambda x, t: eps, x0, eps, t, alpha_bar).abs().max() == 0
    torch.testing.assert_close(epsilon_loss(lambda x, t: eps + 1, x0, eps, t, alpha_bar), torch.ones(64))


def test_the_optimal_denoiser_of_a_gaussian_reaches_its_closed_form_loss():
    """x0 ~ N(0, 1): E[eps | x_t] = sqrt(1 - alpha_bar) x_t, whose mean squared error is alpha_bar."""
    g = torch.Generator().manual_seed(1)
    x0, eps = torch.randn(2, 4096, 1, 4, 4, generator=g)
    alpha_bar = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    for t in (100, 500, 900):
        steps = torch.full((4096,), t)
        loss = epsilon_loss(
            lambda x, t: (1 - alpha_bar[t]).sqrt().view(-1, 1, 1, 1) * x, x0, eps, steps, alpha_bar
        )
        assert loss.mean().item() == pytest.approx(alpha_bar[t].item(), rel=0.02)


def test_each_epoch_is_a_permutation_and_any_stretch_of_the_order_can_be_asked_for():
    whole = order(7, 10, 0, 30)
    epochs = [whole[i : i + 10] for i in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert order(7, 10, 8, 5) == whole[8:13]
    assert order(8, 10, 0, 30) != whole


def test_a_draw_depends_on_seed_step_and_position_only():
    first, again = draw(0, 3, 5, (1, 4, 4), 1000), draw(0, 3, 5, (1, 4, 4), 1000)
    assert torch.equal(first.eps_CHW, again.eps_CHW)
    assert (first.t, first.flip) == (again.t, again.flip)
    for other in (
        draw(1, 3, 5, (1, 4, 4), 1000),
        draw(0, 4, 5, (1, 4, 4), 1000),
        draw(0, 3, 6, (1, 4, 4), 1000),
    ):
        assert not torch.equal(first.eps_CHW, other.eps_CHW)


def test_draws_have_the_right_moments():
    draws = [draw(0, step, place, (1, 8, 8), 1000) for step in range(20) for place in range(64)]
    eps = torch.stack([d.eps_CHW for d in draws])
    t = torch.tensor([float(d.t) for d in draws])
    assert abs(eps.mean()) < 0.02
    assert abs(eps.std() - 1) < 0.02
    assert abs(t.mean() - 499.5) < 5 * 1000 / math.sqrt(12 * 1280)
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
