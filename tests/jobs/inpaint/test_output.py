"""What inpaint writes: bit for bit what it was outside the hole, in every format, and the collages."""

import json

import numpy as np
import pytest
from inpaints import (
    FAST,
    HARD,
    SAVED,
    block,
    drawn,
    folders_of,
    hole,
    mask,
    noise,
    pair,
    quarantine,
    report,
    saved,
    stored,
)
from PIL import Image

from noiseweave.cluster import storage
from noiseweave.engine.inpainting import patches
from noiseweave.engine.pictures import files as pictures
from noiseweave.engine.pictures import masks

EXTENSION = {"PNG": "png", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif", "JPEG": "jpg"}


@pytest.mark.parametrize(
    "how", [["--feather", 5], ["--feather", 0, "--crop_to_mask", "--padding", 3], ["--mask_mode", "white"]]
)
def test_outside_the_mask_every_mode_and_format_comes_back_bit_for_bit(tmp_path, how):
    r, cases = np.random.default_rng(len(how)), {}
    for kind, modes in pictures.HOLDS.items():
        for mode in modes:
            name = f"{kind}-{mode.replace(';', '')}"
            size = tuple(int(n) for n in r.integers(8, 60, 2))
            where = hole(size, int(r.integers(1000)))
            pair(tmp_path, f"{name}.{EXTENSION[kind]}", noise(mode, size), where, white="white" in how)
            cases[f"{name}.{EXTENSION[kind]}"] = (mode, where)
    assert drawn(tmp_path / "o", *folders_of(tmp_path), *FAST, *how) == 0
    assert quarantine(tmp_path / "o") == {}
    for name, (mode, where) in cases.items():
        before, after = stored(tmp_path / "imgs" / name), stored(tmp_path / "o/restored" / name)
        assert Image.open(tmp_path / "o/restored" / name).mode == mode
        assert after.shape == before.shape
        if not name.endswith("jpg"):
            assert (after == before)[~where].all(), name
        assert (after != before)[where].any(), name


def test_an_empty_mask_copies_the_file_and_a_full_one_is_painted(tmp_path, capsys):
    for name in ("a.png", "b.jpg", "c.webp", "d.tif"):
        pair(tmp_path, name, noise("RGB", (20, 14)), np.zeros((14, 20), bool))
    pair(tmp_path, "full.png", noise("RGB", (20, 14)), np.ones((14, 20), bool))
    assert drawn(tmp_path / "o", *folders_of(tmp_path), *HARD) == 0
    for name in ("a.png", "b.jpg", "c.webp", "d.tif"):
        assert (tmp_path / "o/restored" / name).read_bytes() == (tmp_path / "imgs" / name).read_bytes()
    assert json.loads((tmp_path / "o/lineage/a.json").read_text())["copied"]
    found, said = report(tmp_path / "o"), capsys.readouterr().out
    assert (found["copied"], found["restored"]) == (4, 1)
    assert found["copied_pictures"] == ["a.png", "b.jpg", "c.webp", "d.tif"]
    assert "1 restored pictures" in said
    assert "4 pictures copied, as their masks are empty: a.png, b.jpg, c.webp, d.tif" in said
    assert (stored(tmp_path / "o/restored/full.png") != stored(tmp_path / "imgs/full.png")).mean() > 0.9


def test_a_mask_of_another_size_is_fitted_by_nearest_neighbour(tmp_path):
    small = block((10, 8), 2, 3, 4, 4)
    storage.write(str(tmp_path / "imgs/a.png"), saved(noise("RGB", (40, 32)), "PNG"))
    storage.write(str(tmp_path / "masks/a.png"), saved(mask(small), "PNG"))
    assert drawn(tmp_path / "o", *folders_of(tmp_path), *HARD) == 0
    where = small.repeat(4, 0).repeat(4, 1)
    same = (stored(tmp_path / "o/restored/a.png") == stored(tmp_path / "imgs/a.png")).all(-1)
    assert same[~where].all()
    assert not same[where].all()


def test_another_format(tmp_path):
    where = block((20, 14), 3, 3, 6, 9)
    pair(tmp_path, "a.jpg", noise("RGB", (20, 14)), where)
    pair(tmp_path, "b.png", noise("RGBA", (20, 14)), where)
    assert drawn(tmp_path / "o", *folders_of(tmp_path), *HARD, "--output_format", "webp") == 0
    for name, path in (("a", "a.jpg"), ("b", "b.png")):
        got = stored(tmp_path / f"o/restored/{name}.webp")
        assert (got == stored(tmp_path / "imgs" / path))[~where].all(), "a JPEG's decoded pixels"
    assert drawn(tmp_path / "p", *folders_of(tmp_path), *HARD, "--output_format", "jpg") == 0
    assert quarantine(tmp_path / "p") == {"b.png": "cannot_hold"}
    assert not (tmp_path / "p/restored/b.jpg").exists()


def test_names_that_are_no_text_and_names_with_dots(tmp_path):
    names = [b"a\xff.png".decode("utf-8", "surrogateescape"), "x.y.png", "文物 1.png"]
    for name in names:
        pair(tmp_path, name, noise("L", (16, 16)), block((16, 16), 4, 4, 6, 6))
    assert drawn(tmp_path / "o", *folders_of(tmp_path), *HARD) == 0
    assert sorted(p.name for p in (tmp_path / "o/restored").iterdir()) == sorted(names)
    assert (tmp_path / "o/collages/x.y_collage.png").exists()
    assert json.loads((tmp_path / "o/lineage/文物 1.json").read_text())["picture"] == "文物 1.png"


# collages


@pytest.mark.parametrize(("rows", "gaps"), [(1, ()), (3, (7, 11)), (2, (0, 0))])
def test_a_collages_geometry(tmp_path, rows, gaps):
    size, where = (23, 17), hole((23, 17))
    pair(tmp_path, "p.png", noise("RGB", size), where)
    spaced = ["--collage_spacing_h", gaps[0], "--collage_spacing_v", gaps[1]] if gaps else []
    assert drawn(tmp_path / "o", *folders_of(tmp_path), *HARD, "--rows", rows, *spaced) == 0
    h, v = gaps or (20, 20)
    page = stored(tmp_path / "o/collages/p_collage.png")
    assert page.shape == (rows * 17 + (rows - 1) * v, 3 * 23 + 2 * h, 3)
    original, covered = stored(tmp_path / "imgs/p.png"), np.zeros(page.shape[:2], bool)
    for r in range(rows):
        restored = stored(tmp_path / f"o/restored/p{f'_{r + 1}' if r else ''}.png")
        for c, tile in enumerate((original, np.where(where[..., None], 255, original), restored)):
            at = slice(r * (17 + v), r * (17 + v) + 17), slice(c * (23 + h), c * (23 + h) + 23)
            assert (page[at] == tile).all()
            covered[at] = True
    assert (page[~covered] == 255).all()


def test_no_collage(damaged, tmp_path):
    assert drawn(tmp_path, *folders_of(damaged), *HARD, "--collage", "false") == 0
    assert not (tmp_path / "collages").exists()


# feather


def test_the_edge_fades_in_from_what_lies_around(tmp_path):
    part, where = np.full((20, 20, 1), 40, np.uint8), block((20, 20), 5, 5, 10, 10)
    part[where] = 255  # the damage
    patch = np.full((20, 20, 1), 200, np.uint8)
    hard, soft = (patches.repaired(*patches.edge(part, where, feather), patch) for feather in (0, 3))
    assert (hard[where] == 200).all()
    assert (soft[~where] == 40).all()
    alpha = masks.feather(where, 3)
    assert np.abs(soft[..., 0] - (40 + alpha * 160))[where].max() <= 0.5
    assert soft.max() == 200, "nothing of the damage"


def test_every_kind_of_file_is_in_these_tests():
    assert set(SAVED) == set(EXTENSION) == set(pictures.WRITTEN_FORMATS)


def test_broken_colour_profiles_are_kept_and_counted(tmp_path, capsys):
    image, where = noise("RGB", (20, 14)), block((20, 14), 2, 2, 5, 5)
    for name, kind in (("a.png", "PNG"), ("b.tif", "TIFF"), ("c.png", "PNG")):
        pair(tmp_path, name, image, where)
        if name != "c.png":
            storage.write(str(tmp_path / "imgs" / name), saved(image, kind, icc_profile=b"nonsense"))
    assert drawn(tmp_path / "o", *folders_of(tmp_path), *HARD) == 0
    assert report(tmp_path / "o")["broken_profiles"] == 2
    assert "2 broken colour profiles ignored" in capsys.readouterr().out
    assert Image.open(tmp_path / "o/restored/a.png").info["icc_profile"] == b"nonsense"
