"""What a model is, read once from its configs: its family, its pictures, its conditioning, its noise schedule."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from noiseweave.engine.checks import check
from noiseweave.engine.networks import latents, pretrained
from noiseweave.engine.networks.families.family import Family
from noiseweave.engine.networks.families.registry import BY_PIPELINE, FAMILIES
from noiseweave.engine.networks.recipes import BASELINES, KINDS, Conditioning, Kind, ModelConfig, Usual
from noiseweave.engine.records import Json

OWN = "NoiseweaveModel"
"""The pipeline of our models that diffusers has none for."""
LIBRARIES = ("diffusers", "transformers", "stable_diffusion")  # the last is diffusers' safety checker
NETWORKS = (
    "unet",
    "transformer",
    "vae",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
    "vqvae",
    "generator",
)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
BASE_FILES = ("*.json", "training_features.safetensors", "*/*.json", "*/*.safetensors")
# plain weights only: no fp16 or non-ema doubles, no pickles, no code
PIPELINE_FILES = (
    "model_index.json",
    "*/*.json",
    "*/merges.txt",
    "*/spiece.model",
    "*/*.jinja",
    "*/model.safetensors",
    "*/model-0*.safetensors",
    "*/diffusion_pytorch_model.safetensors",
    "*/diffusion_pytorch_model-0*.safetensors",
)
FP16_FILES = ("*/model.fp16*.safetensors", "*/diffusion_pytorch_model.fp16*.safetensors")
"""Asked for where a hub has a part's weights as no others."""
PIXEL_FILES = ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json")
PIXEL_WEIGHTS = "unet/diffusion_pytorch_model*.safetensors"

Config = Json


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """A model before it is loaded.

    Attributes:
        name: as the user gave it.
        folder: with all its files.
        pipeline: the class that model_index.json names.
        family: of ``families.registry`` for a pipeline with text encoders, else the kind of base model.
        channels: of its pictures, 1 or 3.
        side: of its square pictures, in pixels; the longer one where it was made for others.
        multiple: its sides are multiples of it, in pixels; 0 where it knows side x side alone.
        classes: that it can be conditioned on, 0 for none.
        guidance: of a model of classes: what its samples are drawn with where nothing is chosen.
        unet, vae, scheduler: their configs as read; empty where it has none. A baseline's own VAE is none of these;
            ``unet`` is the network that takes noise off, of a pipeline with a transformer that.
    """

    name: str
    folder: Path
    pipeline: str
    family: str
    channels: int
    side: int
    multiple: int
    classes: int = 0
    guidance: float = 1.0
    unet: Config = field(default_factory=dict)
    vae: Config = field(default_factory=dict)
    scheduler: Config = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """Of a base model: which."""
        assert self.conditioning != "text"
        return cast(Kind, self.family)

    @property
    def latent(self) -> bool:
        """Whether the network works on a VAE's latents, and not on pixels."""
        return bool(self.vae)

    @property
    def vae_scale_factor(self) -> int:
        """Pixels on a latent's side, 1 for a model of pixels."""
        return latents.vae_scale_factor(self.vae) if self.vae else 1

    @property
    def latent_channels(self) -> int:
        """Channels of the VAE's latents; diffusers' default where its config does not say."""
        return latents.latent_channels(self.vae)

    @property
    def conditioning(self) -> Conditioning:
        """What it can be conditioned on."""
        return "text" if self.family in FAMILIES else "class" if self.classes else "none"

    @property
    def reader(self) -> Family:
        """Of a pipeline that reads texts: its family."""
        return FAMILIES[self.family]

    @property
    def usual(self) -> Usual:
        """Of a pipeline that reads texts: what is taken of it where a user does not choose."""
        return self.reader.usual(self.unet, self.scheduler)

    @property
    def transformer(self) -> bool:
        """Whether its network is no U-Net."""
        return self.conditioning == "text" and self.reader.network == "transformer"

    @property
    def sees_holes(self) -> bool:
        """Whether its network takes the noisy latents, the mask and the masked picture's latents."""
        return self.conditioning == "text" and self.reader.sees_holes(self.unet, self.latent_channels)

    @property
    def network_channels(self) -> int:
        """Channels of latents that its network takes."""
        if self.conditioning == "text":
            return self.reader.channels(self.unet)
        return int(self.unet.get("in_channels") or 0)

    @property
    def path(self) -> Literal["vp", "straight"]:
        """The Gaussian path that it was trained on; a baseline has none and says vp."""
        flow = str(self.scheduler.get("_class_name")).startswith("FlowMatch")
        return "straight" if flow or self.family in ("flow", "linear_mixing") else "vp"

    @property
    def prediction(self) -> str:
        """What the network gives: flow, or as diffusers' schedulers of a noise schedule name it."""
        if self.path == "straight":
            return "sample" if self.family == "linear_mixing" else "flow"
        return str(self.scheduler.get("prediction_type") or "epsilon")

    @property
    def trained_steps(self) -> int:
        """Time steps of its noise schedule; diffusers' default where its config does not say."""
        return int(self.scheduler.get("num_train_timesteps", 1000))

    def check_fewest(self, field: str, steps: int) -> None:
        """Raise ValueError for a single step where its scheduler stretches the steps to a last level: that is 0 / 0."""
        single = steps == 1 and bool(self.scheduler.get("shift_terminal"))
        check(not single, field, steps, "2 or more, as the model's scheduler takes")


