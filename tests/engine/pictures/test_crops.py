import numpy as np
import pytest
from numpy.testing import assert_array_equal

from noiseweave.engine.pictures import crops


@pytest.mark.parametrize(("size", "multiple"), [(512, 64), (768, 64), (32, 16), (64, 8)])
def test_buckets_are_multiples_within_the_area_and_two_to_one(size, multiple):
    found = crops.buckets(size, multiple)
    assert (size, size) in found
    for h, w in found:
        assert h % multiple == w % multiple == 0
        assert h * w <= size * size
        assert w + multiple > size * size // h - multiple, "no wider one fits"
        assert 0.5 <= h / w <= 2


def test_a_size_that_the_network_cannot_halve_is_refused():
    with pytest.raises(ValueError, match=r"data.size=500: a multiple of 64"):
        crops.buckets(500, 64)


def test_the_nearest_aspect_is_taken():
    among = crops.buckets(512, 64)
    assert crops.bucket_of((1000, 1000), among) == (512, 512)
    assert crops.bucket_of((100, 150), among) == (384, 640)
    assert crops.bucket_of((4000, 100), among)[0] == max(h for h, _ in among)


def test_crops_lie_in_the_picture_and_keep_the_bucket_s_aspect():
    picture, bucket = (90, 200), (64, 96)
    first = crops.choose_crop(picture, bucket, 0, "a", 0, 3.0)
    assert (first.top, first.bottom) == (0, 90)
    assert first.left == pytest.approx(200 - first.right), "in the middle"
    seen = {crops.choose_crop(picture, bucket, 0, "a", n, 3.0).box for n in range(1, 20)}
    assert len(seen) == 19
    for left, top, right, bottom in seen:
        assert 0 <= left < right <= 200
        assert 0 <= top < bottom <= 90
        assert (right - left) / (bottom - top) == pytest.approx(96 / 64)
        assert 90 / 3 - 1e-6 <= bottom - top <= 90
    assert crops.choose_crop(picture, bucket, 0, "a", 5, 3.0).box in seen
    assert crops.choose_crop(picture, bucket, 1, "a", 5, 3.0).box not in seen


def test_a_picture_and_its_hole_are_cut_alike():
    hole = np.random.default_rng(0).random((40, 60)) < 0.5
    image = np.repeat(hole[..., None], 3, 2).astype(np.uint8) * 255
    where = crops.Crop(top=4, left=8, bottom=36, right=40)
    shown, cut = crops.cut(image, where, (32, 32)), crops.cut_hole(hole, where, (32, 32))
    assert_array_equal(cut, hole[4:36, 8:40])
    assert_array_equal(shown[..., 0] > 0, cut)


def test_a_crack_is_not_lost_where_a_hole_shrinks():
    hole = np.zeros((256, 256), bool)
    hole[:, 100] = True
    cut = crops.cut_hole(hole, crops.Crop(top=0, left=0, bottom=256, right=256), (32, 32))
    assert cut.any(1).all()
    assert cut.sum() == 32
