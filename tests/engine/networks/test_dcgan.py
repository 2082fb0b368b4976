"""The DCGAN: shapes, first weights, losses in closed form, who is moved by what, and that the two learn."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from noiseweave.engine.networks.dcgan import (
    Discriminator,
    Generator,
    borrowed,
    discriminator_loss,
    generator_loss,
    scores,
)


@pytest.fixture
def pair():
    torch.manual_seed(0)
    return Discriminator(size=16, channels=1, width=8), Generator(size=16, channels=1, width=8, latent=6)


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(1)
    return torch.rand(8, 1, 16, 16, generator=g) * 2 - 1, torch.randn(8, 6, generator=g)


class Constant(nn.Module):
    """A discriminator whose logit is a picture's mean and a constant."""

    def __init__(self, logit):
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(float(logit)))

    def forward(self, x_BCHW):
        return x_BCHW.mean((1, 2, 3)) + self.logit


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_pictures_of_each_size_are_drawn_and_judged(size, channels):
    generator = Generator(size=size, channels=channels, width=2, latent=5)
    drawn = generator(torch.randn(2, 5))
    assert drawn.shape == (2, channels, size, size)
    assert drawn.abs().max() <= 1
    judge = Discriminator(size=size, channels=channels, width=2)
    assert judge(drawn).shape == (2,)
    for network, stages in ((generator, size.bit_length() - 2), (judge, size.bit_length() - 2)):
        convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        assert len(convolutions) == stages


def test_batch_norm_is_everywhere_but_at_the_picture_and_at_the_logit():
    judge = [type(m) for m in Discriminator(size=64, channels=3, width=2).layers]
    assert judge[:3] == [nn.Conv2d, nn.LeakyReLU, nn.Conv2d]
    assert judge[-2:] == [nn.Conv2d, nn.Flatten]
    assert judge.count(nn.BatchNorm2d) == 3
    generator = [type(m) for m in Generator(size=64, channels=3, width=2).layers]
    assert generator[-2:] == [nn.ConvTranspose2d, nn.Tanh]
    assert generator.count(nn.BatchNorm2d) == generator.count(nn.ReLU) == 4


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_other_sizes_and_channels_are_refused(network):
    for size in (8, 20, 96, 256):
        with pytest.raises(ValueError, match=rf"data\.size={size}: a power of two, 16 to 128"):
            network(size=size)
    with pytest.raises(ValueError, match=r"data\.channels=2: 1 or 3"):
        network(channels=2)