def read_facts(name: str, size: int | None = None) -> ModelFacts:
    """A shipped model, a folder or a hub id, read from its configs alone.

    Args:
        size: side of the pictures that is wanted, in pixels; None takes what the model was made for.

    Raises:
        ValueError: one line that names the model: what is missing, broken, of another kind, kept as pickle, which is
            never opened, or that it cannot take that size.
    """
    folder = pretrained.find(name, ["model_index.json"])
    index = pretrained.read(name, folder, "model_index.json")
    read = _read_pipeline if str(index.get("_class_name")) in BY_PIPELINE else _read_base
    return read(name, index, size)


def fingerprint(facts: ModelFacts, config: ModelConfig | None = None) -> str:
    """SHA-256 over the model's configs, vocabulary and weights, 16 hex digits: the same files, the same model.

    Args:
        config: adds the contents and weights of its LoRA files, whose hashes it has; None adds nothing.
    """
    folder = facts.folder
    if facts.conditioning == "text":
        kinds = (".json", ".txt", ".model", ".jinja", ".safetensors")
        files = [f for f in sorted(folder.glob("*/*")) if f.suffix in kinds]
    else:
        parts = [k for k in pretrained.read(facts.name, folder, "model_index.json") if not k.startswith("_")]
        inside = [f for part in sorted(parts) for f in sorted((folder / part).glob("*"))]
        files = [f for f in inside if f.suffix in (".json", ".safetensors")]
    own = pretrained.hash_files([folder / "model_index.json", *files])
    if config is None or not config.loras:
        return own
    assert config.lora_sha256 is not None, "the LoRA files were not looked at"
    said = json.dumps([own, config.lora_sha256, config.lora_weights])
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _read_pipeline(name: str, index: Config, size: int | None) -> ModelFacts:
    """A pipeline of one of the families."""
    folder, family = pretrained.find(name, PIPELINE_FILES), BY_PIPELINE[index["_class_name"]]
    if not all(any((folder / part).glob("*.safetensors")) for part in NETWORKS if part in index):
        pretrained.find(name, FP16_FILES)
    _check_parts(name, folder, index)
    lacks = next((part for part in family.parts if not (index.get(part) or [None])[0]), None)
    if lacks:
        raise ValueError(f"model {name!r}: a {index['_class_name']} without {lacks}, which it needs")
    unet, vae = (pretrained.read(name, folder, f"{part}/config.json") for part in (family.network, "vae"))
    side, factor = family.side(unet), latents.vae_scale_factor(vae)
    if not latents.blocks_of(vae) or not side:
        raise ValueError(f"model {name!r}: {folder} does not say the size of its pictures")
    made_for, most = side * factor, family.most(unet)
    if size is not None and most is not None and size > most * factor:
        raise ValueError(f"size={size}: model {name!r} takes at most {most * factor}")
    return ModelFacts(
        name=name,
        folder=folder,
        pipeline=str(index["_class_name"]),
        family=family.name,
        channels=int(vae.get("out_channels", 3)),
        # UNet2DConditionModel pads what it cannot halve, UNet2DModel does not
        side=_side(name, size, made_for, factor * family.patch),
        multiple=factor * family.patch,
        unet=unet,
        vae=vae,
        scheduler=pretrained.read(name, folder, "scheduler/scheduler_config.json"),
    )


