"""The inpaint job on small pictures: the same however it is split, resumed, and from one picture or shards."""

import io
import itertools
import json
import shutil

import numpy as np
import pytest
from inpaints import (
    HARD,
    block,
    digit,
    drawn,
    folders_of,
    mask,
    noise,
    pair,
    refused,
    report,
    saved,
    started,
    stored,
)
from PIL import Image
from sampling import read

from noiseweave.cluster import shards, storage
from noiseweave.engine.inpainting import filling
from noiseweave.engine.inpainting.recipes import InpaintRecipe
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.recipes import ModelConfig


@pytest.fixture(scope="module")
def calm(damaged, tmp_path_factory):
    output = tmp_path_factory.mktemp("calm") / "out"
    assert drawn(output, *folders_of(damaged), *HARD, "--rows", 2, "--unit_pictures", 2) == 0
    return output


# the flow


def test_what_it_writes(calm, damaged):
    there = {str(p.relative_to(calm)) for p in calm.rglob("*.*") if "_run" not in p.parts}
    keys = ["d0", "d1", "d2", "sub/d3", "sub/d4"]
    wanted = {"report.html", "report.json", "quarantine.jsonl"}
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


def test_the_holes_are_the_engines(calm, damaged):
    model = filling.load(ModelConfig(name="digits-ddpm"))
    recipe = InpaintRecipe(steps=2, resample=1)
    for i, seed in itertools.product((0, 4), (3, 4)):
        key = f"{'sub/' if i > 2 else ''}d{i}"
        image, where = np.asarray(digit(i))[None, ..., None], block((16, 16), 3 + i, 4, 6, 7)
        prompt = Prompt(text="", key=f"{key}#0")
        wanted = filling.inpaint(model, image, where[None], [prompt], recipe, seed)[0, ..., 0].astype(int)
        got = stored(calm / f"restored/{key}{'_2' if seed == 4 else ''}.png")
        assert np.abs(got - wanted).max() <= 1
        assert (got == image[0, ..., 0])[~where].all()
        assert (got != image[0, ..., 0])[where].any()


def test_other_units_batches_and_neighbours_give_the_same_pictures(calm, damaged, tmp_path):
    same = [*folders_of(damaged), *HARD, "--rows", 2]
    assert drawn(tmp_path / "a", *same, "--unit_pictures", 5, "--model.micro_batch", 2) == 0
    one = ["--image", damaged / "imgs/d0.png", "--mask", damaged / "masks/d0.png"]
    assert drawn(tmp_path / "b", *one, *HARD) == 0
    for path in (tmp_path / "a/restored").rglob("*.png"):
        assert (
            np.abs(stored(path) - stored(calm / "restored" / path.relative_to(tmp_path / "a/restored"))).max()
            <= 1
        )
    assert np.abs(stored(tmp_path / "b/restored/d0.png") - stored(calm / "restored/d0.png")).max() <= 1


def test_a_finished_run_stays_and_another_config_is_refused(calm, damaged, tmp_path, capsys):
    output = shutil.copytree(calm, tmp_path / "o")
    same = [*folders_of(damaged), *HARD, "--unit_pictures", 2]
    before = {p: p.stat().st_mtime_ns for p in (output / "restored").rglob("*.png")}
    assert drawn(output, *same, "--rows", 2) == 0
    assert before == {p: p.stat().st_mtime_ns for p in (output / "restored").rglob("*.png")}
    assert "rows 2 -> 1" in refused(capsys, output, *same)
    assert drawn(output, *same, "--overwrite") == 0
    assert not (output / "restored/d0_2.png").exists()


# rows and seeds


def test_rows_are_the_runs_of_one_seed_after_another(calm, damaged, tmp_path):
    other = [*folders_of(damaged), "--steps", 2, "--inpaint.resample", 1, "--feather", 0, "--seed", 4]
    assert drawn(tmp_path, *other) == 0
    for key in ("d0", "sub/d4"):
        assert (
            np.abs(stored(calm / f"restored/{key}_2.png") - stored(tmp_path / f"restored/{key}.png")).max()
            <= 1
        )
        assert (stored(calm / f"restored/{key}_2.png") != stored(calm / f"restored/{key}.png")).any()


@pytest.mark.parametrize("given", [[], ["--seed", "0"]])
def test_no_seed_is_a_random_one_that_is_written_down_and_kept(damaged, tmp_path, given):
    same = [
        *folders_of(damaged),
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
