"""PSNR, SSIM and LPIPS against closed forms, the textbook and the paper."""

from pathlib import Path

import numpy as np
import pytest
import torch
from shared_data import ALEXNET

from noiseweave.engine.judging import picture_metrics as metrics


def holed(size=40, seed=0):
    """A noisy picture and a square hole in it."""
    image = np.random.default_rng(seed).integers(0, 200, (size, size, 3), dtype=np.uint8)
    hole = np.zeros((size, size), bool)
    hole[4:20, 6:24] = True
    return image, hole


def test_psnr_is_that_of_the_hole_alone():
    image, hole = holed()
    other = np.where(hole[..., None], image + np.uint8(16), 255 - image)
    assert metrics.psnr(image, other, hole) == pytest.approx(20 * np.log10(255 / 16))
    half = hole & (np.arange(40) % 2 == 0)  # 10 log10 2 less error
    some = np.where(half[..., None], image + np.uint8(16), image)
    assert metrics.psnr(image, some, hole) == pytest.approx(20 * np.log10(255 / 16) + 10 * np.log10(2))
    assert metrics.psnr(image, image, hole) == np.inf


def test_ssim_of_flat_pictures_is_the_ratio_of_their_means():
    hole = holed()[1]
    a, b, c_1 = 100, 140, (0.01 * 255) ** 2
    flat = [np.full((40, 40, 3), v, np.uint8) for v in (a, b)]
    assert metrics.ssim(*flat, hole) == pytest.approx((2 * a * b + c_1) / (a * a + b * b + c_1), rel=1e-6)


def test_ssim_is_the_textbooks_at_a_pixel_and_reaches_five_pixels():
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


@pytest.mark.shared
def test_lpips_is_the_papers_formula_with_these_weights():
    """arXiv 1801.03924, equation 1, written out with the files' own tensors."""
    import lpips as package
    from safetensors.torch import load_file
    from torch.nn import functional as F

    state = load_file(ALEXNET)
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
    lpips = metrics.Lpips(ALEXNET)
    assert lpips(image, other) == pytest.approx(float(distance), rel=1e-4)
    assert lpips(image, image) == 0
    grey = image[..., :1]
    assert lpips(grey, other[..., :1]) == pytest.approx(
        lpips(grey.repeat(3, -1), other[..., :1].repeat(3, -1))
    )


def test_whole_pictures_have_scikit_images_own_figures():
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    image, other = holed()[0], holed(seed=1)[0]
    assert metrics.psnr(image, other) == pytest.approx(peak_signal_noise_ratio(image, other), rel=1e-12)
    theirs = structural_similarity(
        image,
        other,
        data_range=255,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert metrics.ssim(image, other) == pytest.approx(theirs, rel=1e-6)
    with pytest.raises(ValueError, match="too_small: 40x9"):
        metrics.ssim(image[:9], other[:9])


@pytest.mark.shared
def test_lpips_of_regions_is_near_that_of_the_whole_and_0_where_nothing_changed(tmp_path):
    image, hole = holed(128)
    changed = np.where(hole[..., None], 255 - image, image)
    lpips = metrics.Lpips(ALEXNET)
    inside, outside, everywhere = (lpips(image, changed, r) for r in (hole, ~hole, np.ones_like(hole)))
    assert everywhere == pytest.approx(
        lpips(image, changed), rel=0.1
    )  # maps stretched before the mean, or not
    assert everywhere == pytest.approx(inside * hole.mean() + outside * (1 - hole.mean()), rel=1e-4)
    assert inside > 5 * outside
    with pytest.raises(ValueError, match="too_small"):
        lpips(image[:20], changed[:20])
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match="lpips_weights"):
        metrics.Lpips(tmp_path / "odd.pth")
