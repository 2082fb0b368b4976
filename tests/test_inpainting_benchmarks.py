"""The inpainting benchmarks: what each draws from, and a small run of each."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def modules():
    """(inpainting_quality, inpainting_speed) of benchmarks/, found as when they are run."""
    sys.path.insert(0, str(BENCHMARKS))
    import inpainting_quality
    import inpainting_speed

    yield inpainting_quality, inpainting_speed
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def quality(modules):
    return modules[0]


def holed(size=40, seed=0):
    """A noisy picture and a square hole in it."""
    image = np.random.default_rng(seed).integers(0, 200, (size, size, 3), dtype=np.uint8)
    hole = np.zeros((size, size), bool)
    hole[4:20, 6:24] = True
    return image, hole


def test_baselines_know_only_what_lies_outside_the_hole(quality):
    image, hole = holed()
    image[~hole] = (10, 20, 31)
    image[0, :20] = (12, 20, 31)  # 20 of the known pixels
    mean = quality.mean_fill(image, hole)
    assert np.array_equal(np.unique(mean[hole], axis=0), [[10, 20, 31]])
    assert np.array_equal(quality.mean_fill(image, np.ones_like(hole))[5, 5], [128] * 3)
    near = quality.telea(image, hole)
    assert np.abs(near[hole].astype(int) - (10, 20, 31)).max() <= 4  # its gradient term adds levels
    for channels in (3, 1):
        part = image[..., :channels]
        for way in (quality.mean_fill, quality.telea):
            out = way(part, hole)
            assert np.array_equal(out[~hole], part[~hole])
            assert np.array_equal(way(np.where(hole[..., None], 255 - part, part), hole), out)


def test_quality_has_every_set_that_is_there(quality, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quality, "DATA", tmp_path / "shared/data")
    image, hole = holed(64)
    for name, mask in (("freeform", ~hole), ("object", hole)):
        for part, pixels in (("images", image), ("masks", mask.astype(np.uint8) * 255)):
            folder = tmp_path / "shared/data/inpainting" / name / part
            folder.mkdir(parents=True)
            Image.fromarray(pixels).save(folder / "a.png")
    args = argparse.Namespace(
        model=None,
        digits="digits-ddpm",
        out=tmp_path / "out.json",
        docs=tmp_path,
        count=2,
        flowers=2,
        device="cpu",
    )
    quality.run(args)
    printed = capsys.readouterr().out
    assert "left out: no data/flowers/validation" in printed
    result = json.loads(args.out.read_text())
    sets = {s["set"]: s for s in result["sets"]}
    assert [(s["pictures"], list(s["ways"])) for s in sets.values()] == [
        (1, ["mean", "telea"]),
        (1, ["mean", "telea"]),
        (2, ["mean", "telea", "ours"]),
    ]
    assert sets["freeform"]["ways"] == sets["object"]["ways"]
    assert sets["freeform"]["hole"] == pytest.approx(hole.mean(), abs=1e-3)
    best = {way: m["psnr"] for way, m in sets["digits"]["ways"].items()}
    assert best["ours"] > best["mean"] + 3
    assert f"| digits | 2 | {sets['digits']['hole']:.0%} | ours | {best['ours']:.1f} |" in printed
    assert Image.open(tmp_path / "inpainting.png").width == 5 * 134 + 6


def test_speed_compares_the_same_pictures(modules, tmp_path, monkeypatch):
    speed = modules[1]
    small = dataclasses.replace(
        speed.pipelines.SHAPES["small"],
        size=32,
        unet={
            "block_out_channels": (32, 32),
            "layers_per_block": 1,
            "cross_attention_dim": 64,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
    )
    monkeypatch.setitem(speed.pipelines.SHAPES, "small", small)
    args = argparse.Namespace(
        out=tmp_path / "out.json",
        device="cpu",
        shape="small",
        pictures=5,
        steps=3,
        repaint_steps=4,
        precision="fp32",
        micro_batch=0,
        repeats=1,
    )
    speed.run(args)
    result = json.loads(args.out.read_text())
    pipeline, digits = result["pipeline"], result["digits"]
    assert pipeline["method"] == "inpaint"
    assert pipeline["working_sizes"] == [[24, 32], [32, 24], [32, 32]]
    assert pipeline["largest_difference_to_diffusers"] <= 1
    assert digits["method"] == "repaint"
    for part in (pipeline, digits):
        assert part["largest_difference_to_ours_alone"] <= 1
        assert part["ratio_to_ours_alone"] == pytest.approx(
            part["seconds"]["ours_alone"][0] / part["seconds"]["ours"][0], abs=0.006
        )
