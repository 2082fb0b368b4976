"""The inpaint job with small latent pipelines: prompts, working sizes, boxes, and which method is used."""

import json
import shutil

import numpy as np
import pytest
import small_pipeline
from flows import DIGITS
from inpaints import drawn, folders_of, hole, noise, pair, report, stored

from noiseweave.cluster import storage
from noiseweave.engine.seeding import seed_of
from noiseweave.jobs import arguments as jobs_arguments
from noiseweave.jobs.inpaint import draw, plan
from noiseweave.jobs.inpaint import input as inpaint_input
from noiseweave.jobs.inpaint import job as inpaint

FAST = ["--steps", 2, "--inpaint.resample", 1, "--seed", 3]
LONG = " ".join(["a wall painting of a horse"] * 15) + " and a very last word"


@pytest.fixture(scope="module")
def made_for_it(kl_folder, tmp_path_factory):
    """The same pipeline with a UNet that sees the mask and the masked picture too."""
    return small_pipeline.for_inpainting(shutil.copytree(kl_folder, tmp_path_factory.mktemp("x") / "inpaint"))


def lineage(output, key):
    return json.loads((output / f"lineage/{key}.json").read_text())


def loaded(folder, output, *arguments):
    """The pictures of the first unit as the model is shown them."""
    words = [*DIGITS, *folders_of(folder), "--output", str(output), *map(str, arguments)]
    config = jobs_arguments.parse("inpaint", words)
    task = plan.plan(config, str(output), None, inpaint.seed_of(config, str(output)))
    items = inpaint_input.gather(config).plan.unit(0).payload
    return task, [draw.load(task, item) for item in items]


def test_a_model_made_for_it(made_for_it, tmp_path, capsys):
    for name in ("a.png", "b.jpg"):
        pair(tmp_path, name, noise("RGB", (40, 30)), hole((40, 30)))
    arguments = [*folders_of(tmp_path), "--model", made_for_it, *FAST, "--prompt", "a horse", "--rows", 2]
    assert drawn(tmp_path / "o", *arguments) == 0
    assert report(tmp_path / "o")["method"] == "inpaint"
    assert "RePaint" not in capsys.readouterr().err
    assert lineage(tmp_path / "o", "a")["worked_at"] == [[24, 32]]
    same = (stored(tmp_path / "o/restored/a.png") == stored(tmp_path / "imgs/a.png")).all(-1)
    assert same[~hole((40, 30))].all()
    assert not same.all()


def test_a_pipeline_that_is_not_says_so_and_reads_each_pictures_words(kl_folder, tmp_path, capsys):
    for name in ("a.png", "b.png", "c.png"):
        pair(tmp_path, name, noise("RGB", (32, 32)), hole((32, 32)))
    storage.write(str(tmp_path / "imgs/b.txt"), b"its own words")
    storage.write(str(tmp_path / "imgs/c.txt"), LONG.encode())
    arguments = [*folders_of(tmp_path), "--model", kl_folder, *FAST, "--prompt", "a horse"]
    assert drawn(tmp_path / "o", *arguments, "--negative_prompt", "blur") == 0
    said = capsys.readouterr()
    assert "is no inpainting model: RePaint" in said.err
    assert report(tmp_path / "o")["method"] == "repaint"
    prompts = [lineage(tmp_path / "o", key)["prompt"] for key in "abc"]
    assert prompts == ["a horse", "its own words", LONG]
    assert [lineage(tmp_path / "o", key)["prompt_truncated"] != [] for key in "abc"] == [False, False, True]
    (end,) = report(tmp_path / "o")["truncated"]
    assert LONG.endswith(end)
    assert 0 < len(end) < len(LONG)
    assert end in said.out
    storage.write(str(tmp_path / "imgs/b.txt"), b"ITS OTHER WORDS")
    assert drawn(tmp_path / "p", *arguments, "--negative_prompt", "blur") == 0
    moved = [
        (stored(tmp_path / f"o/restored/{k}.png") != stored(tmp_path / f"p/restored/{k}.png")).any()
        for k in "ab"
    ]
    assert moved == [False, True]


@pytest.mark.parametrize(
    ("size", "long_side", "worked"),
    [((64, 48), 0, (24, 32)), ((48, 64), 64, (64, 48)), ((51, 17), 48, (16, 48)), ((90, 89), 32, (32, 32))],
)
def test_the_long_side_is_near_size_and_both_are_multiples_of_8(kl_folder, tmp_path, size, long_side, worked):
    pair(tmp_path, "a.png", noise("RGB", size), hole(size))
    _, (one,) = loaded(tmp_path, tmp_path / "o", "--model", kl_folder, *FAST, "--size", long_side)
    assert one.regions[0].hole_HW.shape == worked
    assert one.regions[0].image_HWC.shape == (*worked, 3)


def test_pictures_of_one_size_share_the_networks_calls(kl_folder, tmp_path):
    """Eight pictures of two sizes: two calls a step, and each picture as if it were alone."""
    for i in range(8):
        size = (32, 24) if i % 2 else (24, 32)
        pair(tmp_path, f"{i}.png", noise("RGB", size, i), hole(size, i))
    task, pictures = loaded(tmp_path, tmp_path / "o", "--model", kl_folder, *FAST, "--model.micro_batch", 8)
    paint = draw._make_paint(task, gpu=False)
    calls = []
    unet = paint.model.text.pipeline.unet
    unet.register_forward_pre_hook(lambda _, arguments: calls.append(len(arguments[0])))
    painted, bad = paint((pictures, []))
    assert bad == []
    assert calls == [8] * 4, "2 sizes x 2 steps, 4 pictures with and without words"
    alone, _ = paint((pictures[5:6], []))
    apart = np.abs(alone[0].patches[0][0].astype(int) - painted[5].patches[0][0])
    assert apart.max() <= 1


