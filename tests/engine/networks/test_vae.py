"""The VAE: shapes, the bound's terms against torch's own, the walk, and that it learns digits."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from noiseweave.engine.networks.sizes import widths
from noiseweave.engine.networks.vae import LIMIT, VAE, elbo_terms, reparameterise, vae_loss, walk


@pytest.fixture
def small():
    torch.manual_seed(0)
    return VAE(size=16, channels=1, width=4, latent=6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_pictures_of_each_size_go_in_and_come_out(size, channels):
    vae = VAE(size=size, channels=channels, width=3, latent=5)
    x = torch.rand(2, channels, size, size) * 2 - 1
    mean, mu, logvar = vae(x, torch.randn(2, 5))
    assert mean.shape == x.shape
    assert mu.shape == logvar.shape == (2, 5)
    assert mean.abs().max() <= 1
    vae_loss(vae, x, torch.randn(2, 5), 1.0).sum().backward()
    assert all(w.grad is not None and w.grad.any() for w in vae.parameters())


def test_width_is_that_of_half_the_resolution_and_doubles_at_each_halving():
    assert widths(16, 1, 32) == [64, 32]
    assert widths(128, 3, 8) == [128, 64, 32, 16, 8]


@pytest.mark.parametrize("size", [8, 24, 48, 256, 0])
def test_other_sizes_are_refused(size):
    with pytest.raises(ValueError, match=rf"data\.size={size}: a power of two, 16 to 128"):
        VAE(size=size)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match=r"data\.channels=4: 1 or 3"):
        VAE(channels=4)


def test_the_divergence_is_torchs_own_and_the_error_a_sum():
    g = torch.Generator().manual_seed(0)
    mu, logvar = torch.randn(2, 7, 5, generator=g)
    x, mean = torch.randn(2, 7, 3, 4, 4, generator=g)
    error, kl = elbo_terms(x, mean, mu, logvar)
    library = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl, library)
    torch.testing.assert_close(error, ((x - mean) ** 2).sum((1, 2, 3)))


def test_the_loss_is_the_negative_bound_of_a_gaussian_likelihood(small):
    """2 s^2 (-log p(x | z) + KL), less the Gaussian's constant, with beta = 2 s^2."""
    x, eps, s = torch.rand(5, 1, 16, 16) * 2 - 1, torch.randn(5, 6), 0.3
    mean, mu, logvar = small(x, eps)
    likelihood = Normal(mean, s).log_prob(x).flatten(1).sum(1)
    constant = -256 * (math.log(s) + 0.5 * math.log(2 * math.pi))
    kl = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(1)
    loss = vae_loss(small, x, eps, 2 * s * s)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, 2 * s * s * (constant - likelihood + kl), rtol=1e-4, atol=1e-4)


def test_codes_are_drawn_from_the_posterior_and_gradients_pass():
    mu = torch.tensor([[0.0, 3.0]]).requires_grad_()
    logvar = torch.tensor([[0.0, math.log(0.25)]]).requires_grad_()
    eps = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))
    z = reparameterise(mu, logvar, eps)
    torch.testing.assert_close(z.mean(0), mu[0], atol=0.02, rtol=0)
    torch.testing.assert_close(z.std(0), torch.tensor([1.0, 0.5]), atol=0.02, rtol=0)
    one = eps[:1]
    reparameterise(mu, logvar, one).sum().backward()
    torch.testing.assert_close(mu.grad, torch.ones(1, 2))
    torch.testing.assert_close(logvar.grad, one * torch.tensor([1.0, 0.5]) / 2)


def test_the_spread_stays_bounded_whatever_the_picture(small):
    wild = 1e4 * torch.randn(4, 1, 16, 16)
    with torch.no_grad():
        small.encoder[-1].weight *= 1e6
        mu, logvar = small.encode(wild)
        loss = vae_loss(small, wild / 1e4, torch.randn(4, 6), 0.0)
    assert logvar.abs().max() <= LIMIT
    assert mu.abs().max() > LIMIT
    assert loss.isfinite().all()


def test_a_pictures_loss_does_not_depend_on_its_batch(small):
    x, eps = torch.rand(6, 1, 16, 16) * 2 - 1, torch.randn(6, 6)
    alone = torch.cat([vae_loss(small, x[i : i + 1], eps[i : i + 1], 1.0) for i in range(6)])
    torch.testing.assert_close(vae_loss(small, x, eps, 1.0), alone, rtol=1e-5, atol=1e-5)


def test_a_saved_model_comes_back_and_nothing_is_pickled(small, tmp_path):
    small.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    again = VAE.from_pretrained(tmp_path, use_safetensors=True)
    assert (again.config.size, again.config.width, again.config.latent) == (16, 4, 6)
    z = torch.randn(3, 6)
    assert torch.equal(again.decode(z), small.eval().decode(z))


def test_a_walk_begins_and_ends_at_its_ends_and_stays_on_the_shell():
    g = torch.Generator().manual_seed(0)
    a, b = torch.nn.functional.normalize(torch.randn(2, 32, generator=g), dim=1) * math.sqrt(32)
    path = walk(a, b, 9)
    assert torch.equal(path[0], a)
    assert torch.equal(path[-1], b)
    torch.testing.assert_close(path.norm(dim=1), torch.full((9,), math.sqrt(32)))
    steps = torch.nn.functional.cosine_similarity(path[1:], path[:-1], dim=1)
    torch.testing.assert_close(steps, steps[:1].expand(8), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="walk=1: 2 frames or more"):
        walk(a, b, 1)


def test_it_learns_digits(digits):
    """Far below the error of the mean picture, the best without a code; and codes are used, so that KL > 0."""
    torch.manual_seed(0)
    x = torch.from_numpy(np.moveaxis(digits[0], -1, 1)).float() / 127.5 - 1
    vae = VAE(size=16, channels=1, width=8, latent=16)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3)
    for _ in range(200):
        rows = torch.randint(len(x), (32,))
        vae_loss(vae, x[rows], torch.randn(32, 16), 1.0).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        mean, mu, logvar = vae.eval()(x, torch.zeros(len(x), 16))
        error, kl = elbo_terms(x, mean, mu, logvar)
    without_code = (x - x.mean(0)).square().flatten(1).sum(1)
    assert error.mean() < without_code.mean() / 3
    assert (error + kl).mean() < without_code.mean() * 0.6
    assert 5 < kl.mean() < 50
