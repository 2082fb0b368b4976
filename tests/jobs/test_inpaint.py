"""The inpaint job on small pictures: what it promises outside the hole, and what it writes."""

import io
import itertools
import json
import shutil

import numpy as np
import pytest
from inpaints import (
    FAST,
    SAVED,
    drawn,
    folders_of,
    hole,
    mask,
    noise,
    pair,
    quarantine,
    refused,
    report,
    saved,
    started,
    stored,
    through_ray,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from sampling import read, tiny
from sklearn.datasets import load_digits

from noiseweave.cluster import shards, storage
from noiseweave.engine import inpainting, masks
from noiseweave.engine.inpaint_recipes import InpaintRecipe
from noiseweave.engine.prompts import Prompt
from noiseweave.engine.recipes import ModelConfig
from noiseweave.jobs import inpaint_draw, inpaint_output
from noiseweave.jobs import inpaint_pictures as pictures

HARD = [*FAST, "--feather", "0"]
EXTENSION = {"PNG": "png", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif", "JPEG": "jpg"}


def digit(i: int) -> Image.Image:
    picture = Image.fromarray((load_digits().images[i] * 255 / 16).round().astype(np.uint8))
    return picture.resize((16, 16), Image.Resampling.BICUBIC)


def block(size: tuple[int, int], top: int, left: int, height: int, width: int) -> np.ndarray:
    out = np.zeros(size[::-1], bool)
    out[top : top + height, left : left + width] = True
    return out


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Five digits with a hole each, two of them in a sub-folder."""
    folder = tmp_path_factory.mktemp("digits")
    for i in range(5):
        name = f"{'sub/' if i > 2 else ''}d{i}.png"
        pair(folder, name, digit(i), block((16, 16), 3 + i, 4, 6, 7))
    return folder


@pytest.fixture(scope="module")
def calm(digits, tmp_path_factory, ray_session):
    output = tmp_path_factory.mktemp("calm") / "out"
    assert through_ray(output, *folders_of(digits), *HARD, "--rows", 2, "--unit_pictures", 2) == 0
    return output


# the flow through Ray


def test_what_it_writes(calm, digits):
    there = {str(p.relative_to(calm)) for p in calm.rglob("*.*") if "_run" not in p.parts}
    keys = ["d0", "d1", "d2", "sub/d3", "sub/d4"]
    wanted = {"report.json", "quarantine.jsonl"}
    for key in keys:
        wanted |= {f"restored/{key}.png", f"restored/{key}_2.png", f"lineage/{key}.json"}
        wanted |= {f"collages/{key}_collage.png"}
    assert there == wanted
    line = json.loads((calm / "lineage/sub/d3.json").read_text())
    assert (line["picture"], line["mask"], line["seeds"]) == ("sub/d3.png", "sub/d3.png", [3, 4])
    assert line["files"] == ["restored/sub/d3.png", "restored/sub/d3_2.png"]
    assert (line["method"], line["model"], line["steps"], line["precision"]) == (
        "repaint",
        "digits-ddpm",
        2,
        "fp32",
    )
    assert (line["boxes"], line["worked_at"], line["copied"]) == ([[0, 0, 16, 16]], [[16, 16]], False)
    assert report(calm)["restored"] == 10
    assert report(calm)["failed"] == {}


def test_the_holes_are_the_engines(calm, digits):
    model = inpainting.load(ModelConfig())
    recipe = InpaintRecipe(steps=2, resample=1)
    for i, seed in itertools.product((0, 4), (3, 4)):
        key = f"{'sub/' if i > 2 else ''}d{i}"
        image, where = np.asarray(digit(i))[None, ..., None], block((16, 16), 3 + i, 4, 6, 7)
        prompt = Prompt(text="", key=f"{key}#0")
        wanted = inpainting.inpaint(model, image, where[None], [prompt], recipe, seed)[0, ..., 0].astype(int)
        got = stored(calm / f"restored/{key}{'_2' if seed == 4 else ''}.png")
        assert np.abs(got - wanted).max() <= 1
        assert (got == image[0, ..., 0])[~where].all()
        assert (got != image[0, ..., 0])[where].any()


def test_other_units_batches_and_neighbours_give_the_same_pictures(calm, digits, tmp_path):
    same = [*folders_of(digits), *HARD, "--rows", 2]
    assert drawn(tmp_path / "a", *same, "--unit_pictures", 5, "--model.micro_batch", 2) == 0
    one = ["--image", digits / "imgs/d0.png", "--mask", digits / "masks/d0.png"]
    assert drawn(tmp_path / "b", *one, *HARD) == 0
    for path in (tmp_path / "a/restored").rglob("*.png"):
        assert (
            np.abs(stored(path) - stored(calm / "restored" / path.relative_to(tmp_path / "a/restored"))).max()
            <= 1
        )
    assert np.abs(stored(tmp_path / "b/restored/d0.png") - stored(calm / "restored/d0.png")).max() <= 1


def test_a_finished_run_stays_and_another_config_is_refused(calm, digits, tmp_path, capsys):
    output = shutil.copytree(calm, tmp_path / "o")
    same = [*folders_of(digits), *HARD, "--unit_pictures", 2]
    before = {p: p.stat().st_mtime_ns for p in (output / "restored").rglob("*.png")}
    assert through_ray(output, *same, "--rows", 2) == 0
    assert before == {p: p.stat().st_mtime_ns for p in (output / "restored").rglob("*.png")}
    assert "rows 2 -> 1" in refused(capsys, output, *same)
    assert drawn(output, *same, "--overwrite") == 0
    assert not (output / "restored/d0_2.png").exists()


# outside the mask


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


def test_an_empty_mask_copies_the_file_and_a_full_one_is_painted(tmp_path):
    for name in ("a.png", "b.jpg", "c.webp", "d.tif"):
        pair(tmp_path, name, noise("RGB", (20, 14)), np.zeros((14, 20), bool))
    pair(tmp_path, "full.png", noise("RGB", (20, 14)), np.ones((14, 20), bool))
    assert drawn(tmp_path / "o", *folders_of(tmp_path), *HARD) == 0
    for name in ("a.png", "b.jpg", "c.webp", "d.tif"):
        assert (tmp_path / "o/restored" / name).read_bytes() == (tmp_path / "imgs" / name).read_bytes()
    assert json.loads((tmp_path / "o/lineage/a.json").read_text())["copied"]
    assert report(tmp_path / "o")["copied"] == 4
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


# what the model is shown


def test_holes_apart_are_painted_apart(tmp_path):
    where = block((90, 60), 5, 5, 6, 6) | block((90, 60), 45, 70, 5, 8)
    pair(tmp_path, "a.png", noise("L", (90, 60)), where)
    arguments = [*folders_of(tmp_path), *HARD, "--crop_to_mask", "--padding", 4]
    assert drawn(tmp_path / "o", *arguments) == 0
    line = json.loads((tmp_path / "o/lineage/a.json").read_text())
    assert len(line["boxes"]) == 2
    assert line["worked_at"] == [[16, 16], [16, 16]]
    for (top, left, bottom, right), part in zip(
        line["boxes"], ((5, 5, 11, 11), (45, 70, 50, 78)), strict=True
    ):
        assert (top <= part[0], left <= part[1], part[2] <= bottom, part[3] <= right) == (True,) * 4
        assert (bottom - top, right - left) == (16, 16)
    task, work, _ = started(tmp_path / "o", *arguments)
    loaded = inpaint_draw.load(task, work.plan.unit(0).payload[0])
    for region in loaded.regions:  # at full resolution: nothing is resized
        assert (region.image_HWC[..., 0] == np.asarray(noise("L", (90, 60)))[region.box.slices]).all()
        assert (region.hole_HW == where[region.box.slices]).all()


@pytest.mark.parametrize("size", [(47, 33), (16, 16), (9, 30), (11, 8)])
def test_no_pixel_that_the_model_is_shown_holds_any_of_the_damage(tmp_path, size):
    """Two pictures that differ only in their hole give the same known pixels, at any scale."""
    where, calm = hole(size, 7), np.asarray(noise("RGB", size))
    shown = []
    for name, damage in (("a", 0), ("b", 255)):
        image = Image.fromarray(np.where(where[..., None], np.uint8(damage), calm))
        pair(tmp_path / name, "x.png", image, where)
        task, work, _ = started(tmp_path / name / "o", *folders_of(tmp_path / name), *HARD)
        (region,) = inpaint_draw.load(task, work.plan.unit(0).payload[0]).regions
        shown.append(np.where(region.hole_HW[..., None], 0, region.image_HWC))
    assert (shown[0] == shown[1]).all()


# rows and seeds


def test_rows_are_the_runs_of_one_seed_after_another(calm, digits, tmp_path):
    other = [*folders_of(digits), "--steps", 2, "--inpaint.resample", 1, "--feather", 0, "--seed", 4]
    assert drawn(tmp_path, *other) == 0
    for key in ("d0", "sub/d4"):
        assert (
            np.abs(stored(calm / f"restored/{key}_2.png") - stored(tmp_path / f"restored/{key}.png")).max()
            <= 1
        )
        assert (stored(calm / f"restored/{key}_2.png") != stored(calm / f"restored/{key}.png")).any()


@pytest.mark.parametrize("given", [[], ["--seed", "0"]])
def test_no_seed_is_a_random_one_that_is_written_down_and_kept(digits, tmp_path, given):
    same = [
        *folders_of(digits),
        "--steps",
        2,
        "--inpaint.resample",
        1,
        "--rows",
        2,
        "--unit_pictures",
        3,
        *given,
    ]
    assert drawn(tmp_path / "a", *same) == 0
    seeds = report(tmp_path / "a")["seeds"]
    assert report(tmp_path / "a")["seed_drawn"]
    assert seeds == [seeds[0], seeds[0] + 1]
    assert json.loads((tmp_path / "a/lineage/d0.json").read_text())["seeds"] == seeds
    assert started(tmp_path / "a", *same)[0].seed == seeds[0], "the same run goes on with its seed"
    assert started(tmp_path / "b", *same)[0].seed != seeds[0]
    assert started(tmp_path / "a", *same, "--overwrite")[0].seed != seeds[0]
    said = [*same[: same.index("--rows")], "--rows", 2, "--unit_pictures", 3, "--seed", seeds[0]]
    assert drawn(tmp_path / "c", *said) == 0
    for path in (tmp_path / "c/restored").rglob("*.png"):
        assert (
            stored(path) == stored(tmp_path / "c/restored" / path.relative_to(tmp_path / "c/restored"))
        ).all()


# one picture


def test_one_picture_to_a_folder_and_to_a_collage(tmp_path, capsys):
    pair(tmp_path, "pic.jpg", noise("RGB", (30, 20)), block((30, 20), 4, 4, 8, 9))
    one = ["--image", tmp_path / "imgs/pic.jpg", "--mask", tmp_path / "masks/pic.png", *HARD, "--rows", 2]
    assert drawn(tmp_path / "folder", *one) == 0
    assert drawn(tmp_path / "grid.png", *one) == 0
    assert str(tmp_path / "grid.png") in capsys.readouterr().out
    assert (tmp_path / "grid.png").read_bytes() == (tmp_path / "folder/collages/pic_collage.png").read_bytes()
    assert (tmp_path / "grid/restored/pic_2.jpg").exists()
    assert drawn(tmp_path / "more.jpg", *one) == 0
    assert Image.open(tmp_path / "more.jpg").size == Image.open(tmp_path / "grid.png").size
    assert Image.open(tmp_path / "more.jpg").format == "JPEG"


def test_one_bad_picture_is_refused_by_its_name(tmp_path, capsys):
    storage.write(str(tmp_path / "a.png"), saved(noise("RGB", (30, 20)), "PNG")[:900])
    storage.write(str(tmp_path / "m.png"), saved(mask(np.zeros((20, 30), bool)), "PNG"))
    one = ["--image", tmp_path / "a.png", "--mask", tmp_path / "m.png"]
    error = refused(capsys, tmp_path / "o", *one)
    assert "a.png" in error
    assert "truncated_image" in error


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


def test_no_collage(digits, tmp_path):
    assert drawn(tmp_path, *folders_of(digits), *HARD, "--collage", "false") == 0
    assert not (tmp_path / "collages").exists()


# feather


def test_the_edge_fades_in_from_what_lies_around(tmp_path):
    part, where = np.full((20, 20, 1), 40, np.uint8), block((20, 20), 5, 5, 10, 10)
    part[where] = 255  # the damage
    patch = np.full((20, 20, 1), 200, np.uint8)
    hard, soft = (
        inpaint_output.repaired(*inpaint_output.edge(part, where, feather), patch) for feather in (0, 3)
    )
    assert (hard[where] == 200).all()
    assert (soft[~where] == 40).all()
    alpha = masks.feather(where, 3)
    assert np.abs(soft[..., 0] - (40 + alpha * 160))[where].max() <= 0.5
    assert soft.max() == 200, "nothing of the damage"


# bad input


def test_each_kind_of_bad_input_is_left_out_with_its_reason(tmp_path):
    full = np.ones((20, 20), bool)
    png = saved(noise("RGB", (20, 20)), "PNG")
    good = saved(mask(block((20, 20), 2, 2, 5, 5)), "PNG")
    cases = {
        "cut": (png[:900], good, "truncated_image"), "words": (b"words", good, "not_an_image"),
        "none": (b"", good, "empty_picture"), "small": (saved(noise("L", (20, 7)), "PNG"), good, "too_small"),
        "big": (saved(noise("L", (200, 201)), "PNG"), good, "too_large"),
        "aspect": (png, saved(mask(np.ones((20, 30), bool)), "PNG"), "mask_does_not_fit"),
        "colours": (png, saved(noise("RGB", (20, 20)), "PNG"), "mask_has_colours"),
        "badmask": (png, good[:60], "bad_mask"), "text": (png, good, "bad_txt"),
        "film": (saved(noise("L", (9, 9)), "PNG", save_all=True, append_images=[noise("L", (9, 9), 1)]),
                 saved(mask(full), "PNG"), "several_frames"),
    }  # fmt: skip
    for name, (picture, hole_png, _) in cases.items():
        storage.write(str(tmp_path / f"imgs/{name}.png"), picture)
        storage.write(str(tmp_path / f"masks/{name}.png"), hole_png)
    storage.write(str(tmp_path / "imgs/text.txt"), b"\xff\xfe\x00")
    storage.write(str(tmp_path / "imgs/alone.png"), png)
    storage.write(str(tmp_path / "masks/lost.png"), good)
    pair(tmp_path, "good.png", noise("RGB", (20, 20)), block((20, 20), 2, 2, 5, 5))
    assert drawn(tmp_path / "o", *folders_of(tmp_path), *HARD, "--max_pixels", 40_000) == 0
    wanted = {f"{name}.png": reason for name, (_, _, reason) in cases.items()}
    assert quarantine(tmp_path / "o") == wanted | {"alone.png": "no_mask", "lost.png": "no_picture"}
    found = report(tmp_path / "o")
    assert (found["without_mask"], found["without_picture"]) == (["alone.png"], ["lost.png"])
    assert found["restored"] == 1
    assert [p.name for p in (tmp_path / "o/restored").iterdir()] == ["good.png"]


def broken(folder, factor: float) -> str:
    """A model whose first weights are multiplied."""
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    tiny(folder, "ddpm")
    weights = load_file(path)
    weights["conv_in.weight"] *= factor
    save_file(weights, path, {"format": "pt"})
    return str(folder)


def test_what_is_not_finite_is_tried_in_float32_and_then_left_out(digits, tmp_path):
    some = [*folders_of(digits), *HARD, "--model.precision", "fp16", "--rows", 2]
    assert drawn(tmp_path / "o", *some, "--model", broken(tmp_path / "large", 1e8)) == 0
    assert json.loads((tmp_path / "o/lineage/d0.json").read_text())["precision"] == "fp32"
    assert report(tmp_path / "o")["restored"] == 10
    assert drawn(tmp_path / "p", *some, "--model", broken(tmp_path / "nan", float("nan"))) == 0
    names = ["d0.png", "d1.png", "d2.png", "sub/d3.png", "sub/d4.png"]
    assert quarantine(tmp_path / "p") == dict.fromkeys(names, "not_finite")
    assert report(tmp_path / "p")["restored"] == 0


# shards


def test_shards_to_shards(tmp_path):
    rows = []
    for i in range(3):
        where = block((16, 16), 3 + i, 4, 6, 7)
        files = {"png": saved(digit(i), "PNG"), "mask.png": saved(mask(where), "PNG"), "cls": b"%d" % i}
        rows.append((f"k{i}", files))
    storage.write(str(tmp_path / "in/a.tar"), shards.pack(rows))
    arguments = ["--input", tmp_path / "in", *HARD, "--rows", 2, "--unit_pictures", 2]
    assert drawn(tmp_path / "o", *arguments, "--collage", "true") == 0
    assert sorted(p.name for p in (tmp_path / "o/shards").iterdir()) == [
        "inpainted-000000.tar",
        "inpainted-000001.tar",
    ]
    out = read(tmp_path / "o")
    assert list(out) == ["k0", "k0_2", "k1", "k1_2", "k2", "k2_2"]
    for i, (_, files) in enumerate(rows):
        for row, name in enumerate((f"k{i}", f"k{i}_2")):
            line = json.loads(out[name]["json"])
            assert (line["picture"], line["seeds"]) == (f"a.tar#k{i}", [3 + row])
            assert out[name]["mask.png"] == files["mask.png"]
            assert out[name]["cls"] == files["cls"]
            where = block((16, 16), 3 + i, 4, 6, 7)
            same = np.asarray(Image.open(io.BytesIO(out[name]["png"]))) == np.asarray(digit(i))
            assert same[~where].all()
            assert not same[where].all()
        assert Image.open(io.BytesIO(out[f"k{i}"]["collage.png"])).size == (88, 52)
    assert drawn(tmp_path / "p", *arguments) == 0
    assert "collage.png" not in read(tmp_path / "p")["k0"]


def test_every_kind_of_file_is_in_these_tests():
    assert set(SAVED) == set(EXTENSION) == set(pictures.FORMATS)
