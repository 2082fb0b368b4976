"""What the judge learns of an input's classes, and of how many pictures."""

import numpy as np
import pytest

from noiseweave.engine.judging import judge
from noiseweave.engine.judging.recipes import QualityRecipe


@pytest.mark.parametrize(
    ("counts", "least", "judged"),
    [
        ((40, 40, 41), None, True),
        ((20, 20, 20), None, False),
        ((20, 40, 60), None, True),
        ((20, 20, 20), 20, True),
        ((60,), None, False),
    ],
)
def test_a_judge_of_photos_wants_some_of_each_class(counts, least, judged):
    label_N = np.repeat(np.arange(len(counts)), counts)
    f_ND = np.eye(len(counts), 8, dtype=np.float32)[label_N] + 0.01
    recipe = QualityRecipe(least=least).settled(photos=True)
    learnt = judge.learn(recipe, np.zeros((len(f_ND), 0, 0, 3), np.uint8), f_ND, label_N, 0, "cpu")
    assert (learnt.means_KD is not None) == judged
    assert (judge.of_files(learnt.files(), "cpu").means_KD is not None) == judged
