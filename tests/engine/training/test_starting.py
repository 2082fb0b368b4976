"""Training that starts from a model: classes are matched, and the network begins as the function that it was."""

import pytest
import torch
from small_models import model_of as small_model

from noiseweave.engine.training import starting


def model_of(classes):
    model = small_model("flow", classes=classes)
    torch.manual_seed(1)
    for (
        weight
    ) in model.network.parameters():  # the last layer begins as zeros in no network of ours, but be sure
        weight.data += 0.05 * torch.randn_like(weight)
    model.network.eval().requires_grad_(False)
    return model


def called(network, label):
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    label = None if label is None else torch.tensor([label, label])
    with torch.no_grad():
        return network.eval()(x, torch.tensor([100.0, 700.0]), class_labels=label).sample


@pytest.mark.parametrize(
    ("before", "rows", "pairs"),
    [
        (3, (2, 3, 0), [(0, 2), (1, 3), (2, 0), (3, 3)]),
        (0, (0, 0), [(0, None), (1, None), (2, None)]),
        (3, (), [(None, 3)]),
        (0, (), [(None, None)]),
    ],
)
def test_before_the_first_step_it_is_the_function_that_it_was(before, rows, pairs):
    wanted = {old: called(model_of(before).network, old) for _, old in pairs}
    model = starting.adapted(model_of(before), rows)
    assert model.classes == len(rows)
    assert model.network.config.num_class_embeds == (len(rows) + 1 if rows else None)
    assert model.network.training
    assert all(weight.requires_grad for weight in model.network.parameters())
    for new, old in pairs:
        torch.testing.assert_close(called(model.network, new), wanted[old])
