"""Pictures -> features: raw ones, for statistics, and unit ones, whose dot product is the pictures' similarity.

A raw extractor is a function uint8 [B, h, w, 3] -> float32 [B, D]. ``similarity`` makes unit features of raw ones: of
length 1, or 0 for a picture without content, whose similarity to anything is 0. No extractor needs the rest of the data
set, so shards can be embedded in any order and as they arrive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from noiseweave.engine import spans
from noiseweave.engine.features import classifier, networks
from noiseweave.engine.features.networks import PUBLISHED, FeatureNetwork
from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.networks import loading, paths
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.records import Json
from noiseweave.engine.seeding import generator

Extractor = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Space:
    """A feature space.

    Attributes:
        extract: uint8 [B, h, w, 3] -> raw features, float32 [B, D].
        classify: raw features [B, D] -> class probabilities, float32 [B, C]; None where it knows no classes.
    """

    extract: Extractor
    classify: Extractor | None = None


def side(recipe: FeatureRecipe, model: str, size: int | None = None) -> int:
    """Side of the square pictures that the extractor wants; ``size`` is the job's own for the model's, if any.

    Raises:
        ValueError: features of a U-Net, and the model has none.
    """
    if recipe.name == "pixels":
        return recipe.size
    if recipe.name == "unet":
        facts = loading.describe(model, size)
        if facts.transformer:
            raise ValueError(
                f"features.name='unet': model {model!r}, a {facts.pipeline}, has no U-Net; name other features"
            )
        return facts.side
    if folder := classifier.find(recipe.name):
        return classifier.about(folder)["size"]
    return 299 if recipe.name == "inception" else 224


def check_here(recipe: FeatureRecipe) -> None:
    """Look for what the extractor loads before any work begins, and download it where it is not here.

    Raises:
        ValueError: it is not to be had: which file, and where to put it.
    """
    if recipe.name in PUBLISHED:
        networks.check_published(recipe.name, recipe.weights)
    elif recipe.name not in ("pixels", "unet") and classifier.find(recipe.name) is None:
        networks.check_transformer(recipe.name)


def takes_whole(recipe: FeatureRecipe) -> bool:
    """Whether the extractor takes pictures of any size and resizes them itself, as pytorch-fid does."""
    return recipe.name == "inception"


def identity(recipe: FeatureRecipe, model: ModelConfig, size: int | None = None) -> Json:
    """What raw features depend on besides the picture: equal identities, equal features.

    Raises:
        ValueError: weights or a model that are missing.
    """
    name, about = recipe.name, {"name": recipe.name, "side": side(recipe, model.name, size)}
    if name == "unet":
        precision, files = model.precision, loading.fingerprint(loading.describe(model.name), model)
        return about | {"noise_level": recipe.noise_level, "model": files, "precision": precision}
    if name in PUBLISHED:
        return about | {"weights": networks.sha256(networks.weights_of(name, recipe.weights))}
    folder = classifier.find(name)
    if folder or Path(name).expanduser().is_dir():
        return about | {"name": Path(name).name, "weights": _digest(folder or Path(name).expanduser())}
    return about


def _digest(folder: Path) -> str:
    from noiseweave.engine.networks import pretrained

    return pretrained.hash_files(sorted(f for f in folder.iterdir() if f.suffix in (".json", ".safetensors")))


def label(identity: Json) -> str:
    """What a space is called in a report: inception alone is pytorch-fid's own, with the weights of that name."""
    name, weights = str(identity["name"]), str(identity.get("weights", ""))
    if name in PUBLISHED and not networks.is_published(name, weights):
        return f"{name}:{weights[:8]}"
    return name.rstrip("/").rsplit("/", 1)[-1]


def has_classes(recipe: FeatureRecipe) -> bool:
    """Whether the space gives class probabilities."""
    return recipe.name in PUBLISHED or classifier.find(recipe.name) is not None


def load(recipe: FeatureRecipe, backbone: Callable[[], Backbone], device: str = "cpu") -> Extractor:
    """The recipe's unit features; ``backbone`` is called by ``unet`` alone.

    Raises:
        ValueError: weights that are missing here and cannot be downloaded: which, and how to get them.
    """
    extract = load_space(recipe, backbone, device).extract
    return lambda image_BHWC: similarity(recipe, extract(image_BHWC))


def similarity(recipe: FeatureRecipe, f_BD: np.ndarray) -> np.ndarray:
    """Raw features -> unit features. Pixels lose each picture's mean first: a dot product is a correlation."""
    f = torch.from_numpy(f_BD).float()
    if recipe.name == "pixels":
        f = (f * 255).round()  # whole numbers have an exact mean: a flat picture is nothing
        f = f - f.mean(1, keepdim=True)
    return F.normalize(f, dim=1, eps=1e-6).numpy()


