"""Uploads: their limits, where they lie, and the memory that they take."""

import numpy as np
import pytest
from fusing import png

from noiseweave.jobs.studio.pictures import Limits, Pictures


def upload(folder, number=0, side=32):
    path = folder / f"{number}.png"
    path.write_bytes(png(np.random.default_rng(number).integers(0, 255, (side, side, 3), np.uint8)))
    return str(path)


def pictures(folder, size=100_000, pixels=10_000, **more):
    return Pictures(Limits(size=size, pixels=pixels, folder=str(folder)), **more)


def test_an_upload_is_decoded_once(tmp_path):
    known, path = pictures(tmp_path), upload(tmp_path)
    picture = known.get(path, 16, 1)
    assert picture.image_HWC.shape == (16, 16, 1)
    assert picture.extension == ".png"
    assert known.get(path, 16, 1) is picture
    assert known.get(path, 16, 3).image_HWC.shape == (16, 16, 3)


def test_too_many_bytes_or_pixels_and_what_is_no_picture_are_refused(tmp_path):
    path = upload(tmp_path, side=200)
    with pytest.raises(ValueError, match=r"too_large: 0\.1 MiB, at most 0\.0"):
        pictures(tmp_path, size=50_000).get(path, 16, 3)
    with pytest.raises(ValueError, match="too_large: 200x200, at most 10000 pixels"):
        pictures(tmp_path, size=1 << 20).get(path, 16, 3)
    (tmp_path / "x.png").write_bytes(b"<svg/>")
    with pytest.raises(ValueError, match="not_an_image"):
        pictures(tmp_path).get(str(tmp_path / "x.png"), 16, 3)


@pytest.mark.parametrize("name", ["../outside.png", "/etc/hostname", "link.png", "none.png", "", "."])
def test_nothing_is_opened_outside_of_the_folder(tmp_path, name):
    inner = tmp_path / "inner"
    inner.mkdir()
    upload(tmp_path, 1)
    (tmp_path / "outside.png").write_bytes((tmp_path / "1.png").read_bytes())
    (inner / "link.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(ValueError, match="unreadable: no such upload"):
        pictures(inner).get(str(inner / name), 16, 3)


def test_a_thousand_uploads_take_no_more_than_the_bound(tmp_path):
    known = pictures(tmp_path, held=20 * 8 * 8 * 3)
    for i in range(1000):
        known.get(upload(tmp_path, i, side=8), 8, 3)
    assert len(known.held) == 20
    assert known.held.size == known.held.limit
