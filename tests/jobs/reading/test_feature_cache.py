"""The feature cache: what it holds is used, what is not as it should be is computed again."""

import io
from types import SimpleNamespace

import numpy as np
import pytest

from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.jobs.reading import feature_cache

IMAGES = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), np.uint8)


def features(image_BHWC):
    return image_BHWC.reshape(len(image_BHWC), -1)[:, :5].astype(np.float32)


@pytest.fixture
def cached(tmp_path):
    """An extractor whose cache holds IMAGES' features, the file of them, and how often they were computed."""
    calls = []

    def extract(image_BHWC):
        calls.append(len(image_BHWC))
        return features(image_BHWC)

    recipe = FeatureRecipe(cache=str(tmp_path))
    take = feature_cache.extractor(recipe, lambda: SimpleNamespace(extract=extract), lambda: {"name": "x"})
    take(IMAGES)
    return take, next(tmp_path.glob("*/*.npy")), calls


def bytes_of(array, **more):
    buffer = io.BytesIO()
    np.save(buffer, array, **more)
    return buffer.getvalue()


def head_of(shape):
    """A file that says that it holds so much, and ends there."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def test_what_is_kept_is_not_computed_again(cached):
    take, _, calls = cached
    np.testing.assert_array_equal(take(IMAGES), features(IMAGES))
    assert calls == [3]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes_of(features(IMAGES))[:-4],
        bytes_of(features(IMAGES))[:20],
        b"no array at all",
        b"\x93NUMPY\x01\x00\x0f\x00{'descr': '<f4,",
        b"\x93NUMPY\x01\x00\x40\x00" + b"(" * 64,
        b"PK\x03\x04 an archive",
        bytes_of(features(IMAGES)[:2]),
        bytes_of(features(IMAGES)[:, :4]),
        bytes_of(features(IMAGES).astype(np.float64)),
        bytes_of(np.full((3, 5), np.nan, np.float32)),
        bytes_of(np.array([{"a": 1}], object), allow_pickle=True),
        head_of((1 << 40, 5)),
    ],
    ids=[
        "empty",
        "cut",
        "cut-head",
        "other",
        "head",
        "depth",
        "archive",
        "rows",
        "width",
        "dtype",
        "nan",
        "pickle",
        "shape",
    ],
)
def test_what_is_not_as_it_should_be_is_computed_again(cached, data):
    take, path, calls = cached
    path.write_bytes(data)
    np.testing.assert_array_equal(take(IMAGES), features(IMAGES))
    assert calls == [3, 3]
    np.testing.assert_array_equal(take(IMAGES), features(IMAGES))
    assert calls == [3, 3]


def test_a_cache_without_its_space_is_not_believed(cached):
    take, path, calls = cached
    (path.parent / "space.json").write_text("[]")
    take(IMAGES)
    assert calls == [3, 3]
