"""What a model was trained on, and how near pictures are to it."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from noiseweave.engine.features import training_set
from noiseweave.engine.features.training_set import WIDTH, TrainingSet
from noiseweave.models import SHIPPED


def around(axis, count, seed, spread=0.02):
    """Features about one direction."""
    f_ND = np.random.default_rng(seed).normal(scale=spread, size=(count, WIDTH)).astype(np.float32)
    f_ND[:, axis] += 1
    return f_ND


def test_pictures_of_the_same_kinds_are_near_and_others_are_far():
    known = training_set.learn(np.concatenate([around(0, 60, 0), around(1, 60, 1)]), "digest")
    assert known.centre_KD.shape == (24, WIDTH)  # a fifth is held out, four pictures make a mean
    assert len(known.held_N) == 24
    same, other = known.nearness(around(1, 20, 2)), known.nearness(around(2, 20, 3))
    assert not same.far
    assert other.far
    assert same.cosine == pytest.approx(same.of_held_out, abs=0.03)
    assert other.cosine < 0.2 < other.far_below < other.of_held_out
    assert (same.pictures, other.pictures) == (20, 20)
    np.testing.assert_allclose(known.held_N, np.sort(known.held_N))


def test_a_cosine_is_that_to_the_nearest_mean():
    centre_KD = np.eye(3, WIDTH, dtype=np.float32)
    known = TrainingSet(centre_KD=centre_KD, held_N=np.linspace(0, 1, 101, dtype=np.float32), weights="")
    f_ND = np.zeros((1, WIDTH))
    f_ND[0, :2] = 3, 4
    found = known.nearness(f_ND)
    assert (found.cosine, found.of_held_out, found.far_below, found.far) == (0.8, 0.5, 0.05, False)


def test_the_file_says_it_again_in_less_than_100_kb(tmp_path):
    known = training_set.learn(np.concatenate([around(k, 100, k) for k in range(10)]), "digest")
    content = known.encoded()
    (tmp_path / training_set.FILE).write_bytes(content)
    again = training_set.read("m", tmp_path)
    assert len(content) < 100_000
    assert again.weights == "digest"
    np.testing.assert_array_equal(again.centre_KD, known.centre_KD)
    np.testing.assert_array_equal(again.held_N, known.held_N)
    assert training_set.read("m", tmp_path / "nowhere") is None


@pytest.mark.parametrize("damage", ["torn", "width", "nan", "space", "lacks"])
def test_a_damaged_file_is_one_line_that_names_the_model(damage, tmp_path):
    path = tmp_path / training_set.FILE
    tensors = {"centres": np.ones((2, WIDTH), np.float16), "held_out": np.ones(3, np.float32)}
    if damage == "width":
        tensors["centres"] = tensors["centres"][:, :5]
    if damage == "nan":
        tensors["held_out"] = tensors["held_out"] * np.nan
    if damage == "lacks":
        del tensors["held_out"]
    space = "other" if damage == "space" else training_set.SPACE
    save_file(tensors, path, {"features": f"{space} digest"})
    if damage == "torn":
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"^model 'm': .*training_features\.safetensors is damaged \(") as e:
        training_set.read("m", tmp_path)
    assert "\n" not in str(e.value)


def test_the_photo_model_that_ships_says_what_it_was_trained_on():
    known = training_set.read("flowers-flow", SHIPPED / "flowers-flow")
    assert known.centre_KD.shape == (training_set.CENTRES, WIDTH)
    assert 200 <= len(known.held_N) <= 210
    assert known.weights == training_set.weights()
    assert 0.5 < np.quantile(known.held_N, training_set.FAR) < 0.65 < np.median(known.held_N) < 0.8
