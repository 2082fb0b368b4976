"""The inpainting benchmarks: closed forms of what is measured in a hole, and a small run of each."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_pipeline import WEIGHTS

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FEATURES = WEIGHTS / "lpips/alexnet_features.safetensors"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def modules():
    """(hole_metrics, inpainting_quality, inpainting_speed) of benchmarks/, found as when they are run."""
    sys.path.insert(0, str(BENCHMARKS))
    import hole_metrics
    import inpainting_quality
    import inpainting_speed

    yield hole_metrics, inpainting_quality, inpainting_speed
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def metrics(modules):
    return modules[0]


@pytest.fixture(scope="module")
def quality(modules):
    return modules[1]


def holed(size=40, seed=0):
    """A noisy picture and a square hole in it."""
    image = np.random.default_rng(seed).integers(0, 200, (size, size, 3), dtype=np.uint8)
    hole = np.zeros((size, size), bool)
    hole[4:20, 6:24] = True
    return image, hole


def test_psnr_is_that_of_the_hole_alone(metrics):
    image, hole = holed()
    other = np.where(hole[..., None], image + np.uint8(16), 255 - image)
    assert metrics.psnr(image, other, hole) == pytest.approx(20 * np.log10(255 / 16))
    half = hole & (np.arange(40) % 2 == 0)  # 10 log10 2 less error
    some = np.where(half[..., None], image + np.uint8(16), image)
    assert metrics.psnr(image, some, hole) == pytest.approx(20 * np.log10(255 / 16) + 10 * np.log10(2))
    assert metrics.psnr(image, image, hole) == np.inf


def test_ssim_of_flat_pictures_is_the_ratio_of_their_means(metrics):
    hole = holed()[1]
    a, b, c_1 = 100, 140, (0.01 * 255) ** 2
    flat = [np.full((40, 40, 3), v, np.uint8) for v in (a, b)]
    assert metrics.ssim(*flat, hole) == pytest.approx((2 * a * b + c_1) / (a * a + b * b + c_1), rel=1e-6)


def test_ssim_is_the_textbooks_at_a_pixel_and_reaches_five_pixels(metrics):
    image, other = holed()[0], holed(seed=1)[0]
    hole = np.zeros((40, 40), bool)
    hole[20, 20] = True
    g = np.exp(-np.square(np.arange(-5, 6)) / (2 * 1.5**2))
    w = np.outer(g, g)[..., None] / np.outer(g, g).sum()
    x, y = (p[15:26, 15:26].astype(float) for p in (image, other))
    m_x, m_y = (w * x).sum((0, 1)), (w * y).sum((0, 1))
    v_x, v_y = ((w * np.square(p - m)).sum((0, 1)) for p, m in ((x, m_x), (y, m_y)))
    c_1, c_2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    v_xy = (w * (x - m_x) * (y - m_y)).sum((0, 1))
    map_C = (2 * m_x * m_y + c_1) * (2 * v_xy + c_2) / ((m_x**2 + m_y**2 + c_1) * (v_x + v_y + c_2))
    assert metrics.ssim(image, other, hole) == pytest.approx(map_C.mean(), abs=1e-9)
    far = other.copy()
    far[:14] = far[:, 26:] = 0
    assert metrics.ssim(image, far, hole) == pytest.approx(map_C.mean(), abs=1e-9)


@pytest.mark.skipif(not FEATURES.is_file(), reason="no AlexNet features here")
def test_lpips_is_the_papers_formula_with_these_weights(metrics):
    """arXiv 1801.03924, equation 1, written out with the files' own tensors."""
    import lpips as package
    from safetensors.torch import load_file
    from torch.nn import functional as F

    state = load_file(FEATURES)
    linear = torch.load(
        Path(package.__file__).parent / "weights/v0.1/alex.pth", map_location="cpu", weights_only=True
    )
    image, other = holed(64)[0], holed(64, 1)[0]
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = (torch.from_numpy(np.stack([image, other])).float() / 127.5 - 1 - shift) / scale
    x, distance = x.permute(0, 3, 1, 2), torch.zeros(())
    for n, (layer, stride, padding) in enumerate(((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))):
        x = F.max_pool2d(x, 3, 2) if layer in (3, 6) else x
        x = F.relu(F.conv2d(x, state[f"{layer}.weight"], state[f"{layer}.bias"], stride, padding))
        a, b = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
        distance += (linear[f"lin{n}.model.1.weight"][0] * (a - b).square()).sum(0).mean()
    lpips = metrics.Lpips(FEATURES)
    assert lpips(image, other) == pytest.approx(float(distance), rel=1e-4)
    assert lpips(image, image) == 0
    grey = image[..., :1]
    assert lpips(grey, other[..., :1]) == pytest.approx(
        lpips(grey.repeat(3, -1), other[..., :1].repeat(3, -1))
    )


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
        model=None, digits="digits-ddpm", out=tmp_path / "out.json", docs=tmp_path, count=2, flowers=2,
        device="cpu",
    )  # fmt: skip
    quality.run(args)
    printed = capsys.readouterr().out
    assert "left out: no data/flowers/validation" in printed
    result = json.loads(args.out.read_text())
    sets = {s["set"]: s for s in result["sets"]}
    assert [(s["pictures"], list(s["ways"])) for s in sets.values()] == [
        (1, ["mean", "telea"]), (1, ["mean", "telea"]), (2, ["mean", "telea", "ours"]),
    ]  # fmt: skip
    assert sets["freeform"]["ways"] == sets["object"]["ways"]
    assert sets["freeform"]["hole"] == pytest.approx(hole.mean(), abs=1e-3)
    best = {way: m["psnr"] for way, m in sets["digits"]["ways"].items()}
    assert best["ours"] > best["mean"] + 3
    assert f"| digits | 2 | {sets['digits']['hole']:.0%} | ours | {best['ours']:.1f} |" in printed
    assert Image.open(tmp_path / "inpainting.png").width == 5 * 134 + 6


def test_speed_compares_the_same_pictures(modules, tmp_path, monkeypatch):
    speed = modules[2]
    small = dataclasses.replace(
        speed.pipelines.SHAPES["small"], size=32,
        unet={
            "block_out_channels": (32, 32), "layers_per_block": 1, "cross_attention_dim": 64,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
    )  # fmt: skip
    monkeypatch.setitem(speed.pipelines.SHAPES, "small", small)
    args = argparse.Namespace(
        out=tmp_path / "out.json", device="cpu", shape="small", pictures=5, steps=3, repaint_steps=4,
        precision="fp32", micro_batch=0, repeats=1,
    )  # fmt: skip
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