@pytest.mark.parametrize("network", [Generator, Discriminator])
def test_first_weights_are_the_papers(network):
    torch.manual_seed(0)
    modules = list(network(size=32, channels=3, width=32).modules())
    kernels = [m.weight.detach() for m in modules if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
    gains = torch.cat([m.weight.detach() for m in norms])
    for values in kernels:
        error = 0.02 / math.sqrt(2 * values.numel())
        assert values.std().item() == pytest.approx(0.02, abs=5 * error)
        assert abs(values.mean()) < 5 * 0.02 / math.sqrt(values.numel())
    assert gains.mean().item() == pytest.approx(1, abs=5 * 0.02 / math.sqrt(len(gains)))
    assert gains.std().item() == pytest.approx(0.02, rel=5 / math.sqrt(2 * len(gains)))
    assert not any(m.bias.any() for m in norms)


def test_a_discriminator_that_cannot_tell_costs_log_2_a_term(pair, batch):
    x, z = batch
    judge = Constant(0.0)
    drawn = pair[1](z).mean((1, 2, 3))
    expected = nn.functional.softplus(drawn) + math.log(2)
    torch.testing.assert_close(discriminator_loss(judge, pair[1], torch.zeros_like(x), z, 0.1), expected)
    torch.testing.assert_close(generator_loss(judge, pair[1], z), nn.functional.softplus(-drawn))


def test_losses_are_the_papers_logarithms_one_number_a_picture(pair, batch):
    judge, generator = pair
    x, z = batch
    real, drawn = scores(judge, generator, x, z)
    smooth = 0.1
    expected = -((1 - smooth) * real.log() + smooth * (1 - real).log()) - (1 - drawn).log()
    torch.testing.assert_close(discriminator_loss(judge, generator, x, z, smooth), expected)
    torch.testing.assert_close(generator_loss(judge, generator, z), -drawn.log())
    assert expected.shape == (8,)


def test_smoothing_is_one_sided_and_its_best_answer_is_1_minus_s(pair, batch):
    """The cheapest D(x) is 1 - s, at the entropy of s; drawn pictures still want D = 0."""
    x, z = torch.zeros_like(batch[0]), batch[1]
    s = 0.2
    logit = torch.logit(torch.tensor(1 - s))

    def real_part(at):
        judge = Constant(at)
        whole = discriminator_loss(judge, pair[1], x, z, s)
        return (whole - nn.functional.softplus(judge(pair[1](z)))).mean().item()

    entropy = -(s * math.log(s) + (1 - s) * math.log(1 - s))
    assert real_part(logit) == pytest.approx(entropy, rel=1e-5)
    assert real_part(logit) < min(real_part(logit - 0.2), real_part(logit + 0.2))


def test_each_loss_moves_one_network_and_leaves_the_other_as_it_was(pair, batch):
    judge, generator = pair
    x, z = batch
    losses = {
        "d": (lambda: discriminator_loss(judge, generator, x, z, 0.1), judge, generator),
        "g": (lambda: generator_loss(judge, generator, z), generator, judge),
    }
    for loss, moved, other in losses.values():
        before = copy.deepcopy(other.state_dict())
        statistics = [b.clone() for b in moved.buffers()]
        loss().sum().backward()
        assert all(w.grad is not None and w.grad.any() for w in moved.parameters())
        assert all(w.grad is None for w in other.parameters())
        assert all(w.requires_grad for w in other.parameters())
        assert all(torch.equal(before[n], v) for n, v in other.state_dict().items())
        assert not any(torch.equal(a, b) for a, b in zip(statistics, moved.buffers(), strict=True))
        moved.zero_grad(set_to_none=True)


def test_gradients_are_those_of_the_plain_formula(pair, batch):
    """The same as without any freezing, where both networks get gradients and the wrong ones are thrown away."""
    judge, generator = pair
    z = batch[1]
    generator_loss(judge, generator, z).mean().backward()
    ours = [w.grad.clone() for w in generator.parameters()]
    generator.zero_grad()
    nn.functional.softplus(-judge(generator(z))).mean().backward()
    for mine, w in zip(ours, generator.parameters(), strict=True):
        torch.testing.assert_close(mine, w.grad)


def test_a_borrowed_network_keeps_what_was_frozen_before(pair):
    judge = pair[0]
    frozen = judge.layers[0].weight.requires_grad_(False)
    with borrowed(judge):
        assert not any(w.requires_grad for w in judge.parameters())
    assert not frozen.requires_grad
    assert sum(w.requires_grad for w in judge.parameters()) == len(list(judge.parameters())) - 1
    assert all(m.track_running_stats for m in judge.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("which", [0, 1])
def test_a_saved_network_comes_back_and_nothing_is_pickled(pair, batch, tmp_path, which):
    network, given = pair[which], batch[which]
    network(given)  # so that the running statistics are not the first ones
    network.save_pretrained(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    again = type(network).from_pretrained(tmp_path, use_safetensors=True)
    assert torch.equal(again.eval()(given), network.eval()(given))


def test_a_drawn_picture_does_not_depend_on_its_batch(pair, batch):
    generator = pair[1].eval()
    z = batch[1]
    torch.testing.assert_close(generator(z)[3:4], generator(z[3:4]))


def test_the_two_learn_from_each_other(digits):
    """At first every code gives grey; then the mean drawn picture nears the digits', and is told from them still."""
    torch.manual_seed(0)
    x = torch.from_numpy(np.moveaxis(digits[0], -1, 1)).float() / 127.5 - 1
    judge, generator = Discriminator(width=8), Generator(width=8, latent=16)
    adam = {n: torch.optim.Adam(n.parameters(), lr=1e-3, betas=(0.5, 0.999)) for n in (judge, generator)}
    fixed = torch.randn(100, 16)

    def distance():
        with torch.no_grad():
            return (generator(fixed).mean(0) - x.mean(0)).square().mean().item()

    first = distance()
    for _ in range(250):
        real, z = x[torch.randint(len(x), (32,))], torch.randn(32, 16)
        discriminator_loss(judge, generator, real, z, 0.1).mean().backward()
        adam[judge].step()
        judge.zero_grad()
        generator_loss(judge, generator, z).mean().backward()
        adam[generator].step()
        generator.zero_grad()
    on_real, on_drawn = scores(judge, generator, x[:100], fixed)
    assert on_real.mean() > on_drawn.mean()
    assert distance() < first / 3
