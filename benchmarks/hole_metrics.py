"""How far a repair is from the picture that was there, where the hole was.

Pictures are uint8 [H, W, C], C is 1 or 3; a hole is bool [H, W], True where it was repaired, and not empty.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from skimage.metrics import structural_similarity


def psnr(truth_HWC: np.ndarray, repair_HWC: np.ndarray, hole_HW: np.ndarray) -> float:
    """dB over the hole's values alone: 10 log10(255^2 / mean squared error); infinity where they are equal."""
    off = truth_HWC[hole_HW].astype(np.float64) - repair_HWC[hole_HW]
    with np.errstate(divide="ignore"):
        return float(10 * np.log10(255**2 / np.square(off).mean()))


def ssim(truth_HWC: np.ndarray, repair_HWC: np.ndarray, hole_HW: np.ndarray) -> float:
    """scikit-image's map of SSIM, its mean over the hole's pixels and the channels; 1 where they are equal.

    As Wang et al. (2004) have it: a Gaussian window of sigma 1.5 (11 pixels wide), population covariances. A window
    near the edge of the hole reaches out of it; pixels outside count there, and nowhere else.
    """
    _, map_HWC = structural_similarity(
        truth_HWC, repair_HWC, data_range=255, channel_axis=-1, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    return float(map_HWC[hole_HW].mean())


class Lpips:
    """LPIPS 0.1 with AlexNet (Zhang et al., arXiv 1801.03924) of whole pictures; 0 where they are equal.

    The network is that of the package lpips, and so are the linear layers. A hole's share of the picture is in
    the number: compare what has the same holes only. Sides of about 64 pixels or more.
    """

    def __init__(self, features: Path) -> None:
        """``features``: a safetensors file with the layers of torchvision's AlexNet.features, trained on ImageNet."""
        import lpips
        from safetensors.torch import load_file

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision's, about how lpips asks it for a network
            self.net = lpips.LPIPS(pretrained=False, net="alex", pnet_rand=True, verbose=False).eval()
        linear = Path(lpips.__file__).parent / "weights/v0.1/alex.pth"
        state = torch.load(linear, map_location="cpu", weights_only=True)
        slices = {"0": 1, "3": 2, "6": 3, "8": 4, "10": 5}  # AlexNet's five convolutions in lpips
        for name, value in load_file(features).items():
            state[f"net.slice{slices[name.split('.')[0]]}.{name}"] = value
        missing, unexpected = self.net.load_state_dict(state, strict=False)
        assert not unexpected, unexpected
        # the linear layers go by a second name, lins; the scaling of colours is a constant
        assert all(key.startswith(("lins.", "scaling_layer.")) for key in missing), missing

    @torch.inference_mode()
    def __call__(self, truth_HWC: np.ndarray, repair_HWC: np.ndarray) -> float:
        return float(self.net(*(self._scaled(x) for x in (truth_HWC, repair_HWC))))

    @staticmethod
    def _scaled(x_HWC: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(x_HWC.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        return x.expand(1, 3, -1, -1)
