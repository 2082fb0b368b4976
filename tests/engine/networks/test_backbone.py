"""The model behind the algorithms: prediction types, memory, bytes, and one clear line when it is broken."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import small_models
import torch
from diffusers import DDIMScheduler
from ends import noise_in
from small_pipeline import change

from noiseweave import models
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.networks import backbone as b
from noiseweave.engine.networks import facts, loading, paths
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.sampling import samplers
from noiseweave.engine.sampling.recipes import SamplerRecipe


class Linear(torch.nn.Module):
    """What a network of each kind answers when the noise in x is 0.3 x."""

    def __init__(self, kind, alpha_bar):
        super().__init__()
        self.kind, self.alpha_bar = kind, alpha_bar
        self.config = type("config", (), {"in_channels": 1, "sample_size": 4})

    def forward(self, x, t, return_dict=True):
        a = self.alpha_bar[t].view(-1, 1, 1, 1)
        epsilon = 0.3 * x
        x_0 = (x - (1 - a).sqrt() * epsilon) / a.sqrt()
        v = a.sqrt() * epsilon - (1 - a).sqrt() * x_0
        return ({"epsilon": epsilon, "sample": x_0, "v_prediction": v}[self.kind],)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_every_prediction_type_gives_the_same_noise(kind):
    scheduler = DDIMScheduler(1000, prediction_type=kind)
    backbone = b.Backbone(Linear(kind, scheduler.alphas_cumprod), scheduler)
    x = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([50, 300, 500, 700, 900])
    torch.testing.assert_close(
        noise_in(backbone, backbone.denoise(x, t), x, t), 0.3 * x, rtol=1e-3, atol=1e-3
    )


def test_out_of_memory_halves_the_micro_batch_and_goes_on(digits_model, out_of_memory_over):
    backbone = digits_model()
    x, t = torch.randn(11, 1, 16, 16), torch.arange(11) * 90
    expected = backbone.denoise(x, t)
    backbone.unet, backbone.parts.size = out_of_memory_over(backbone.unet, 3), 8
    torch.testing.assert_close(backbone.denoise(x, t), expected, rtol=1e-4, atol=1e-4)
    assert (backbone.parts.size, backbone.unet.sizes) == (2, [2] * 5 + [1])
    backbone.unet.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        backbone.denoise(x, t)
    assert backbone.parts.size == 1


def test_rows_that_overflow_in_half_precision_are_done_again(digits_model):
    exact, other = digits_model(), digits_model()
    exact.unet.conv_in.weight.data *= 1000
    exact.unet.half().float()
    other.unet.load_state_dict(exact.unet.state_dict())
    half = b.Backbone(other.unet, other.scheduler, precision="fp16")
    x, t = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 500, 900])
    alone = half.denoise(x[[0, 2]], t[[0, 2]])
    x[1] *= 10_000  # over 65504 after conv_in, and nothing after the first norm
    assert not half._output(x, t).isfinite().all()
    again = half.denoise(x, t)
    torch.testing.assert_close(again[1], exact.denoise(x, t)[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again[[0, 2]], alone, rtol=1e-2, atol=1e-2)
    assert half.dtype == half.unet.dtype == torch.float16


def test_what_is_not_finite_is_no_picture(digits_model):
    x = torch.zeros(3, 1, 16, 16)
    x[1, 0, 3, 3] = torch.nan
    assert digits_model().decoded(x)[1].tolist() == [True, False, True]
    with pytest.raises(ValueError, match="not finite"):
        digits_model().decode(x)


def test_bytes_survive_encode_and_decode(digits_model):
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    backbone = digits_model()
    x = backbone.encode(image)
    assert (x.min(), x.max(), x.dtype, x.shape) == (-1, 1, torch.float32, (1, 1, 16, 16))
    assert np.array_equal(backbone.decode(x), image)
    assert backbone.decode(torch.tensor([[[[-9.0, 9.0]]]])).ravel().tolist() == [0, 255]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_prediction_is_float32_whatever_the_network_runs_in(digits_model, precision):
    backbone = digits_model(ModelConfig(name="digits-ddpm", precision=precision))
    assert next(backbone.unet.parameters()).dtype == b.DTYPES[precision]
    assert backbone.denoise(torch.zeros(1, 1, 16, 16), torch.tensor([5])).dtype == torch.float32


def test_the_schedule_is_the_librarys_without_its_noisiest_steps(digits_model):
    backbone = digits_model()
    s = backbone.path(InversionRecipe(num_steps=50, skip=10))
    assert s.t_T.tolist() == list(range(780, -1, -20))
    torch.testing.assert_close(s.alpha_T**2, backbone.scheduler.alphas_cumprod[s.t_T].double())
    torch.testing.assert_close(s.sigma_T**2, 1 - s.alpha_T**2)
    assert s.alpha_next_T.tolist() == [*s.alpha_T[1:].tolist(), 1.0]
    assert s.sigma_next_T.tolist() == [*s.sigma_T[1:].tolist(), 0.0]


def test_what_can_be_asked_without_loading_the_weights():
    found = loading.describe("digits-ddpm")
    assert (found.channels, found.side, found.latent, found.vae_scale_factor) == (1, 16, False, 1)
    loading.settled_chain(found, InversionRecipe(num_steps=1000))
    few = replace(found, scheduler={**found.scheduler, "num_train_timesteps": 10})
    with pytest.raises(ValueError, match=r"inversion\.num_steps=11"):
        loading.settled_chain(few, InversionRecipe(num_steps=11))


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(models.resolve("digits-ddpm"), tmp_path / "m")
    return tmp_path / "m"


def test_a_fingerprint_is_of_the_files_and_not_of_the_folder(copy):
    same = loading.fingerprint(loading.describe("digits-ddpm"))
    assert loading.fingerprint(loading.describe(str(copy))) == same
    assert len(same) == 16
    weights = next(copy.glob(facts.PIXEL_WEIGHTS))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert loading.fingerprint(loading.describe(str(copy))) != same


BREAKS = {
    "no folder": (lambda m: shutil.rmtree(m), "no such folder"),
    "no index": (lambda m: (m / "model_index.json").unlink(), "model_index.json is missing"),
    "no weights": (lambda m: next(m.glob(facts.PIXEL_WEIGHTS)).unlink(), "safetensors is missing"),
    "no scheduler": (lambda m: shutil.rmtree(m / "scheduler"), "scheduler_config.json is missing"),
    "other class": (
        lambda m: change(m / "model_index.json", unet=["diffusers", "UNet2DConditionModel"]),
        "UNet2DConditionModel",
    ),
    "class times": (
        lambda m: change(m / "unet/config.json", class_embed_type="timestep"),
        "class_embed_type",
    ),
    "channels": (lambda m: change(m / "unet/config.json", in_channels=4), "4 channels"),
    "cut json": (lambda m: (m / "unet/config.json").write_text("{"), "is no JSON"),
    "cut weights": (lambda m: next(m.glob(facts.PIXEL_WEIGHTS)).write_bytes(b"12345678{"), "model"),
    "other weights": (lambda m: change(m / "unet/config.json", block_out_channels=[8, 8, 8]), "model"),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_model_is_one_clear_line(copy, how):
    damage, words = BREAKS[how]
    damage(copy)
    with pytest.raises(ValueError, match=words) as error:
        loading.load(ModelConfig(name=str(copy)))
    assert "\n" not in str(error.value)
    assert str(copy) in str(error.value)


def test_a_model_that_became_a_backbone_draws_as_before():
    drawing = small_models.model_of("ddpm", classes=3)
    recipe, label_B = SamplerRecipe(steps=2, guidance=2.0), torch.tensor([0, 2])

    def drawn():
        return samplers.draw(drawing, [0, 1], label_B, recipe, 0).image_BHWC

    before = drawn()
    backbone = b.Backbone(drawing.network, paths.stepping(drawing.scheduler), prediction=drawing.prediction)
    assert backbone.classes == 3
    assert (drawn() == before).all()
