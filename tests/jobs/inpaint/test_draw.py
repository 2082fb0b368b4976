"""What the model is shown of a picture, and what is left out."""

import json

import numpy as np
import pytest
from inpaints import (
    HARD,
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
    started,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from sampling import tiny

from noiseweave.cluster import storage
from noiseweave.jobs.inpaint import draw


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
    loaded = draw.load(task, work.plan.unit(0).payload[0])
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
        (region,) = draw.load(task, work.plan.unit(0).payload[0]).regions
        shown.append(np.where(region.hole_HW[..., None], 0, region.image_HWC))
    assert (shown[0] == shown[1]).all()


def test_pictures_that_the_model_does_not_paint_are_warned_of(tmp_path, capsys):
    pair(tmp_path, "a.png", noise("RGB", (60, 30)), block((60, 30), 2, 2, 5, 5))
    assert drawn(tmp_path / "o", *folders_of(tmp_path), *HARD) == 0
    text = "the pictures are 60x30 in colour, model digits-ddpm draws 16x16 in grey: they are made smaller and they"
    assert f"warning: {text} lose their colour\n" in capsys.readouterr().err
    assert drawn(tmp_path / "crops", *folders_of(tmp_path), *HARD, "--crop_to_mask") == 0
    assert "draws 16x16 in grey: they lose their colour\n" in capsys.readouterr().err
    pair(tmp_path / "grey", "a.png", noise("L", (30, 30)), block((30, 30), 2, 2, 5, 5))
    assert drawn(tmp_path / "fits", *folders_of(tmp_path / "grey"), *HARD) == 0
    assert "warning" not in capsys.readouterr().err


# bad input


def test_each_kind_of_bad_input_is_left_out_with_its_reason(tmp_path, capsys):
    full = np.ones((20, 20), bool)
    png = saved(noise("RGB", (20, 20)), "PNG")
    good = saved(mask(block((20, 20), 2, 2, 5, 5)), "PNG")
    cases = {
        "cut": (png[:900], good, "truncated_image"),
        "words": (b"words", good, "not_an_image"),
        "none": (b"", good, "empty_picture"),
        "small": (saved(noise("L", (20, 7)), "PNG"), good, "too_small"),
        "big": (saved(noise("L", (200, 201)), "PNG"), good, "too_large"),
        "aspect": (png, saved(mask(np.ones((20, 30), bool)), "PNG"), "mask_does_not_fit"),
        "colours": (png, saved(noise("RGB", (20, 20)), "PNG"), "mask_has_colours"),
        "badmask": (png, good[:60], "bad_mask"),
        "dark": (
            png,
            saved(Image.fromarray(np.uint8(100) * ~block((20, 20), 2, 2, 5, 5)), "PNG"),
            "bad_mask",
        ),
        "grey": (png, saved(Image.linear_gradient("L").crop((0, 0, 100, 100)), "PNG"), "bad_mask"),
        "text": (png, good, "bad_txt"),
        "film": (
            saved(noise("L", (9, 9)), "PNG", save_all=True, append_images=[noise("L", (9, 9), 1)]),
            saved(mask(full), "PNG"),
            "several_frames",
        ),
    }
    for name, (picture, hole_png, _) in cases.items():
        storage.write(str(tmp_path / f"imgs/{name}.png"), picture)
        storage.write(str(tmp_path / f"masks/{name}.png"), hole_png)
    storage.write(str(tmp_path / "imgs/text.txt"), b"\xff\xfe\x00")
    storage.write(str(tmp_path / "imgs/alone.png"), png)
    storage.write(str(tmp_path / "masks/lost.png"), good)
    pair(tmp_path, "good.png", noise("RGB", (20, 20)), block((20, 20), 2, 2, 5, 5))
    assert drawn(tmp_path / "o", *folders_of(tmp_path), *HARD, "--max_pixels", 40_000) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("quarantined: ")
    assert "3 bad_mask, " in last
    assert last.endswith(f"; see {tmp_path / 'o/quarantine.jsonl'}")
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


def test_what_is_not_finite_is_tried_in_float32_and_then_left_out(damaged, tmp_path):
    some = [*folders_of(damaged), *HARD, "--model.precision", "fp16", "--rows", 2]
    assert drawn(tmp_path / "o", *some, "--model", broken(tmp_path / "large", 1e8)) == 0
    assert json.loads((tmp_path / "o/lineage/d0.json").read_text())["precision"] == "fp32"
    assert report(tmp_path / "o")["restored"] == 10
    assert drawn(tmp_path / "p", *some, "--model", broken(tmp_path / "nan", float("nan"))) == 1
    names = ["d0.png", "d1.png", "d2.png", "sub/d3.png", "sub/d4.png"]
    assert quarantine(tmp_path / "p") == dict.fromkeys(names, "not_finite")
    assert report(tmp_path / "p")["restored"] == 0
