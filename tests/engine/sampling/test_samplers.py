"""Samplers against exact denoisers: for data N(m, s^2) the best prediction is linear in x and known."""

import dataclasses

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import nn

from noiseweave.engine.networks.base_models import BaseModel
from noiseweave.engine.sampling import samplers
from noiseweave.engine.sampling.recipes import SamplerRecipe, sampler_name

MEAN, STD = 0.3, 0.1


class Exact(nn.Module):
    """What a perfect network says of pictures whose values are all N(MEAN, STD^2), or N(label / 10, STD^2)."""

    def __init__(self, kind, alpha_bar=None, target="epsilon"):
        super().__init__()
        self.kind, self.alpha_bar, self.target, self.rows, self.times = kind, alpha_bar, target, [], []
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def forward(self, x, t, class_labels=None, return_dict=True):
        self.rows.append(len(x))
        self.times.append(t[0].item())
        mean = MEAN if class_labels is None else (class_labels / 10).view(-1, 1, 1, 1)
        if self.kind == "ddpm":
            a = self.alpha_bar[t.long()].view(-1, 1, 1, 1)
            scale, noise = a.sqrt(), (1 - a).sqrt()
        else:
            noise = (t / 1000).view(-1, 1, 1, 1)
            scale = 1 - noise
        x0 = mean + STD**2 * scale * (x - scale * mean) / (STD**2 * scale**2 + noise**2)
        eps = (x - scale * x0) / noise.clamp(min=1e-6)
        v = eps - x0 if self.kind == "flow" else scale * eps - noise * x0
        wanted = "sample" if self.kind == "linear_mixing" else self.target
        out = {"epsilon": v if self.kind == "flow" else eps, "sample": x0, "v_prediction": v}[wanted]
        return (out,)


def model_of(kind, classes=0, target="epsilon", **more):
    if kind == "ddpm":
        scheduler = DDPMScheduler(
            1000, beta_schedule="squaredcos_cap_v2", prediction_type=target, clip_sample=False
        )
        network = Exact(kind, scheduler.alphas_cumprod, target)
    else:
        scheduler, network = FlowMatchEulerDiscreteScheduler(), Exact(kind)
    return BaseModel(
        kind=kind,
        network=network,
        classes=classes,
        size=8,
        channels=1,
        noise_shape=(1, 8, 8),
        scheduler=scheduler,
        **more,
    )


def values(drawn):
    return drawn.image_BHWC.astype(float) / 127.5 - 1


CASES = [
    ("ddpm", "ddpm", 100),
    ("ddpm", "ddim", 100),
    ("ddpm", "dpm-solver++", 80),
    ("flow", "euler", 100),
    ("flow", "midpoint", 20),
    ("flow", "heun", 20),
    ("flow", "dopri5", 1),
    ("linear_mixing", "euler", 100),
    ("linear_mixing", "heun", 20),
    ("linear_mixing", "dopri5", 1),
]


@pytest.mark.parametrize(("kind", "name", "steps"), CASES)
def test_an_exact_denoiser_draws_the_distribution_it_knows(kind, name, steps):
    recipe = SamplerRecipe(name=name, steps=steps)
    x = values(samplers.draw(model_of(kind), range(64), None, recipe, 0))
    assert x.shape == (64, 8, 8, 1)
    assert x.mean() == pytest.approx(MEAN, abs=0.01)
    assert x.std() == pytest.approx(STD, abs=0.015)


@pytest.mark.parametrize("target", ["sample", "v_prediction"])
@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpm-solver++"])
def test_the_target_of_the_network_is_that_of_the_scheduler(name, target):
    recipe = SamplerRecipe(name=name, steps=200)
    x = values(samplers.draw(model_of("ddpm", target=target), range(64), None, recipe, 0))
    assert x.mean() == pytest.approx(MEAN, abs=0.01)
    assert x.std() == pytest.approx(STD, abs=0.02)


def test_the_flow_lands_where_the_exact_map_sends_its_noise():
    """For a Gaussian the flow's map is x0 = MEAN + STD eps."""
    model = model_of("flow")
    drawn = samplers.draw(model, range(4), None, SamplerRecipe(name="dopri5", tolerance=1e-6), 7)
    eps, _ = samplers.first_noise(model, range(4), 7)
    expected = (MEAN + STD * eps).permute(0, 2, 3, 1).numpy()
    assert np.abs(values(drawn) - expected).max() < 1.1 / 127.5


