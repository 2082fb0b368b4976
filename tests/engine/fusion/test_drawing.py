"""What is drawn of pictures' noise maps: a fusion, an edit, fresh noise."""

import numpy as np
import pytest

from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion import groups
from noiseweave.engine.fusion.drawing import Drawing, draw
from noiseweave.engine.fusion.recipes import EditRecipe

KEYS = ("a", "b")


@pytest.fixture(scope="module")
def group(digits_model, digits):
    model = digits_model()
    recipe = InversionRecipe(num_steps=6, skip=1)
    path, maps = groups.invert_pictures(model, digits[0][:2], KEYS, recipe, 0)
    return model, digits[0][:2], groups.Inverted(path=path, maps=maps)


def drawn(group, **recipe):
    model, _, inverted = group
    return draw(model, inverted, KEYS, Drawing(**recipe))


def test_the_cells_are_the_pictures_at_the_ends_and_none_is_flagged(group):
    image_FHWC, flagged_F = drawn(
        group, cells=[("linear", [1, 0]), ("linear", [0, 1]), ("linear", [0.5, 0.5])]
    )
    assert image_FHWC.shape == (3, 16, 16, 1)
    assert not flagged_F.any()
    assert np.abs(image_FHWC[:2].astype(int) - group[1]).max() <= 1
    assert all(np.abs(image_FHWC[2].astype(int) - image).max() > 20 for image in group[1])


def test_an_edit_is_of_the_first_picture_alone(group):
    cells = [("linear", [1.0, 0.0])]
    edit = EditRecipe(name="variation", strength=0.0)
    image_FHWC, _ = drawn(group, cells=cells, edit=edit)
    assert np.abs(image_FHWC[0].astype(int) - group[1][0]).max() <= 1
    strong, _ = drawn(group, cells=cells, edit=EditRecipe(name="variation", strength=1.0))
    assert np.abs(strong[0].astype(int) - group[1][0]).max() > 20


def test_fresh_noise_comes_of_the_seed_and_the_pictures(group):
    cells = [("linear", [0.5, 0.5])]
    plain, _ = drawn(group, cells=cells)
    fresh = [drawn(group, cells=cells, fresh=0.8, seed=seed)[0] for seed in (1, 1, 2)]
    assert (fresh[0] == fresh[1]).all()
    assert (fresh[0] != fresh[2]).any()
    assert (fresh[0] != plain).any()
    model, _, inverted = group
    other, _ = draw(model, inverted, ("a", "c"), Drawing(cells=cells, fresh=0.8, seed=1))
    assert (other != fresh[0]).any()
