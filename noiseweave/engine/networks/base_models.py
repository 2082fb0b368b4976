"""A trained base model as it is kept and drawn from: what kind it is, its networks, its folder.

A folder is a diffusers one where diffusers has such a pipeline (``DDPMPipeline`` for pixels, ``LDMPipeline`` for
latents), so that it opens without Noiseweave; a ``noiseweave.json`` in it says what diffusers has no word for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine.diffusion.path import Prediction
from noiseweave.engine.networks import dcgan, latents, paths, pretrained, tuning, vae
from noiseweave.engine.networks.backbone import DTYPES
from noiseweave.engine.networks.facts import BASE_FILES, OWN, ModelFacts, read_facts
from noiseweave.engine.networks.protocols import Autoencoder
from noiseweave.engine.networks.recipes import BASELINES, Kind, ModelConfig
from noiseweave.engine.records import Json


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A generator of pictures.

    Attributes:
        kind: of networks.recipes.KINDS.
        network: UNet2DModel; VAE; or the DCGAN's Generator.
        classes: that it is conditioned on, 0 none; the label ``classes`` itself means no class.
        size, channels: of its pictures.
        noise_shape: of what one picture is made from: [C, H, W] or [latent].
        scheduler: diffusers scheduler of a UNet2DModel, else None.
        encoder: frozen diffusers VAE that the network's latents belong to, or None.
        micro_batch: rows in one network call, 0 picks.
    """

    kind: Kind
    network: Any
    classes: int
    size: int
    channels: int
    noise_shape: tuple[int, ...]
    scheduler: Any = None
    encoder: Any = None
    micro_batch: int = 0

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the network's weights."""
        return self.network.dtype

    @property
    def prediction(self) -> Prediction:
        """What a UNet2DModel gives; linear mixing, whose scheduler is a flow's, gives the picture."""
        return "sample" if self.kind == "linear_mixing" else paths.prediction_of(self.scheduler)


def pictures_of(model: BaseModel, x_BCHW: Tensor) -> np.ndarray:
    """What the network draws -> uint8 [B, H, W, channels]; latents are decoded first."""
    if model.encoder is not None:
        x_BCHW = latents.decode(model.encoder, x_BCHW)
    return latents.to_uint8(x_BCHW)


def latent_shape(encoder: Autoencoder, size: int) -> tuple[int, int, int]:
    """[C, H, W] of the latents of square pictures.

    Raises:
        ValueError: the VAE cannot take that size.
    """
    factor = latents.vae_scale_factor(encoder.config)
    if size % factor:
        raise ValueError(f"data.size={size}: a multiple of {factor}, the scale factor of model.vae")
    return int(encoder.config.latent_channels), size // factor, size // factor


def _encoder_folder(name: str) -> Path:
    folder = pretrained.find(name, BASE_FILES)
    return folder / "vae" if (folder / "vae" / "config.json").is_file() else folder


def encoder_config(name: str) -> Json:
    """The config of what ``load_encoder`` opens.

    Raises:
        ValueError: one line, when it is missing.
    """
    return pretrained.read(name, _encoder_folder(name), "config.json")


def encoder_hash(name: str) -> str:
    """SHA-256 of the weights of what ``load_encoder`` opens, 16 hex digits."""
    folder = pretrained.find(name, BASE_FILES)
    return pretrained.hash_files(sorted(folder.rglob("*.safetensors")))


def load_encoder(name: str, device: str = "cpu") -> Autoencoder:
    """A frozen AutoencoderKL or AutoencoderTiny from a folder, a hub id, or the vae/ of a pipeline's folder.

    Raises:
        ValueError: one line, when it is missing or of another kind.
    """
    import diffusers

    pretrained.quiet()
    folder = _encoder_folder(name)
    kind = encoder_config(name).get("_class_name")
    if kind not in ("AutoencoderKL", "AutoencoderTiny"):
        raise ValueError(f"model.vae={name!r}: a {kind}; supported are AutoencoderKL and AutoencoderTiny")
    vae = _from_pretrained(getattr(diffusers, kind), name, folder)
    if kind == "AutoencoderTiny" and device == "cpu":  # 1.2 x as fast there at 256 pixels, see docs/speed.md
        vae.to(memory_format=torch.channels_last)
    return vae.to(device, torch.float32).eval().requires_grad_(False)