@pytest.mark.parametrize(("name", "each"), [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_network_evaluations_are_counted(name, each):
    model = model_of("flow")
    drawn = samplers.draw(model, range(3), None, SamplerRecipe(name=name, steps=7), 0)
    assert drawn.calls == 7 * each == len(model.network.rows)
    if name == "euler":
        assert model.network.times == pytest.approx([1000 * (1 - i / 7) for i in range(7)], abs=1e-2)


@pytest.mark.parametrize("steps", [61, 109])
def test_a_fixed_solver_takes_exactly_the_steps_that_it_is_told(steps):
    model = model_of("flow")
    assert samplers.draw(model, [0], None, SamplerRecipe(name="euler", steps=steps), 0).calls == steps


@pytest.mark.parametrize("name", ["euler", "midpoint", "heun", "dopri5"])
def test_a_small_error_of_linear_mixing_is_not_blown_up_where_no_noise_is_left(name):
    model = model_of("linear_mixing")
    exact = model.network.forward
    model.network.forward = lambda *a, **k: (exact(*a, **k)[0] + 0.02,)
    x = values(samplers.draw(model, range(16), None, SamplerRecipe(name=name, steps=10), 0))
    assert x.mean() == pytest.approx(MEAN, abs=0.1)


@pytest.mark.parametrize("kind", ["flow", "linear_mixing"])
def test_dopri5_never_asks_beyond_the_clean_end(kind):
    model = model_of(kind)
    samplers.draw(model, range(4), None, SamplerRecipe(name="dopri5", tolerance=1e-2), 0)
    assert min(model.network.times) >= 0


def test_dopri5_takes_more_evaluations_for_a_smaller_tolerance():
    rough, fine = (
        samplers.draw(model_of("flow"), range(2), None, SamplerRecipe(name="dopri5", tolerance=t), 0).calls
        for t in (1e-2, 1e-6)
    )
    assert fine > rough > 0


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, n, _ in CASES])
def test_a_picture_is_the_same_in_any_company_and_any_micro_batch(kind, name):
    recipe = SamplerRecipe(name=name, steps=10, eta=0.5)
    together = samplers.draw(model_of(kind, micro_batch=3), range(8), None, recipe, 5).image_BHWC
    alone = samplers.draw(model_of(kind), [6], None, recipe, 5).image_BHWC
    assert np.abs(together[6].astype(int) - alone[0]).max() <= 1
    other = samplers.draw(model_of(kind), [6], None, recipe, 6).image_BHWC
    assert np.abs(other.astype(int) - alone).max() > 8


def test_ddim_with_eta_1_and_all_steps_is_ancestral_and_eta_0_has_one_outcome():
    model = model_of("ddpm")
    recipe = SamplerRecipe(name="ddim", steps=1000, eta=1.0)
    ancestral = samplers.draw(model, range(4), None, SamplerRecipe(name="ddpm", steps=1000), 0)
    ddim = samplers.draw(model, range(4), None, recipe, 0)
    assert np.abs(values(ancestral) - values(ddim)).mean() < 0.02
    still = samplers.draw(model, range(4), None, dataclasses.replace(recipe, eta=0.0), 0)
    assert np.abs(values(still) - values(ddim)).mean() > 0.05


def test_guidance_moves_away_from_the_null_class_in_one_call_and_1_needs_no_null_half():
    """mean(label) = label / 10, null = 4: guided mean = 0.4 + g (label / 10 - 0.4)."""
    label = torch.tensor([1, 3])
    means = {}
    for g in (1.0, 1.5, 0.0):
        model = model_of("linear_mixing", classes=4)
        recipe = SamplerRecipe(name="euler", steps=20, guidance=g)
        drawn = samplers.draw(model, range(2), label, recipe, 0)
        assert set(model.network.rows) == {2 if g == 1 else 4}
        assert drawn.calls == 20
        means[g] = values(drawn).mean((1, 2, 3))
    assert means[1.0] == pytest.approx([0.1, 0.3], abs=0.03)
    assert means[1.5] == pytest.approx([0.4 + 1.5 * (0.1 - 0.4), 0.4 + 1.5 * (0.3 - 0.4)], abs=0.03)
    assert means[0.0] == pytest.approx([0.4, 0.4], abs=0.03)


GUIDED = [
    ("ddpm", "ddim"),
    ("ddpm", "dpm-solver++"),
    ("flow", "euler"),
    ("flow", "heun"),
    ("linear_mixing", "euler"),
]


