"""The share that a model does not see, of exact denoisers whose answer is a formula, on every path and prediction."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from noiseweave.engine.judging.denoising import RATIOS, unexplained
from noiseweave.engine.networks import paths


class Exact:
    """The best denoiser of independent normal pixels of mean 0 and deviation ``spread``, as a backbone."""

    def __init__(self, scheduler, prediction, spread=0.5):
        self.scheduler, self.prediction, self.spread = scheduler, prediction, spread
        self.device = torch.device("cpu")
        found = [paths.noise_ratio(scheduler, r) for r in RATIOS]
        self.levels = {round(t): (alpha.float(), sigma.float()) for t, alpha, sigma in found}

    def encode(self, image_BHWC):
        return torch.from_numpy(image_BHWC).permute(0, 3, 1, 2).float() / 127.5 - 1

    def denoise(self, x, t):
        assert len(t.unique()) == 1
        alpha, sigma = self.levels[round(t[0].item())]
        x_0 = x * alpha * self.spread**2 / (alpha**2 * self.spread**2 + sigma**2)
        eps = (x - alpha * x_0) / sigma
        return {"sample": x_0, "epsilon": eps, "v_prediction": alpha * eps - sigma * x_0, "flow": eps - x_0}[
            self.prediction
        ]


DDIM = DDIMScheduler(beta_schedule="squaredcos_cap_v2")
FLOW = FlowMatchEulerDiscreteScheduler()


def pictures(spread, n=4):
    x = np.random.default_rng(0).normal(0, spread, (n, 64, 64, 3))
    return np.clip(np.rint((x + 1) * 127.5), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("scheduler", "prediction"),
    [(DDIM, "epsilon"), (DDIM, "sample"), (DDIM, "v_prediction"), (FLOW, "flow"), (FLOW, "sample")],
)
def test_pictures_that_the_model_knows_have_the_share_of_the_formula(scheduler, prediction):
    found = unexplained(Exact(scheduler, prediction), pictures(0.3))
    expected = []
    for ratio in RATIOS:
        gain = 0.25 / (0.25 + ratio**2)  # of a picture of another spread, 0.3
        expected.append((gain**2 * ratio**2 + (1 - gain) ** 2 * 0.09) / 0.09)
    assert found == pytest.approx([np.exp(np.mean(np.log(expected)))] * 4, rel=0.05)


def test_it_is_of_each_picture_alone_and_finite_for_a_flat_one():
    backbone = Exact(FLOW, "flow")
    x = pictures(0.5)
    assert np.allclose(unexplained(backbone, x)[2:3], unexplained(backbone, x[2:3]), rtol=1e-5)
    flat = unexplained(backbone, np.full((1, 64, 64, 3), 40, np.uint8))
    assert np.isfinite(flat).all()
    assert flat > 10


def test_less_contrast_is_not_better():
    """The bare error of a picture with half the contrast is smaller; its share is larger."""
    backbone = Exact(FLOW, "flow")
    assert (unexplained(backbone, pictures(0.25)) > 1.5 * unexplained(backbone, pictures(0.5))).all()


def test_a_real_network_of_digits_sees_digits_better_than_their_means(digits, digits_model):
    backbone, (image, label) = digits_model(), digits
    a, b = image[label == 3][:12], image[label == 4][:12]
    mean = ((a.astype(int) + b) // 2).astype(np.uint8)
    shares = [np.log(unexplained(backbone, x)).mean() for x in (a, b, mean)]
    assert shares[2] > max(shares[:2])


def test_levels_mean_the_same_on_both_paths():
    for ratio in RATIOS:
        for scheduler in (DDIM, FLOW):
            _, alpha, sigma = paths.noise_ratio(scheduler, ratio)
            assert float(sigma / alpha) == pytest.approx(ratio, rel=0.02)
    none = SimpleNamespace(
        config=SimpleNamespace(num_train_timesteps=3), alphas_cumprod=torch.tensor([0.9, 0.5, 0.1])
    )
    assert paths.noise_ratio(none, 1.0)[0] == 1
