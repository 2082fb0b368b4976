"""Each recipe says in one line which field is wrong, its value and what is allowed."""

import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest

from noiseweave.engine.networks.recipes import BASELINES, KINDS, UNETS
from noiseweave.engine.training.recipes import ModelRecipe, ObjectiveRecipe, ScheduleRecipe, UnetRecipe

WRONG = [
    (ModelRecipe, {"classes": -2}, "model.classes=-2: 0 (no labels)"),
    (ModelRecipe, {"classes": 10, "kind": "vae"}, "model.classes=10: 0 with model.kind=vae"),
    (ModelRecipe, {"label_dropout": 1.5}, "model.label_dropout=1.5: 0 to 1"),
    (ModelRecipe, {"vae": "x", "kind": "dcgan"}, "model.vae='x': null with model.kind=dcgan"),
    (ModelRecipe, {"vae": ""}, "model.vae='': a folder"),
    (ModelRecipe, {"width": 0}, "model.width=0"),
    (ModelRecipe, {"latent": 5000}, "model.latent=5000: 1 to 4096"),
    (ObjectiveRecipe, {"min_snr": -1.0}, "objective.min_snr=-1.0"),
    (ObjectiveRecipe, {"min_snr": float("inf")}, "objective.min_snr=inf"),
    (ObjectiveRecipe, {"beta": float("nan")}, "objective.beta=nan"),
    (ObjectiveRecipe, {"smoothing": 0.5}, "objective.smoothing=0.5: 0 to below 0.5"),
    (UnetRecipe, {"channels": ()}, "unet.channels=(): at least one level"),
    (UnetRecipe, {"channels": (32, 60)}, "unet.channels=(32, 60): multiples of unet.groups=8"),
    (UnetRecipe, {"channels": (-8, 8), "attention": ()}, "unet.channels=(-8, 8)"),
    (UnetRecipe, {"head": 12}, "unet.head=12: a divisor of each of unet.channels=(32, 64, 96)"),
    (UnetRecipe, {"attention": (3,)}, "unet.attention=(3,): levels 0 to 2"),
    (UnetRecipe, {"layers": 0}, "unet.layers=0"),
    (UnetRecipe, {"groups": 0}, "unet.groups=0"),
    (ScheduleRecipe, {"timesteps": 1}, "schedule.timesteps=1: 2 to 100000"),
]


@pytest.mark.parametrize(("recipe", "values", "words"), WRONG)
def test_a_wrong_value_is_one_clear_line(recipe, values, words):
    with pytest.raises(ValueError) as e:  # noqa: PT011
        recipe(**values)
    assert words in str(e.value)
    assert "\n" not in str(e.value)


def test_every_kind_is_either_a_unets_or_a_baseline():
    assert sorted(KINDS) == sorted((*UNETS, *BASELINES))
    for kind in KINDS:
        assert ModelRecipe(kind=kind).kind == kind


def test_recipes_are_frozen():
    with pytest.raises(FrozenInstanceError):
        ModelRecipe().width = 3


def test_recipes_are_free_of_torch():
    code = "import sys, noiseweave.engine.training.recipes; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