@pytest.mark.parametrize(("kind", "name"), GUIDED)
def test_outside_the_interval_of_guidance_there_is_no_null_half(kind, name):
    """The rows of each call tell: 2 pictures, doubled where sigma is within."""

    def drawn(guidance, *interval):
        model = model_of(kind, classes=4)
        more = {"guidance_interval": interval} if interval else {}
        recipe = SamplerRecipe(name=name, steps=20, guidance=guidance, **more)
        return samplers.draw(model, range(2), torch.tensor([1, 3]), recipe, 0).image_BHWC, model.network

    plain, _ = drawn(1.0)
    everywhere, _ = drawn(2.0)
    nowhere, network = drawn(2.0, 0.501, 0.501)
    assert set(network.rows) == {2}
    np.testing.assert_array_equal(nowhere, plain)
    whole, network = drawn(2.0, 0.0, 1.0)
    assert set(network.rows) == {4}
    np.testing.assert_array_equal(whole, everywhere)
    middle, network = drawn(2.0, 0.2, 0.8)
    a = network.alpha_bar
    sigmas = [(1 - a[int(t)]).sqrt() if kind == "ddpm" else t / 1000 for t in network.times]
    assert network.rows == [2 + 2 * (0.2 <= float(s) <= 0.8) for s in sigmas]
    assert set(network.rows) == {2, 4}
    assert np.abs(middle.astype(int) - plain).max() > 3
    assert np.abs(middle.astype(int) - everywhere).max() > 3


@pytest.mark.parametrize("interval", [(0.8, 0.2), (-0.1, 1.0), (0.0, 1.5)])
def test_an_interval_that_is_none_is_refused(interval):
    with pytest.raises(ValueError, match=r"sampler\.guidance_interval=\(.*0 to 1, the lower end first"):
        SamplerRecipe(guidance_interval=interval)


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, n, _ in CASES if n != "dopri5"])
def test_beliefs_are_clean_pictures_and_the_last_is_the_picture(kind, name):
    drawn = samplers.draw(model_of(kind), range(2), None, SamplerRecipe(name=name, steps=20), 0, kept=5)
    assert drawn.beliefs_KBHWC.shape == (5, 2, 8, 8, 1)
    means = drawn.beliefs_KBHWC.mean((1, 2, 3, 4)) / 127.5 - 1
    assert means == pytest.approx([MEAN] * 5, abs=0.05), "a belief is x_0, noise-free, at every step"
    spreads = drawn.beliefs_KBHWC.std((2, 3)).mean((1, 2))
    assert spreads[0] < 0.3 * spreads[-1], "first the mean of all data, in the end one picture"
    assert np.abs(drawn.beliefs_KBHWC[-1].astype(int) - drawn.image_BHWC).max() <= 6


def test_fewer_steps_than_beliefs_give_all_there_are():
    drawn = samplers.draw(model_of("flow"), [0], None, SamplerRecipe(steps=3), 0, kept=9)
    assert len(drawn.beliefs_KBHWC) == 3


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("ddpm", "euler", "ddpm, ddim, dpm-solver"),
        ("flow", "ddim", "euler, midpoint"),
        ("vae", "ddim", "one of auto"),
    ],
)
def test_a_sampler_of_another_kind_is_refused_by_name(kind, name, words):
    with pytest.raises(ValueError, match=words):
        sampler_name(kind, SamplerRecipe(name=name))


def test_more_steps_than_the_schedule_has_are_refused():
    with pytest.raises(ValueError, match=r"sampler.steps=1001: the model has 1000"):
        samplers.draw(model_of("ddpm"), [0], None, SamplerRecipe(steps=1001), 0)


@pytest.mark.parametrize("kind", ["ddpm", "flow", "linear_mixing"])
def test_the_panel_shows_the_noise_and_the_best_guess_behind_it(kind):
    truth = np.full((1, 8, 8, 1), round((MEAN + 1) * 127.5), np.uint8)
    noisy, belief = samplers.denoise_once(model_of(kind), truth, 0.5, ["x"], 0)
    assert noisy.std() > 40
    assert np.abs(belief.astype(int) - truth).max() <= 0.15 * 127.5
    clean, same = samplers.denoise_once(model_of(kind), truth, 0.0, ["x"], 0)
    assert np.abs(clean.astype(int) - truth).max() <= 3
    assert np.abs(same.astype(int) - truth).max() <= 3
