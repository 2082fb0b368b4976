"""A real, small safety checker: diffusers' own answer, one more try, and nothing blackened."""

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline
from small_pipeline import flag_above, flag_everything, unsafety

from noiseweave.engine.networks import safety
from noiseweave.engine.seeding import seed_of


@pytest.fixture
def pictures():
    return np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)


def test_it_flags_what_diffusers_flags_and_leaves_the_pictures_as_they_are(sd_copy, pictures):
    flag_everything(sd_copy)
    scores = unsafety(sd_copy, pictures)
    flag_above(sd_copy, float(np.median(scores)))
    pipe = StableDiffusionPipeline.from_pretrained(sd_copy, use_safetensors=True)
    theirs = pipe.run_safety_checker(pictures.astype(np.float32) / 255, "cpu", pipe.dtype)[1]
    before, checker = pictures.copy(), safety.taken_from(pipe)
    assert pipe.safety_checker is None, "or the pipeline would write black pictures itself"
    assert checker(pictures).tolist() == theirs
    assert 0 < sum(theirs) < len(theirs)
    assert np.array_equal(pictures, before)
    assert [bool(checker(x[None])[0]) for x in pictures] == theirs
    assert checker(pictures[..., :1]).shape == (20,)
    assert safety.taken_from(pipe) is None
    assert not safety.flagged(None, pictures).any()


def test_what_is_flagged_is_drawn_once_with_a_seed_of_its_own():
    flags = {0: [True, False], 2: [True, True]}
    asked = []

    def checker(image_BHWC):
        return np.array([flags[n].pop(0) if n in flags else False for n in image_BHWC[:, 0, 0, 0]])

    def draw(i, seed):
        asked.append((i, seed))
        return np.full((2, 2, 1), i, np.uint8)

    drawn = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2)
    done = safety.checked(checker, drawn, list("abcd"), 7, draw)
    assert asked == [(0, seed_of(7, "flagged", "a")), (2, seed_of(7, "flagged", "c"))]
    assert done.flagged_B.tolist() == [False, False, True, False]
    assert done.seeds == [seed_of(7, "flagged", "a"), 7, seed_of(7, "flagged", "c"), 7]
