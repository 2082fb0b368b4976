"""A classifier that begins with ImageNet's weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from comparing import SETUP

from noiseweave.engine.features import networks, spaces
from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.judging import classifier
from noiseweave.engine.usefulness import comparison, finetuned
from noiseweave.engine.usefulness.recipes import ClassifierChoice, Method

TUNED = ClassifierChoice(
    pretrained="efficientnet-lite0", blocks=1, resize=32, steps=20, batch=8, lr=1e-3, dropout=0.0
)


@pytest.fixture(scope="module")
def two(photos):
    """Photos of two of the classes."""
    return replace(
        photos, image_NHWC=photos.image_NHWC[photos.label_N < 2], label_N=photos.label_N[photos.label_N < 2]
    )


@pytest.fixture(scope="module")
def network(two):
    p_NK = classifier.soft_labels(two.label_N, 3)
    return classifier.taught(lambda: finetuned.build(TUNED, 3, 32), two.image_NHWC, p_NK, TUNED, 0)


def test_it_learns_in_few_steps_and_the_same_with_the_same_seed(two, network):
    assert classifier.accuracy(network, two.image_NHWC, two.label_N) == 1
    scores = [comparison.score_method(Method(), two, None, two, TUNED, SETUP) for _ in range(2)]
    assert scores == [1, 1]
    again = classifier.taught(
        lambda: finetuned.build(TUNED, 3, 32),
        two.image_NHWC,
        classifier.soft_labels(two.label_N, 3),
        TUNED,
        0,
    )
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


def test_its_last_blocks_learn_and_nothing_before_them(network):
    fresh = finetuned.build(TUNED, 3, 32).state_dict()
    changed = {name for name, weight in network.state_dict().items() if not torch.equal(weight, fresh[name])}
    parts = {name.removeprefix("body.").rsplit(".", 1)[0].split(".")[0] for name in changed}
    assert parts == {"_blocks", "_conv_head", "_bn1", "last"}
    assert {name.split(".")[2] for name in changed if "_blocks" in name} == {"15"}
    assert not any("running" in name for name in changed)
    whole = finetuned.build(replace(TUNED, blocks=None), 3, 32)
    assert all(w.requires_grad for w in whole.parameters())


def test_it_begins_with_imagenets_features(two):
    """As evaluate and pairing have them, at the same side."""
    extract = spaces.load(FeatureRecipe(name="efficientnet-lite0"), lambda: None, "cpu")
    begun = finetuned.build(replace(TUNED, resize=224), 3, 32).train()
    x = torch.from_numpy(two.image_NHWC[:2]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        f_BD = networks.efficientnet_features(begun.body, x, begun.side)
        assert begun(2 * x - 1).tolist() == [[0, 0, 0]] * 2
    unit_BD = f_BD / f_BD.norm(dim=1, keepdim=True)
    image = np.stack([np.asarray(two.image_NHWC[i]) for i in range(2)])
    np.testing.assert_allclose(unit_BD, extract(image), atol=2e-3)


def test_a_choice_says_what_it_may(monkeypatch):
    for wrong in ({"blocks": 2}, {"resize": 64}, {"pretrained": "efficientnet-lite0", "resize": 8}):
        with pytest.raises(ValueError, match=f"{list(wrong)[-1]}="):
            ClassifierChoice(**wrong)
    monkeypatch.setattr(networks, "is_here", lambda name: False)
    with pytest.raises(ValueError, match=r"classifiers\.tuned\.pretrained='efficientnet-lite0'"):
        finetuned.check_here("tuned")
