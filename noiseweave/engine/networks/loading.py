"""What a model is, and the way to it: its folder, what it takes, its fingerprint, the loaded network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from noiseweave.engine import checks
from noiseweave.engine.diffusion import dpm_solver
from noiseweave.engine.diffusion.recipes import SolverName
from noiseweave.engine.networks import pretrained, tuning
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.networks.facts import check_classes, check_schedule
from noiseweave.engine.networks.recipes import Hears, ModelConfig, PromptRecipe

FILES = ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json")
WEIGHTS = "unet/diffusion_pytorch_model*.safetensors"
LATENT = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "LDMPipeline")


def is_latent(name: str) -> bool:
    """Whether a model works on a VAE's latents; latent_backbone.py knows those.

    Raises:
        ValueError: there is no such model.
    """
    folder = pretrained.find(name, ["model_index.json"])
    if not (folder / "model_index.json").is_file():
        return False
    index = pretrained.read(name, folder, "model_index.json")
    return "vqvae" in index or index.get("_class_name") in LATENT


def hears(name: str, prompt: PromptRecipe) -> Hears:
    """What a model is told of each picture: words, its class, or nothing.

    Raises:
        ValueError: the prompt says something that it cannot be told.
    """
    from noiseweave.engine.networks.text_pipeline import is_text_model

    if is_text_model(name):
        return "words"
    given = prompt.given(guidance=not classes(name))
    if given:
        raise ValueError(
            f"{given}: model {name!r} reads no words; prompts are for {' and '.join(LATENT[:2])}"
        )
    return "classes" if classes(name) else "nothing"


def locate(name: str) -> Path:
    """A shipped model's name, a folder or a hub id -> the folder with its files.

    Raises:
        ValueError: what is missing, and how to get it.
    """
    if is_latent(name):
        return latent_backbone().locate(name)
    folder = pretrained.find(name, [*FILES, "unet/*.safetensors"])
    missing = [f for f in FILES if not (folder / f).is_file()]
    if not missing and not any(folder.glob(WEIGHTS)):
        missing = ["unet/diffusion_pytorch_model.safetensors"]
    if missing:
        raise ValueError(
            f"model {name!r}: {missing[0]} is missing in {folder}; needed is a folder written by "
            "`noiseweave train` or by a diffusers pixel pipeline's save_pretrained"
        )
    return folder


def latent_backbone() -> Any:
    """The module, which stands on this one."""
    from noiseweave.engine.networks import latent_backbone

    return latent_backbone


def load(config: ModelConfig, device: str = "cpu", size: int | None = None) -> Backbone:
    """Load a model: a LatentBackbone for one that works on latents.

    Args:
        size: side of the pictures, in pixels; None takes what the model was made for, and a pixel model has
            no other.

    Raises:
        ValueError: one line, when it is missing, broken, of another kind, or cannot take that size.
    """
    if is_latent(config.name):
        return latent_backbone().load(config, device, size)
    from diffusers import DDIMScheduler, UNet2DModel

    pretrained.quiet()
    folder = locate(config.name)
    shape(config.name, size)
    with pretrained.one_line(config.name, folder):
        unet = UNet2DModel.from_pretrained(folder, subfolder="unet", use_safetensors=True)
        scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    tuning.tune(unet, config, device)
    return Backbone(unet, scheduler, device, config.precision, config.micro_batch)


def _check_kind(name: str, folder: Path) -> None:
    index = pretrained.read(name, folder, "model_index.json")
    kind = (index.get("unet") or [None, None])[1]
    if kind != "UNet2DModel":
        raise ValueError(
            f"model {name!r}: its unet is {kind}; supported are pixel models (UNet2DModel) and {', '.join(LATENT)}"
        )
    check_schedule(name, folder)
    unet = pretrained.read(name, folder, "unet/config.json")
    channels, size = unet.get("in_channels"), unet.get("sample_size")
    if channels not in (1, 3) or unet.get("out_channels") != channels:
        raise ValueError(f"model {name!r}: {channels} channels in; supported are 1 or 3, and as many out")
    if not isinstance(size, int):
        raise ValueError(f"model {name!r}: supported are square pictures")
    check_classes(name, unet)


def classes(name: str) -> int:
    """How many classes a model is told, read from its configs alone; 0 for none."""
    folder = locate(name)
    return (pretrained.read(name, folder, "unet/config.json").get("num_class_embeds") or 1) - 1


def fingerprint(name: str) -> str:
    """SHA-256 over the model's configs and weights (16 hex digits): the same files, the same model."""
    if is_latent(name):
        return latent_backbone().fingerprint(name)
    folder = locate(name)
    return pretrained.fingerprint([*(folder / f for f in FILES), *sorted(folder.glob(WEIGHTS))])


def shape(name: str, size: int | None = None) -> tuple[int, int]:
    """(channels, side) of a model's pictures, read from its configs alone.

    Args:
        size: the side that is wanted; None takes what the model was made for.

    Raises:
        ValueError: the model is of another kind, or cannot take that size.
    """
    if is_latent(name):
        return latent_backbone().shape(name, size)
    folder = locate(name)
    _check_kind(name, folder)
    config = pretrained.read(name, folder, "unet/config.json")
    own = int(config["sample_size"])
    if size not in (None, own):
        raise ValueError(f"size={size}: model {name!r} works on pixels, and on {own} x {own} of them alone")
    return int(config["in_channels"]), own


def check_steps(name: str, num_steps: int, sampler: SolverName = "ddim") -> None:
    """Raise ValueError when a chain has more steps than the model was trained with, or its sampler can take."""
    folder = locate(name)
    checks.check_steps("inversion.num_steps", num_steps, pretrained.trained_steps(name, folder))
    if sampler != "ddim":
        config = pretrained.read(name, folder, "scheduler/scheduler_config.json")
        dpm_solver.schedule(SimpleNamespace(config=config), num_steps)