def _read_base(name: str, index: Config, size: int | None) -> ModelFacts:
    """What ``noiseweave train`` wrote, or a diffusers DDPMPipeline or LDMPipeline from elsewhere."""
    pipeline = str(index.get("_class_name"))
    _check_family(name, index)  # before its weights are brought from a hub
    folder = pretrained.find(name, BASE_FILES)
    own = _read_own(name, folder)
    if own and own["kind"] in BASELINES:
        _check_weights(name, folder, index)
        kind, channels, side = own["kind"], own["channels"], _side(name, size, own["size"], 0)
        return ModelFacts(
            name=name, folder=folder, pipeline=pipeline, family=kind, channels=channels, side=side, multiple=0
        )
    unet = pretrained.read(name, folder, "unet/config.json")
    vae = pretrained.read(name, folder, "vqvae/config.json") if "vqvae" in index else {}
    scheduler = pretrained.read(name, folder, "scheduler/scheduler_config.json")
    _check_weights(name, folder, index)
    if not isinstance(unet.get("sample_size"), int) or not isinstance(unet.get("in_channels"), int):
        raise ValueError(f"model {name!r}: supported are square pictures")
    factor = latents.vae_scale_factor(vae) if vae else 1
    multiple = factor * 2 ** (len(unet.get("block_out_channels", (0,))) - 1) if vae else 0
    flow = str(scheduler.get("_class_name", "")).startswith("FlowMatch")
    # one embedding more than classes: the null class is the last
    classes = own["classes"] if own else max(0, (unet.get("num_class_embeds") or 1) - 1)
    return ModelFacts(
        name=name,
        folder=folder,
        pipeline=pipeline,
        family=own["kind"] if own else "flow" if flow else "ddpm",
        channels=own["channels"] if own else int(vae.get("out_channels", 3) if vae else unet["in_channels"]),
        side=_side(name, size, own["size"] if own else unet["sample_size"] * factor, multiple),
        multiple=multiple,
        classes=classes,
        guidance=float(own.get("guidance", 1)) if classes else 1.0,
        unet=unet,
        vae=vae,
        scheduler=scheduler,
    )


def _check_family(name: str, index: Config) -> None:
    """Raise ValueError, one line, for a pipeline of another family than ours."""
    pipeline, named = index.get("_class_name"), index.get("unet")
    unet_class = named[1] if isinstance(named, list) and len(named) == 2 else None
    if unet_class == "UNet2DModel" or pipeline == OWN:
        return
    what = f"a {pipeline}" if pipeline else "its model_index.json names no pipeline"
    unet = f", its unet is {unet_class}" if unet_class else ""
    known = f"pixel models (UNet2DModel), LDMPipeline, {', '.join(BY_PIPELINE)}"
    raise ValueError(f"model {name!r}: {what}{unet}; supported are {known}")


def _read_own(name: str, folder: Path) -> Json:
    """What ``noiseweave train`` wrote beside diffusers' files: kind, classes, size, channels; {} elsewhere."""
    if not (folder / "noiseweave.json").is_file():
        return {}
    own = pretrained.read(name, folder, "noiseweave.json")
    numbers = all(type(own.get(k)) is int for k in ("classes", "size", "channels"))
    if own.get("kind") not in KINDS or not numbers:
        raise ValueError(
            f"model {name!r}: {folder / 'noiseweave.json'} lacks kind, classes, size or channels"
        )
    guidance = own.setdefault("guidance", 1)
    ok = type(guidance) in (int, float) and 0 <= guidance <= 100
    check(ok, f"model {name!r}: guidance in noiseweave.json", guidance, "a number from 0 to 100")
    return own


def _side(name: str, size: int | None, own: int, multiple: int) -> int:
    if size is None:
        return own
    if multiple and (size < multiple or size % multiple):
        raise ValueError(f"size={size}: for model {name!r} a multiple of {multiple}")
    if not multiple and size != own:
        raise ValueError(f"size={size}: model {name!r} works on pixels, and on {own} x {own} of them alone")
    return size


def _check_parts(name: str, folder: Path, index: Config) -> None:
    """Raise ValueError, one line, where a pipeline's part is missing, has code of its own or is kept as pickle."""
    parts = {k: v for k, v in index.items() if isinstance(v, list) and len(v) == 2 and v[0]}
    for part, (library, _) in parts.items():
        if library not in LIBRARIES:
            raise ValueError(
                f"model {name!r}: {part} comes with code of its own ({library}), which is never run"
            )
        if not (folder / part).is_dir() or not any((folder / part).iterdir()):
            raise ValueError(f"model {name!r}: {part}/ is missing in {folder}")
        _check_part(name, folder, part)


def _check_weights(name: str, folder: Path, index: Config) -> None:
    """Raise ValueError, one line, where a base model's network has no safetensors."""
    for part in NETWORKS:
        if part in index:
            _check_part(name, folder, part)


def _check_part(name: str, folder: Path, part: str) -> None:
    files = sorted((folder / part).iterdir()) if (folder / part).is_dir() else []
    if any(f.suffix == ".safetensors" for f in files):
        return
    pickle = next((f for f in files if f.suffix in PICKLES), None)
    if pickle is not None:
        raise ValueError(
            f"model {name!r}: {part} has its weights only as pickle ({pickle.name}), which can run code and "
            "is never opened; save the pipeline again with save_pretrained(..., safe_serialization=True)"
        )
    if part in NETWORKS:
        raise ValueError(f"model {name!r}: {part}/*.safetensors is missing in {folder}")
