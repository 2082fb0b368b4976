"""Pictures -> unit features whose dot product is their similarity.

Each extractor is a function uint8 [B, side, side, 3] -> float32 [B, D] of length 1, or 0 for a picture
without content: its similarity to anything is 0. No extractor needs the rest of the data set, so shards can
be embedded in any order and as they arrive.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from noiseweave.engine.backbone import Backbone, shape
from noiseweave.engine.recipes import FeatureRecipe
from noiseweave.engine.seeding import generator

Extractor = Callable[[np.ndarray], np.ndarray]


def side(recipe: FeatureRecipe, model: str, size: int | None = None) -> int:
    """Side of the square pictures that the extractor wants; ``size`` is the job's own for the model's, if any."""
    if recipe.name == "pixels":
        return recipe.size
    if recipe.name == "unet":
        return shape(model, size)[1]
    return 224


def load(recipe: FeatureRecipe, backbone: Callable[[], Backbone], device: str = "cpu") -> Extractor:
    """The extractor of a recipe; ``backbone`` is called by ``unet`` alone.

    Raises:
        ValueError: weights that are missing here and cannot be downloaded: which, and how to get them.
    """
    if recipe.name == "pixels":
        return pixels
    if recipe.name == "unet":
        return unet(backbone(), recipe.noise_level)
    network = _resnet50(device) if recipe.name == "resnet50" else _transformer(recipe.name, device)
    return lambda image_BHWC: _in_batches(network, image_BHWC, recipe.batch, device)


def _unit(f_BD: Tensor) -> np.ndarray:
    return F.normalize(f_BD.float(), dim=1, eps=1e-6).cpu().numpy()


def pixels(image_BHWC: np.ndarray) -> np.ndarray:
    """Pixels less each picture's mean, at spread 1: the dot product of two is their correlation."""
    x_BD = torch.from_numpy(image_BHWC.reshape(len(image_BHWC), -1)).float()
    return _unit(x_BD - x_BD.mean(1, keepdim=True))


def unet(backbone: Backbone, noise_level: float) -> Extractor:
    """Mid-block activations of the diffusion model at one noise level (DIFT, Tang et al., arXiv 2306.03881).

    The same noise is added to every picture, and what the network answers to that noise on an empty (black)
    picture is taken off, so that the features speak of the picture alone.
    """
    steps = int(backbone.scheduler.config.num_train_timesteps)
    t = round(noise_level * (steps - 1))
    a = backbone.scheduler.alphas_cumprod[t].double()
    black = np.zeros((1, backbone.size, backbone.size, backbone.channels), np.uint8)
    black_1CHW = backbone.encode(black)
    g = generator(0, "features", "unet")
    noise_CHW = torch.randn(tuple(black_1CHW.shape[1:]), generator=g).to(backbone.device)

    def activations(x_0_BCHW: Tensor) -> Tensor:
        x = a.sqrt().to(x_0_BCHW) * x_0_BCHW + (1 - a).sqrt().to(x_0_BCHW) * noise_CHW
        return _middle(backbone, x, torch.full((len(x),), t, device=backbone.device))

    empty_1D = activations(black_1CHW)
    # a black picture differs from itself by the rounding of another batch size
    nothing = {torch.float32: 1e-4}.get(backbone.dtype, 2e-2) * float(empty_1D.norm())

    def extract(image_BHWC: np.ndarray) -> np.ndarray:
        x = image_BHWC.mean(-1, keepdims=True).round() if backbone.channels == 1 else image_BHWC
        f_BD = activations(backbone.encode(x.astype(np.uint8))) - empty_1D
        return _unit(f_BD * (f_BD.norm(dim=1, keepdim=True) > nothing))

    return extract


def _middle(backbone: Backbone, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
    """What the mid-block gives in epsilon(x, t): float32 [B, D]. A call out of memory leaves none."""
    last: list[Tensor] = []
    seen: list[Tensor] = []
    hooks = [
        backbone.unet.mid_block.register_forward_hook(lambda _m, _i, out: last.append(out.flatten(1))),
        backbone.unet.register_forward_hook(lambda _m, _i, _o: seen.append(last[-1])),
    ]
    try:
        backbone.epsilon(x_BCHW, t_B)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(seen).float()


def _in_batches(
    network: Callable[[Tensor], Tensor], image_BHWC: np.ndarray, batch: int, device: str
) -> np.ndarray:
    x_BCHW = torch.from_numpy(image_BHWC).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return _unit(torch.cat([network(x.to(device).float() / 255) for x in x_BCHW.split(batch)]))


def _resnet50(device: str) -> Callable[[Tensor], Tensor]:
    from torchvision.models import ResNet50_Weights, resnet50

    try:
        network = resnet50(weights=ResNet50_Weights.IMAGENET1K_V2)
    except Exception as e:
        file = ResNet50_Weights.IMAGENET1K_V2.url.rsplit("/", 1)[-1]
        raise ValueError(
            f"features.name='resnet50': its weights are not here and cannot be downloaded "
            f"({type(e).__name__}); put {file} into {torch.hub.get_dir()}/checkpoints, or use pixels or unet"
        ) from None
    network.fc = torch.nn.Identity()  # the pooled 2048 values
    network = network.to(device).eval()
    return lambda x: network(_normalise(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def _transformer(name: str, device: str) -> Callable[[Tensor], Tensor]:
    from transformers import AutoImageProcessor, AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        network = AutoModel.from_pretrained(name).to(device).eval()
        processor = AutoImageProcessor.from_pretrained(name)
    except Exception as e:
        why = f"{type(e).__name__}: {' '.join(str(e).split())[:160]}"
        raise ValueError(
            f"features.name={name!r}: no vision model in such a folder or on the hub; on a machine with "
            f"network run `hf download {name}`, give a folder, or use pixels or unet ({why})"
        ) from None
    tower = getattr(network, "vision_model", network)
    # what the model was used at: a DINOv2's own config says 518, its processor crops to 224
    size = (getattr(processor, "crop_size", None) or processor.size)["height"]

    def run(x: Tensor) -> Tensor:
        x = F.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)
        out = tower(pixel_values=_normalise(x, processor.image_mean, processor.image_std))
        pooled = getattr(out, "pooler_output", None)
        return pooled.flatten(1) if pooled is not None else out.last_hidden_state[:, 0]

    return run


def _normalise(x: Tensor, mean: list[float], std: list[float]) -> Tensor:
    m, s = (torch.tensor(v, device=x.device).view(1, -1, 1, 1) for v in (mean, std))
    return (x - m) / s