def load_space(recipe: FeatureRecipe, backbone: Callable[[], Backbone], device: str = "cpu") -> Space:
    """The recipe's raw features; ``backbone`` is called by ``unet`` alone.

    Raises:
        ValueError: as of ``load``.
    """
    if recipe.name == "pixels":
        return Space(extract=pixels)
    if recipe.name == "unet":
        return Space(extract=unet_features(backbone(), recipe.noise_level))
    if folder := classifier.find(recipe.name):
        network = _classifier(folder, device)
    elif recipe.name in PUBLISHED:
        file = networks.weights_of(recipe.name, recipe.weights)
        network = networks.load(recipe.name, file, device)
    else:
        network = networks.transformer(recipe.name, device)
    head = network.head
    return Space(
        extract=lambda image_BHWC: _in_batches(network.run, image_BHWC, recipe.batch, device),
        classify=None if head is None else lambda f_BD: _probabilities(f_BD, *head),
    )


def _classifier(folder: Path, device: str) -> FeatureNetwork:
    network = classifier.load(folder).to(device)

    def run(x: Tensor) -> Tensor:
        grey = x.mean(1, keepdim=True) if network.channels == 1 else x
        return network.features(grey * 2 - 1)

    return FeatureNetwork(run=run, head=(network.last.weight, network.last.bias))


def _probabilities(f_BD: np.ndarray, weight_CD: Tensor, bias_C: Tensor | None) -> np.ndarray:
    weight, bias = weight_CD.cpu(), None if bias_C is None else bias_C.cpu()
    return F.linear(torch.from_numpy(f_BD), weight, bias).softmax(1).numpy()


def pixels(image_BHWC: np.ndarray) -> np.ndarray:
    """The pixels, 0..1, one picture after another."""
    return image_BHWC.reshape(len(image_BHWC), -1).astype(np.float32) / 255


def unet_features(backbone: Backbone, noise_level: float) -> Extractor:
    """Mid-block activations of the diffusion model at one noise level (DIFT, Tang et al., arXiv 2306.03881).

    The same noise is added to every picture, and what the network answers to that noise on an empty (black)
    picture is taken off, so that the features speak of the picture alone.
    """
    t, alpha, sigma = paths.noise_level(backbone.scheduler, noise_level)
    black = np.zeros((1, backbone.size, backbone.size, backbone.channels), np.uint8)
    black_1CHW = backbone.encode(black)
    g = generator(0, "features", "unet")
    noise_CHW = torch.randn(tuple(black_1CHW.shape[1:]), generator=g).to(backbone.device)

    def activations(x_0_BCHW: Tensor) -> Tensor:
        x = alpha.to(x_0_BCHW) * x_0_BCHW + sigma.to(x_0_BCHW) * noise_CHW
        return _middle(backbone, x, torch.full((len(x),), t, device=backbone.device))

    empty_1D = activations(black_1CHW)
    # a black picture differs from itself by the rounding of another batch size
    nothing = {torch.float32: 1e-4}.get(backbone.dtype, 2e-2) * float(empty_1D.norm())

    def extract(image_BHWC: np.ndarray) -> np.ndarray:
        x = image_BHWC.mean(-1, keepdims=True).round() if backbone.channels == 1 else image_BHWC
        x_0_BCHW = backbone.encode(x.astype(np.uint8))
        with spans.span(0, 1):
            f_BD = activations(x_0_BCHW) - empty_1D
        return (f_BD * (f_BD.norm(dim=1, keepdim=True) > nothing)).cpu().numpy()

    return extract


def _middle(backbone: Backbone, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
    """What the mid-block gives of x at t: float32 [B, D]. A call out of memory leaves none."""
    last: list[Tensor] = []
    seen: list[Tensor] = []
    hooks = [
        backbone.unet.mid_block.register_forward_hook(lambda _m, _i, out: last.append(out.flatten(1))),
        backbone.unet.register_forward_hook(lambda _m, _i, _o: seen.append(last[-1])),
    ]
    try:
        backbone.denoise(x_BCHW, t_B)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(seen).float()


def _in_batches(
    network: Callable[[Tensor], Tensor], image_BHWC: np.ndarray, batch: int, device: str
) -> np.ndarray:
    x_BCHW = torch.from_numpy(image_BHWC).permute(0, 3, 1, 2)
    with torch.inference_mode():
        parts = [network(x.to(device).float() / 255).float().cpu() for x in spans.steps(x_BCHW.split(batch))]
    return torch.cat(parts).numpy()
