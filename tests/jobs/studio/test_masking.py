"""Masks that are painted: brought to the picture's size, added to a file's, in the colour that is chosen."""

import numpy as np
import pytest
from fusing import png

from noiseweave.engine.pictures import masks
from noiseweave.jobs.studio import masking


@pytest.mark.parametrize(
    ("size", "painted_on"), [((16, 16), (256, 256)), ((100, 300), (100, 300)), ((3000, 2000), (1024, 683))]
)
def test_small_pictures_are_enlarged_and_large_ones_shrunk_to_be_painted_on(size, painted_on):
    assert masking.size_painted_on(*size) == painted_on
    shown = masking.painted_on(np.zeros((*size, 3), np.uint8))
    assert shown.shape == (*painted_on, 3)


def layer(size, rows, columns):
    layer_HW4 = np.zeros((*size, 4), np.uint8)
    layer_HW4[rows, columns] = (255, 45, 85, 255)
    return png(layer_HW4)


def test_what_any_layer_has_is_painted_and_another_pictures_strokes_are_not():
    one, two = layer((32, 48), slice(0, 4), slice(0, 8)), layer((32, 48), slice(8, 12), slice(8, 16))
    other = layer((48, 32), slice(0, 48), slice(0, 32))
    painted = masking.strokes([one, two, other], (32, 48))
    assert painted.sum() == 64
    assert painted[0, 0]
    assert painted[9, 9]
    assert not masking.strokes([], (32, 48)).any()


@pytest.mark.parametrize("mode", ["black", "white"])
def test_a_painted_hole_is_a_mask_in_the_colour_of_the_hole(mode):
    painted = np.zeros((256, 256), bool)
    painted[64:128, 32:64] = True
    data = masking.mask_of(None, painted, mode, (16, 16), 1000)
    hole = masks.hole_of(data, mode, (16, 16))
    assert hole.sum() == 8
    assert hole[4:8, 2:4].all()


@pytest.mark.parametrize("mode", ["black", "white"])
def test_a_file_is_taken_as_it_is_and_strokes_are_added_to_it(mode):
    given = np.zeros((16, 16), bool)
    given[:2] = True
    data = masking.encoded(given, mode)
    nothing, painted = np.zeros((256, 256), bool), np.zeros((256, 256), bool)
    painted[-16:] = True
    assert masking.mask_of(data, nothing, mode, (16, 16), 1000) is data
    both = masks.hole_of(masking.mask_of(data, painted, mode, (16, 16), 1000), mode, (16, 16))
    assert both.sum(1).tolist() == [16, 16, *[0] * 13, 16]
    assert masking.mask_of(None, nothing, mode, (16, 16), 1000) is None


def test_a_file_is_named_by_its_content():
    assert masking.name_of(masking.encoded(np.zeros((2, 2), bool))).endswith(".png")
    assert masking.stem_of("out/a.b.JPG") == ("a.b", "jpg")