def test_boxes_of_a_large_picture_keep_its_resolution(kl_folder, tmp_path):
    where = np.zeros((120, 200), bool)
    where[10:16, 12:20] = where[100:104, 150:190] = True
    pair(tmp_path, "a.png", noise("RGB", (200, 120)), where)
    arguments = ["--model", kl_folder, *FAST, "--crop_to_mask", "--padding", 4]
    _, (one,) = loaded(tmp_path, tmp_path / "o", *arguments)
    assert [r.hole_HW.shape for r in one.regions] == [(32, 32), (24, 32)]
    first = one.regions[0]
    assert (first.image_HWC == np.asarray(noise("RGB", (200, 120)))[first.box.slices]).all()
    assert one.regions[1].box.right - one.regions[1].box.left == 48, (
        "longer than the model's 32: shrunk to it"
    )
    assert drawn(tmp_path / "o", *folders_of(tmp_path), *arguments) == 0
    same = (stored(tmp_path / "o/restored/a.png") == stored(tmp_path / "imgs/a.png")).all(-1)
    assert same[~where].all()
    assert same[where].mean() < 0.1


@pytest.fixture
def flags_all(kl_folder, tmp_path):
    """The same pipeline with a safety checker that flags every picture."""
    copy = shutil.copytree(kl_folder, tmp_path / "flags")
    small_pipeline.flag_everything(copy)
    return copy


def test_what_is_flagged_is_named_and_never_written_black(flags_all, tmp_path, capsys):
    for name in ("a.png", "b.png", "empty.png"):
        where = hole((32, 32)) if name != "empty.png" else np.zeros((32, 32), bool)
        pair(tmp_path, name, noise("RGB", (32, 32)), where)
    arguments = [*folders_of(tmp_path), "--model", flags_all, *FAST, "--rows", 2]
    assert drawn(tmp_path / "o", *arguments) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("quarantined: 4 flagged: ")
    found = report(tmp_path / "o")
    assert (found["restored"], found["copied"], found["quarantined"]) == (0, 1, {"flagged": 4})
    names = sorted(p.name for p in (tmp_path / "o/restored").rglob("*.*"))
    assert names == ["empty.png", "empty_2.png"]
    lines = [json.loads(line) for line in (tmp_path / "o/quarantine.jsonl").read_text().splitlines()]
    assert [(b["key"], b["detail"][-17:]) for b in lines] == [
        (name, f"variant {row}, seed {seed}") for name in ("a.png", "b.png") for row, seed in ((1, 3), (2, 4))
    ]
    assert drawn(tmp_path / "p", *arguments, "--model.safety_checker", "false") == 0
    assert report(tmp_path / "p")["restored"] == 4


def test_one_picture_that_is_flagged_is_code_1(flags_all, tmp_path, capsys):
    pair(tmp_path, "a.png", noise("RGB", (32, 32)), hole((32, 32)))
    one = ["--image", tmp_path / "imgs/a.png", "--mask", tmp_path / "masks/a.png"]
    assert drawn(tmp_path / "o.png", *one, "--model", flags_all, *FAST) == 1
    assert "quarantined: 1 flagged: " in capsys.readouterr().out
    assert not (tmp_path / "o.png").exists()


def test_a_flagged_variant_is_painted_once_more_and_the_others_stay(kl_folder, flags_all, tmp_path):
    pair(tmp_path, "a.png", noise("RGB", (32, 32)), np.ones((32, 32), bool))
    arguments = [*folders_of(tmp_path), *FAST, "--feather", 0, "--rows", 5]
    assert drawn(tmp_path / "calm", *arguments, "--model", kl_folder) == 0
    names = ["a", "a_2", "a_3", "a_4", "a_5"]
    calm = [stored(tmp_path / f"calm/restored/{name}.png") for name in names]
    scores = small_pipeline.unsafety(flags_all, np.stack(calm).astype(np.uint8))
    worst, second = np.argsort(scores)[::-1][:2]
    small_pipeline.flag_above(flags_all, float(scores[[worst, second]].mean()))
    assert drawn(tmp_path / "o", *arguments, "--model", flags_all) == 0
    line, again = lineage(tmp_path / "o", "a"), seed_of(3 + int(worst), "flagged", "a#0")
    assert report(tmp_path / "o")["quarantined"] == {}, "the second try has other noise"
    assert line["drawn_again"] == [{"variant": int(worst) + 1, "box": 0, "seed": again}]
    for i, name in enumerate(names):
        apart = np.abs(stored(tmp_path / f"o/restored/{name}.png") - calm[i]).max()
        assert apart > 1 if i == worst else apart <= 1
    assert drawn(tmp_path / "s", *arguments[:-2], "--seed", again, "--model", kl_folder) == 0
    path = tmp_path / f"o/restored/{names[worst]}.png"
    assert np.abs(stored(tmp_path / "s/restored/a.png") - stored(path)).max() <= 1