def _from_pretrained(kind: Any, name: str, folder: Path) -> Any:
    with pretrained.one_line(name, folder):
        half = pretrained.variant(folder)
        return kind.from_pretrained(folder, use_safetensors=True, low_cpu_mem_usage=False, variant=half)


def save(model: BaseModel, folder: Path, dtype: torch.dtype) -> None:
    """Write the folder; the weights in ``dtype``."""
    pretrained.quiet()
    network = model.network.to(dtype)
    about = {"kind": model.kind, "classes": model.classes, "size": model.size, "channels": model.channels}
    parts: Json = {_baseline(model.kind)[0]: network} if model.kind in BASELINES else {"unet": network}
    if model.kind not in BASELINES:
        parts["scheduler"] = model.scheduler
    if model.encoder is not None:
        parts["vqvae"] = model.encoder
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        _forget_origin(folder / name / "config.json")
    index = {"_class_name": _pipeline(model)} | {name: _origin(part) for name, part in parts.items()}
    (folder / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")
    (folder / "noiseweave.json").write_text(json.dumps(about, indent=1) + "\n")


def _forget_origin(config: Path) -> None:
    """Take out of a part's config where on this machine it was loaded from."""
    if config.is_file():
        known = json.loads(config.read_text())
        known.pop("_name_or_path", None)
        config.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")


def _pipeline(model: BaseModel) -> str:
    """diffusers' pipeline that draws from such a folder, or a name that it will refuse."""
    if model.kind not in ("ddpm", "flow"):
        return OWN
    return "DDPMPipeline" if model.encoder is None else "LDMPipeline"


def _origin(part: object) -> list[str]:
    """[library, class], as diffusers' index has it."""
    return [type(part).__module__.split(".")[0], type(part).__name__]


def load(config: ModelConfig, device: str = "cpu", facts: ModelFacts | None = None) -> BaseModel:
    """Load what ``save`` wrote, or a diffusers DDPMPipeline or LDMPipeline from elsewhere.

    Args:
        facts: what ``read_facts`` says of it, where that is known.

    Raises:
        ValueError: one line, when it is missing, broken or of another kind.
    """
    pretrained.quiet()
    facts = facts or read_facts(config.name)
    build = _load_baseline if _kind(facts) in BASELINES else _load_unet
    model = build(config, facts, device)
    config, precision = tuning.settled_here(config, device)
    model.network.to(device, DTYPES[precision]).eval().requires_grad_(False)
    tuning.tune(model.network, config, device)
    return model


def _kind(facts: ModelFacts) -> Kind:
    if facts.conditioning == "text":
        raise ValueError(f"model {facts.name!r}: a {facts.pipeline}; base models have a UNet2DModel")
    return facts.kind


def _baseline(kind: str) -> tuple[str, Any]:
    """The sub-folder and the class of the network that draws."""
    return {"vae": ("vae", vae.VAE), "dcgan": ("generator", dcgan.Generator)}[kind]


def _load_baseline(config: ModelConfig, facts: ModelFacts, device: str) -> BaseModel:
    part, network_class = _baseline(facts.family)
    network = _from_pretrained(network_class, config.name, facts.folder / part)
    return BaseModel(
        kind=_kind(facts),
        network=network,
        classes=0,
        size=facts.side,
        channels=facts.channels,
        noise_shape=(network.config.latent,),
        micro_batch=config.micro_batch,
    )


def _load_unet(config: ModelConfig, facts: ModelFacts, device: str) -> BaseModel:
    import diffusers

    network = _from_pretrained(diffusers.UNet2DModel, config.name, facts.folder / "unet")
    encoder = load_encoder(str(facts.folder / "vqvae"), device) if facts.latent else None
    flow = facts.path == "straight"
    scheduler_class: Any = diffusers.FlowMatchEulerDiscreteScheduler if flow else diffusers.DDPMScheduler
    side = int(network.config.sample_size)
    with pretrained.one_line(config.name, facts.folder / "scheduler"):
        scheduler = scheduler_class.from_pretrained(facts.folder / "scheduler")
    return BaseModel(
        kind=_kind(facts),
        network=network,
        classes=facts.classes,
        size=facts.side,
        channels=facts.channels,
        noise_shape=(int(network.config.in_channels), side, side),
        scheduler=scheduler,
        encoder=encoder,
        micro_batch=config.micro_batch,
    )
