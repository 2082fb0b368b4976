"""How near a picture is to the one that it should be: PSNR, SSIM, LPIPS; whole, or over a region.

Pictures are uint8 [H, W, C], C is 1 or 3; a region is bool [H, W] and not empty, None is the whole picture.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from skimage.metrics import structural_similarity

from noiseweave.engine.records import Json

WINDOW = 11
"""Pixels across SSIM's window: no side of a picture may be shorter."""
ALEXNET = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
LEAST_SIDE = 32
"""Shortest side that AlexNet's layers take."""


def squared_error(truth_HWC: np.ndarray, other_HWC: np.ndarray, region_HW: np.ndarray | None = None) -> float:
    """Mean squared error of the region's values, 0..65025."""
    where = slice(None) if region_HW is None else region_HW
    return float(np.square(truth_HWC[where].astype(np.float64) - other_HWC[where]).mean())


def decibels(error: float, peak: float = 255.0) -> float:
    """Mean squared error -> PSNR, 10 log10(peak^2 / error); infinity where it is 0."""
    return float(10 * np.log10(peak**2 / error)) if error > 0 else np.inf


def psnr(truth_HWC: np.ndarray, other_HWC: np.ndarray, region_HW: np.ndarray | None = None) -> float:
    """dB over the region's values alone; infinity where they are equal."""
    return decibels(squared_error(truth_HWC, other_HWC, region_HW))


def ssim_map(truth_HWC: np.ndarray, other_HWC: np.ndarray) -> np.ndarray:
    """scikit-image's map of SSIM, float [H, W], the channels' mean.

    As Wang et al. (2004) have it: a Gaussian window of sigma 1.5 (11 pixels wide), population covariances.

    Raises:
        ValueError: ``"too_small: ..."``.
    """
    if min(truth_HWC.shape[:2]) < WINDOW:
        height, width = truth_HWC.shape[:2]
        raise ValueError(f"too_small: {width}x{height}; SSIM's window needs {WINDOW} pixels a side")
    _, map_HWC = structural_similarity(
        truth_HWC,
        other_HWC,
        data_range=255,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return map_HWC.mean(-1)


def ssim(truth_HWC: np.ndarray, other_HWC: np.ndarray, region_HW: np.ndarray | None = None) -> float:
    """SSIM over the region's pixels; 1 where they are equal.

    Of a whole picture it is scikit-image's own figure, which leaves out what lies within 5 pixels of the border. A
    window near the edge of a region reaches out of it; pixels outside count there, and nowhere else.
    """
    return map_mean(ssim_map(truth_HWC, other_HWC), region_HW)


def map_mean(map_HW: np.ndarray, region_HW: np.ndarray | None = None) -> float:
    """Mean of a map of SSIM over a region."""
    edge = WINDOW // 2
    return float(map_HW[edge:-edge, edge:-edge].mean() if region_HW is None else map_HW[region_HW].mean())


class Lpips:
    """LPIPS 0.1 with AlexNet (Zhang et al., arXiv 1801.03924); 0 where pictures are equal.

    The network is that of the package lpips, and so are the linear layers. Over a region it is the mean there of the
    package's spatial map, each layer's part of it brought to the picture's size.
    """

    def __init__(self, features: Path, device: str = "cpu") -> None:
        """``features``: torchvision's AlexNet, or its ``features`` alone, trained on ImageNet (.pth, .safetensors).

        Raises:
            ValueError: the package is missing, or the file does not fit.
        """
        try:
            import lpips
        except ImportError:
            raise ValueError(
                "metrics=['lpips']: the package lpips is missing; install it with pip install 'noiseweave[evaluate]'"
            ) from None

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's, about how lpips asks it for a network
            self.net = lpips.LPIPS(pretrained=False, net="alex", pnet_rand=True, verbose=False).eval()
        linear = Path(lpips.__file__).parent / "weights/v0.1/alex.pth"
        state = torch.load(linear, map_location="cpu", weights_only=True) | _alexnet(features)
        try:
            missing, unexpected = self.net.load_state_dict(state, strict=False)
        except RuntimeError as e:
            why = " ".join(str(e).split())[:160]
            raise ValueError(f"lpips_weights={str(features)!r}: not AlexNet's layers ({why})") from None
        # the linear layers go by a second name, lins; the scaling of colours is a constant
        odd = [key for key in missing if not key.startswith(("lins.", "scaling_layer."))]
        if odd or unexpected:
            raise ValueError(
                f"lpips_weights={str(features)!r}: not AlexNet's layers ({(odd + unexpected)[0]})"
            )
        self.net.to(device).requires_grad_(False)
        self.device = device

    @torch.inference_mode()
    def __call__(
        self, truth_HWC: np.ndarray, other_HWC: np.ndarray, region_HW: np.ndarray | None = None
    ) -> float:
        """LPIPS of two pictures, uint8 [H, W, C]; of a region, the mean of its map there."""
        self.net.spatial = region_HW is not None
        map_HW = self.net(*(self._scaled(x) for x in (truth_HWC, other_HWC)))[0, 0].cpu()
        return float(map_HW if region_HW is None else map_HW[torch.from_numpy(region_HW)].double().mean())

    def _scaled(self, x_HWC: np.ndarray) -> torch.Tensor:
        """Raises ValueError, ``"too_small: ..."``."""
        height, width = x_HWC.shape[:2]
        if min(height, width) < LEAST_SIDE:
            raise ValueError(f"too_small: {width}x{height}; LPIPS needs {LEAST_SIDE} pixels a side")
        x = torch.from_numpy(x_HWC.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        return x.expand(1, 3, -1, -1).to(self.device)


def _alexnet(path: Path) -> dict[str, torch.Tensor]:
    """The five convolutions, called as lpips calls them."""
    from safetensors.torch import load_file

    slices = {"0": 1, "3": 2, "6": 3, "8": 4, "10": 5}
    try:
        held: Json = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        names = {k.removeprefix("features."): v for k, v in held.items() if not k.startswith("classifier.")}
        return {f"net.slice{slices[k.split('.')[0]]}.{k}": v for k, v in names.items()}
    except Exception as e:
        why = f"{type(e).__name__}: {' '.join(str(e).split())[:160]}"
        raise ValueError(f"lpips_weights={str(path)!r}: no AlexNet ({why})") from None


def alexnet_weights(given: str | None) -> Path:
    """The file with AlexNet's weights: the one given, torch hub's copy, or downloaded now.

    Raises:
        ValueError: it is not there and cannot be downloaded.
    """
    from noiseweave.engine.features import networks

    return networks.fetched("metrics=['lpips']", ALEXNET, given, "lpips_weights")
