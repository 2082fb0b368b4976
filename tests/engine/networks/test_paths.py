"""A model's path, from its scheduler."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from small_models import model_of

from noiseweave.engine.networks import paths


def test_which_path_and_what_is_predicted():
    flow, v = FlowMatchEulerDiscreteScheduler(), DDPMScheduler(1000, prediction_type="v_prediction")
    assert (paths.is_straight(flow), paths.prediction_of(flow)) == (True, "flow")
    assert (paths.is_straight(v), paths.prediction_of(v)) == (False, "v_prediction")
    assert paths.stepping(flow) is flow
    assert type(paths.stepping(v)) is DDIMScheduler
    assert [model_of(kind).prediction for kind in ("ddpm", "flow", "linear_mixing")] == [
        "epsilon",
        "flow",
        "sample",
    ]


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("sampler", ["ddim", "sde-dpm-solver++"])
def test_a_flow_has_the_same_even_steps_with_either_sampler(shift, sampler):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    path = paths.path_of(scheduler, "flow", 10, 3, sampler=sampler)
    even = torch.arange(10, 0, -1, dtype=torch.float64) / 10
    sigma = (shift * even / (1 + (shift - 1) * even))[3:]
    torch.testing.assert_close(path.sigma_T, sigma)
    torch.testing.assert_close(path.alpha_T, 1 - sigma)
    torch.testing.assert_close(path.t_T, (1000 * sigma).float())
    assert (float(path.alpha_next_T[-1]), float(path.sigma_next_T[-1])) == (1, 0)


@pytest.mark.parametrize("scheduler", [FlowMatchEulerDiscreteScheduler(100), DDIMScheduler(100)])
def test_more_steps_than_the_model_has_are_refused(scheduler):
    assert len(paths.path_of(scheduler, paths.prediction_of(scheduler), 100, 99)) == 1
    with pytest.raises(ValueError, match=r"inversion\.num_steps=101: the model has 100 time steps"):
        paths.path_of(scheduler, "sample", 101)


def test_a_level_of_noise_is_a_share_of_the_way():
    t, alpha, sigma = paths.noise_level(FlowMatchEulerDiscreteScheduler(), 0.3)
    assert (t, float(alpha), float(sigma)) == (300, 0.7, pytest.approx(0.3))
    assert paths.sigma_of(FlowMatchEulerDiscreteScheduler(), torch.tensor([300.0])).tolist() == [0.3]
    lib = DDIMScheduler(1000)
    t, alpha, sigma = paths.noise_level(lib, 0.3)
    assert (t, float(alpha) ** 2) == (300, pytest.approx(float(lib.alphas_cumprod[300])))
    assert float(alpha) ** 2 + float(sigma) ** 2 == pytest.approx(1)
    assert paths.sigma_of(lib, torch.tensor([300])).tolist() == [float(sigma)]
