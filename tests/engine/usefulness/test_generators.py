"""The generator of a comparison: what it sees, and that it may see latents."""

from dataclasses import replace

import pytest
import torch
from comparing import LATENT, SETUP, TINY, hidden

from noiseweave.engine.usefulness import generators
from noiseweave.engine.usefulness.recipes import GeneratorRecipe


def test_the_pools_labels_change_no_prior(pool):
    other = replace(pool, label_N=(pool.label_N + 1) % 3)
    assert generators.train_prior(pool, TINY, SETUP) == generators.train_prior(other, TINY, SETUP)


def test_the_closed_protocol_sees_the_few_alone(few, monkeypatch):
    seen = []
    monkeypatch.setattr(generators, "learn", lambda system, parts, *rest: seen.extend(parts))
    generators.tune_generator(few, None, None, TINY, SETUP)
    assert [(len(p.label_N), p.share) for p in seen] == [(len(few.label_N), 1.0)]


def test_a_mirrored_pictures_latents_are_its_own(photos):
    setup = replace(SETUP, flip=True)
    one, other = generators.views(LATENT, photos.image_NHWC[:2], setup)
    mirrored = photos.image_NHWC[:2, :, ::-1].copy()
    part = generators.Part(x_VNCHW=torch.stack([one, other]), label_N=torch.zeros(2))
    rows, both = torch.tensor([0, 1]), torch.tensor([True, True])
    torch.testing.assert_close(part.take(rows, both), generators.views(LATENT, mirrored, SETUP)[0])
    torch.testing.assert_close(part.take(rows, ~both), one)
    assert not torch.equal(other, one.flip(-1))


def test_a_generator_that_cannot_be_is_a_line(photos):
    with pytest.raises(ValueError, match="no-such-vae"):
        generators.built(replace(LATENT, vae="./no-such-vae"), SETUP, 32, 3)
    with pytest.raises(ValueError, match="a multiple of 8"):
        generators.built(LATENT, SETUP, 36, 3)
    with pytest.raises(ValueError, match=r"generator\.vae"):
        GeneratorRecipe(vae="")


def test_latents_that_were_looked_at_before_change_nothing(photos):
    setup = replace(SETUP, flip=True)
    seen_VNCHW = generators.views(LATENT, photos.image_NHWC, setup)
    assert seen_VNCHW.shape == (2, 30, 4, 4, 4)
    start = generators.train_prior(photos, LATENT, setup, seen_VNCHW)
    assert start == generators.train_prior(photos, LATENT, setup)
    tuned = [
        generators.tune_generator(photos, hidden(photos), start, LATENT, setup, x) for x in (None, seen_VNCHW)
    ]
    assert tuned[0] == tuned[1] != start


def test_bf16_trains_another_network_of_the_same_kind(pool):
    full, half = (generators.train_prior(pool, replace(TINY, precision=p), SETUP) for p in ("fp32", "bf16"))
    assert full != half
    assert len(full) == len(half)
