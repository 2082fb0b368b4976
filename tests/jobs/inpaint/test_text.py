"""The inpaint job with small latent pipelines: prompts, working sizes, boxes, and which method is used."""

import json
import shutil

import numpy as np
import pytest
import small_pipeline
from flows import DIGITS
from inpaints import drawn, folders_of, hole, noise, pair, report, stored

from noiseweave.cluster import storage
from noiseweave.jobs import arguments as jobs_arguments
from noiseweave.jobs.inpaint import draw
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
    task = draw.plan(config, str(output), None, inpaint.seed_of(config, str(output)))
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
