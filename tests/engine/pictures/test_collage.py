"""A sheet shows each picture where it should, unsmoothed."""

import numpy as np

from noiseweave.engine.pictures.collage import GAP, TEXT, sheet


def test_each_picture_lies_in_its_place_enlarged_without_smoothing():
    grey = np.array([[0, 255], [100, 50]], np.uint8)[..., None]
    colour = np.full((2, 2, 3), (200, 10, 30), np.uint8)
    page = np.asarray(sheet([[grey, colour], [colour]], tile=8))
    assert page.shape == (2 * (8 + GAP) + 2 * GAP, 2 * (8 + GAP) + GAP, 3)
    first = page[GAP : GAP + 8, GAP : GAP + 8]
    assert (first == np.kron(grey[..., 0], np.ones((4, 4)))[..., None]).all()
    assert (page[GAP : GAP + 8, 8 + 2 * GAP : 16 + 2 * GAP] == (200, 10, 30)).all()
    assert (page[8 + 2 * GAP : 16 + 2 * GAP, 8 + 2 * GAP :] == 255).all()


def test_words_widen_the_sheet_and_large_pictures_shrink():
    photo = np.zeros((40, 20, 3), np.uint8)
    page = np.asarray(sheet([[photo]], captions=["a caption"], heads=["head"], tile=10))
    assert page.shape == (TEXT + GAP + 10 + GAP + TEXT + GAP, 320, 3)
    assert (page[TEXT + GAP : TEXT + GAP + 10, GAP : GAP + 5] == 0).all()
    assert (page[:TEXT] < 128).any()
    assert (page[TEXT + GAP + 10 :] < 128).any()


def test_no_rows_make_an_empty_sheet():
    assert sheet([]).size == (GAP, 2 * GAP)
