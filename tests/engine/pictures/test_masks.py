"""Masks and holes over many random cases."""

import io

import numpy as np
import pytest
from PIL import Image

from noiseweave.engine.pictures.masks import (
    boxes,
    compose,
    feather,
    filled,
    fit_size,
    hole_of,
    random_hole,
    read,
    region,
    whitened,
)


def blobs(rng, height, width, count):
    """A hole of random rectangles, thin ones among them."""
    hole = np.zeros((height, width), bool)
    for _ in range(count):
        y, x = rng.integers(height), rng.integers(width)
        hole[y : y + rng.integers(1, 2 + height // 3), x : x + rng.integers(1, 2 + width // 3)] = True
    return hole


def cases(n=40):
    rng = np.random.default_rng(0)
    for _ in range(n):
        height, width = rng.integers(8, 200, 2)
        yield rng, blobs(rng, height, width, rng.integers(0, 6))


def encoded(array, kind="PNG", mode=None):
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P", "RGBA"])
@pytest.mark.parametrize("repaired", ["black", "white"])
def test_a_hole_survives_every_kind_of_mask_file(mode, repaired):
    hole = blobs(np.random.default_rng(1), 33, 47, 4)
    grey = np.where(hole == (repaired == "white"), 255, 0).astype(np.uint8)
    assert np.array_equal(hole_of(encoded(grey, mode=mode), repaired, hole.shape), hole)
    assert np.array_equal(hole_of(grey, repaired, hole.shape), hole)
    assert np.array_equal(hole_of(grey[..., None], repaired, hole.shape), hole)


def test_a_jpeg_mask_of_three_channels_is_grey():
    hole = np.zeros((64, 64), bool)
    hole[16:40, 24:48] = True
    data = encoded(np.where(hole, 0, 255).astype(np.uint8), "JPEG", "RGB")
    assert np.array_equal(hole_of(data, "black", (64, 64)), hole)


def test_grey_is_thresholded_at_128():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(hole_of(ramp, "white", (16, 16)), ramp >= 128)
    assert np.array_equal(hole_of(ramp, "black", (16, 16)), ramp < 128)


def test_a_mask_of_another_size_is_fitted_by_nearest_neighbour():
    hole = blobs(np.random.default_rng(2), 20, 30, 3)
    grey = np.where(hole, 0, 255).astype(np.uint8)
    assert np.array_equal(hole_of(grey, "black", (60, 90)), hole.repeat(3, 0).repeat(3, 1))
    assert np.array_equal(hole_of(grey.repeat(2, 0).repeat(2, 1), "black", (20, 30)), hole)


@pytest.mark.parametrize(
    ("mask", "size", "fits"),
    [
        ((100, 200), (50, 100), True),
        ((100, 200), (50, 101), True),
        ((1000, 2000), (50, 101), True),
        ((1000, 2000), (1000, 2021), False),
        ((1000, 2000), (1000, 2019), True),
        ((38, 25), (75, 50), True),
        ((64, 64), (64, 65), False),
        ((512, 512), (512, 768), False),
        ((16, 32), (32, 16), False),
    ],
)
def test_an_aspect_may_differ_by_a_hundredth_or_by_the_rounding_of_a_side(mask, size, fits):
    grey = np.zeros(mask, np.uint8)
    if fits:
        assert hole_of(grey, "black", size).shape == size
    else:
        with pytest.raises(ValueError, match=r"^mask_does_not_fit: .*1%"):
            hole_of(grey, "black", size)


def test_a_mask_with_colours_and_a_broken_one_are_refused():
    red = np.zeros((16, 16, 3), np.uint8)
    red[4:8, 4:8, 0] = 255
    with pytest.raises(ValueError, match=r"^mask_has_colours: .*255"):
        hole_of(encoded(red), "black", (16, 16))
    with pytest.raises(ValueError, match=r"^bad_mask: not_an_image: "):
        hole_of(b"words", "black", (16, 16))


@pytest.mark.parametrize("width", [0, 1, 4, 9])
def test_a_feathered_edge_lies_inside_the_hole_and_rises_to_1(width):
    for _, hole in cases():
        alpha = feather(hole, width)
        assert alpha.dtype == np.float32
        assert (alpha[~hole] == 0).all()
        assert (alpha[hole] > 0).all()
        assert alpha.max(initial=0) <= 1
        if width == 0:
            assert np.array_equal(alpha, hole)
        if hole.any():
            assert alpha.max() == 1


def test_the_edge_is_as_wide_as_told_and_a_thin_crack_is_repaired_too():
    hole = np.zeros((60, 60), bool)
    hole[10:40, 10:60] = True
    ramp = [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 1]
    assert feather(hole, 4)[10:16, 30] == pytest.approx(ramp)
    assert (feather(hole, 4)[14:36, 59] == 1).all(), "the picture's border is no edge"
    hole[:] = False
    hole[20:23] = True
    assert feather(hole, 4)[19:24, 30] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert (feather(np.ones((9, 9), bool), 4) == 1).all()


def test_outside_the_hole_the_original_comes_back_bit_for_bit():
    for rng, hole in cases():
        channels = rng.choice([1, 3])
        a, b = rng.integers(0, 256, (2, *hole.shape, channels), dtype=np.uint8)
        width = int(rng.integers(0, 8))
        for original in (a, filled(a, hole)):
            out = compose(original, b, feather(hole, width))
            assert out.dtype == np.uint8
            assert np.array_equal(out[~hole], a[~hole])
            assert (np.minimum(original, b) <= out).all()
            assert (out <= np.maximum(original, b)).all()
        assert np.array_equal(compose(a, b, feather(hole, 0))[hole], b[hole])


def test_a_filled_hole_has_the_colours_around_it_and_none_of_its_own():
    for rng, hole in cases(20):
        image = rng.integers(0, 256, (*hole.shape, 3), dtype=np.uint8)
        other = np.where(hole[..., None], rng.integers(0, 256, image.shape, dtype=np.uint8), image)
        assert np.array_equal(filled(image, hole), filled(other, hole))
        assert np.array_equal(filled(image, hole)[~hole], image[~hole])
    row = np.array([[10, 0, 0, 0, 0, 60]], np.uint8)[..., None]
    hole = np.array([[False, True, True, True, True, False]])
    assert filled(row, hole)[0, :, 0].tolist() == [10, 10, 10, 60, 60, 60]
    assert (filled(row, np.ones((1, 6), bool)) == 128).all()
    assert whitened(row, hole)[0, :, 0].tolist() == [10, 255, 255, 255, 255, 60]
    assert row[0, 1, 0] == 0, "the picture itself is left as it was"


def apart(a, b):
    return a.right < b.left or b.right < a.left or a.bottom < b.top or b.bottom < a.top


@pytest.mark.parametrize(("padding", "least"), [(0, 8), (5, 16), (12, 64)])
def test_boxes_hold_every_hole_with_its_surroundings_and_do_not_meet(padding, least):
    for _, hole in cases():
        height, width = hole.shape
        found = boxes(hole, padding, 8, least)
        covered = np.zeros_like(hole)
        for box in found:
            covered[box.slices] = True
            for long, side in ((box.bottom - box.top, height), (box.right - box.left, width)):
                assert long == side or (long % 8 == 0 and long >= least)
            assert 0 <= box.top < box.bottom <= height
            assert 0 <= box.left < box.right <= width
            assert hole[box.slices].any()
        assert all(apart(a, b) for i, a in enumerate(found) for b in found[:i])
        for y, x in np.argwhere(hole):
            near = covered[max(0, y - padding) : y + padding + 1, max(0, x - padding) : x + padding + 1]
            assert near.all()


def test_holes_apart_have_boxes_apart_and_near_ones_share_one():
    hole = np.zeros((300, 400), bool)
    assert boxes(hole, 8) == []
    hole[10:20, 10:20] = hole[200:240, 300:330] = True
    first, second = boxes(hole, 16)
    assert (first.top, first.left, first.bottom, first.right) == (0, 0, 64, 64)
    assert (second.bottom - second.top, second.right - second.left) == (72, 64)
    hole[10:20, 70:80] = True
    assert len(boxes(hole, 16)) == 2
    assert len(boxes(hole, 4, least=16)) == 3


def test_a_size_has_sides_of_eights_and_nearly_the_same_aspect():
    rng = np.random.default_rng(3)
    for _ in range(300):
        height, width, long = (int(n) for n in rng.integers([8, 8, 64], [5000, 5000, 1100]))
        h, w = fit_size(height, width, long)
        assert h % 8 == w % 8 == 0
        assert abs(max(h, w) - long) <= 4
        wanted = max(h, w) * min(height, width) / max(height, width)
        assert abs(min(h, w) - wanted) <= 4 or min(h, w) == 8
        assert (h >= w) == (height >= width) or h == w
    assert fit_size(768, 1024, 768) == (576, 768)
    assert fit_size(3000, 4000, 1024) == (768, 1024)
    assert fit_size(8, 4000, 512) == (8, 512)


def test_random_holes_are_a_function_of_seed_key_and_step_of_sane_area():
    shapes = [(64, 96), (96, 64), (8, 8), (8, 800), (512, 512)]
    for i in range(100):
        size = shapes[i % len(shapes)]
        hole = random_hole(1, f"k{i}", 5, *size)
        assert (hole.shape, hole.dtype) == (size, bool)
        assert 0.04 <= hole.mean() <= 0.75
        assert np.array_equal(hole, random_hole(1, f"k{i}", 5, *size))
    first = random_hole(1, "k", 5, 64, 64)
    for other in ((2, "k", 5), (1, "l", 5), (1, "k", 6)):
        assert not np.array_equal(first, random_hole(*other, 64, 64))


def test_random_holes_are_strokes_boxes_and_half_planes():
    """A box fills its bounding box, a half-plane holds a corner and not the opposite one, a stroke does neither."""
    kinds = {"box": 0, "half": 0, "strokes": 0}
    for i in range(300):
        hole = random_hole(0, str(i), 0, 64, 64)
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        whole = hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        inner = hole[1:-1, 1:-1].any() and not (hole[0, 0] or hole[0, -1] or hole[-1, 0] or hole[-1, -1])
        turns = np.diff(hole.astype(int), axis=1)
        straight = (np.abs(turns).sum(1) <= 1).all() and (
            np.abs(np.diff(hole.astype(int), axis=0)).sum(0) <= 1
        ).all()
        kinds["half" if straight and not inner else "box" if whole else "strokes"] += 1
    assert all(70 <= n <= 130 for n in kinds.values()), kinds


# masks that do not divide their picture


def hole_at(size=(24, 32)):
    hole = np.zeros(size, bool)
    hole[6:15, 9:20] = True
    return hole


def with_alpha(colour_HWC, hole, mode="RGBA", alpha=(0, 255)):
    """An encoded picture whose alpha is ``alpha[0]`` in the hole and ``alpha[1]`` elsewhere."""
    image = Image.fromarray(colour_HWC).convert(mode.rstrip("A") or "RGB")
    image.putalpha(Image.fromarray(np.where(hole, *alpha).astype(np.uint8)))
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def photo(shape, channels=3):
    return np.random.default_rng(5).integers(0, 256, (*shape, channels), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("colour", [0, 130, 255, "picture"])
def test_a_hole_drawn_in_alpha_is_the_hole(mode, colour):
    hole = hole_at()
    flat = photo(hole.shape) if colour == "picture" else np.full((*hole.shape, 3), colour, np.uint8)
    for alpha in ((0, 255), (0, 1)):
        data = with_alpha(flat, hole, mode, alpha)
        assert np.array_equal(hole_of(data, "black", hole.shape), hole)
        assert np.array_equal(hole_of(data, "white", hole.shape), ~hole)


@pytest.mark.parametrize("colour", [0, 255])
def test_a_hole_drawn_in_a_palettes_transparency_is_the_hole(colour):
    hole = hole_at()
    image = Image.fromarray(hole.astype(np.uint8), "P")
    image.putpalette([colour] * 6)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=1)
    assert np.array_equal(hole_of(buffer.getvalue(), "black", hole.shape), hole)


def test_black_and_white_go_before_an_alpha_that_says_something_else():
    hole = hole_at()
    grey = np.where(hole, 0, 255).astype(np.uint8)[..., None].repeat(3, 2)
    frame = np.zeros(hole.shape, bool)
    frame[0] = True
    assert np.array_equal(hole_of(with_alpha(grey, frame), "black", hole.shape), hole)
    for constant in (0, 90, 255):
        data = with_alpha(grey, frame, alpha=(constant, constant))
        assert np.array_equal(hole_of(data, "black", hole.shape), hole)


@pytest.mark.parametrize("repaired", ["black", "white"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_values_0_and_1_are_black_and_white(repaired, dtype):
    hole = hole_at()
    data = encoded((hole == (repaired == "white")).astype(dtype))
    assert np.array_equal(hole_of(data, repaired, hole.shape), hole)


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(0, 100, np.uint8), (0, 127, np.uint8), (0, 2, np.uint8), (128, 255, np.uint8), (0, 255, np.uint16)],
)
@pytest.mark.parametrize("repaired", ["black", "white"])
def test_two_values_on_one_side_are_refused_and_named(low, high, dtype, repaired):
    grey = np.where(hole_at(), high, low).astype(dtype)
    with pytest.raises(ValueError, match=rf"^bad_mask: its two values are {low} and {high} of "):
        hole_of(encoded(grey), repaired, grey.shape)
    with pytest.raises(ValueError, match=rf"^bad_mask: its two values are {low} and {high} of "):
        read(encoded(grey))


@pytest.mark.parametrize("repaired", ["black", "white"])
def test_a_mask_of_several_values_that_divides_nothing_is_refused(repaired):
    dark = np.arange(100, dtype=np.uint8).reshape(10, 10)
    assert np.array_equal(read(encoded(dark)), dark), "greys count where a region shows in part"
    with pytest.raises(ValueError, match=r"^bad_mask: its values are 0 to 99 of 255, and (all|nothing)"):
        hole_of(encoded(dark), repaired, dark.shape)
    scratch = np.full((100, 100), 255, np.uint8)
    scratch[3, 3] = 0
    with pytest.raises(ValueError, match=r"^bad_mask: its values are 0 to 255"):
        hole_of(encoded(scratch), repaired, (10, 10))  # lost where the mask is made smaller


@pytest.mark.parametrize("value", [0, 1, 100, 255])
def test_a_mask_of_one_value_repairs_all_or_nothing_as_it_says(value):
    grey = np.full((16, 16), value, np.uint8)
    for data in (encoded(grey), encoded(grey, "JPEG"), grey):
        assert hole_of(data, "white", grey.shape).all() == (value >= 128)
        assert hole_of(data, "black", grey.shape).all() == (value < 128)


def test_a_region_keeps_greys_and_is_refused_where_the_cut_leaves_nothing_of_it():
    ramp = np.arange(256, dtype=np.uint8)[None].repeat(256, 0)
    assert np.array_equal(region(encoded(ramp), 256), ramp)
    edge = np.zeros((16, 48), np.uint8)
    edge[:, :8] = 255
    with pytest.raises(ValueError, match=r"^bad_mask: in the middle square"):
        region(encoded(edge), 16)
