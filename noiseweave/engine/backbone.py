"""A diffusion model as the algorithms see it: encode, denoise, decode and its time steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine import latents, pretrained, recipes, schedule, solver, tuning
from noiseweave.engine.conditioning import Classes, Condition, Words, classes_of, mixable
from noiseweave.engine.micro_batch import MicroBatch
from noiseweave.engine.recipes import Hears, ModelConfig, PromptRecipe, SolverName
from noiseweave.engine.schedule import Denoiser, Schedule, kept
from noiseweave.engine.tuning import DTYPES

FILES = ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json")
WEIGHTS = "unet/diffusion_pytorch_model*.safetensors"
LATENT = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "LDMPipeline")
ALIKE = 8
"""Rows of a call in half precision on a CPU: its kernels are chosen by the number of rows, and round differently. Up to
16 rows, which guidance makes of 8, they agree (measured with AMX), so that replay rounds as the inversion did."""


def alike(rows: int, device: str, precision: str) -> int:
    """The rows of a call, 0 for as many as ``MicroBatch`` picks: no more than round alike."""
    if precision == "fp32" or torch.device(device).type != "cpu":
        return rows
    return min(rows or ALIKE, ALIKE)


class Backbone:
    """A pixel-space DDPM (diffusers ``UNet2DModel`` + scheduler) with its micro-batching.

    Attributes:
        unet: a diffusers UNet2DModel; called as unet(x, t, return_dict=False)[0].
        scheduler: a diffusers scheduler; of it only time steps, alphas_cumprod and config are used.
        channels: 1 (grey) or 3 (RGB).
        size: side of the square pictures that it was made for.
        classes: that it can be told, 0 for none.
        shrink: pixels on a side of what the network sees.
        parts: the network in micro-batches, halved for good when memory runs out.
    """

    def __init__(
        self, unet: Any, scheduler: Any, device: str = "cpu", precision: str = "fp32", micro_batch: int = 0
    ) -> None:
        self.device, self.dtype = torch.device(device), DTYPES[precision]
        self.unet = unet.to(self.device, self.dtype).eval().requires_grad_(False)
        self.classes = (getattr(unet.config, "num_class_embeds", None) or 1) - 1
        if self.classes:
            mixable(self.unet)
        self.scheduler = scheduler
        self.channels = int(unet.config.in_channels)
        self.size = int(unet.config.sample_size)
        self.parts = MicroBatch(self._epsilon, micro_batch or alike(0, device, precision), self.device)

    shrink = 1

    def schedule(self, num_steps: int, skip: int = 0) -> Schedule:
        """The scheduler's own time steps, without the ``skip`` noisiest.

        Raises:
            ValueError: more steps than the model was trained with.
        """
        trained = int(self.scheduler.config.num_train_timesteps)
        recipes.check_steps("inversion.num_steps", num_steps, trained)
        self.scheduler.set_timesteps(num_steps)
        t_S = self.scheduler.timesteps
        beyond = max(0, int(t_S[0]) - trained + 1)  # with a steps_offset a whole chain begins after its end
        return kept(t_S - beyond, self.scheduler.alphas_cumprod, skip)

    def encode(self, image_BHWC: np.ndarray) -> Tensor:
        """uint8 [B, size, size, channels] -> float32 [B, C, H, W] in -1..1."""
        return latents.to_pixels(image_BHWC, self.device)

    def decode(self, x_BCHW: Tensor) -> np.ndarray:
        """float [B, C, H, W] -> uint8 [B, H, W, C], values outside -1..1 clipped.

        Raises:
            ValueError: pictures that are not finite.
        """
        image_BHWC, finite_B = self.decoded(x_BCHW)
        if not finite_B.all():
            raise ValueError("the model gives values that are not finite, in float32 too")
        return image_BHWC

    def decoded(self, x_BCHW: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """As decode, and bool [B]: which of the pictures are finite; the others mean nothing."""
        return latents.to_uint8(x_BCHW), x_BCHW.flatten(1).isfinite().all(1).cpu().numpy()

    @torch.inference_mode()
    def epsilon(self, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """The predicted noise, float32 [B, C, H, W], whatever the network predicts and runs in; it is told nothing."""
        return self._silence(x_BCHW, t_B) if self.classes else self.parts(x_BCHW, t_B)

    @cached_property
    def _silence(self) -> Denoiser:
        return self.told(self.labels([None]))

    def labels(self, labels: Sequence[int | None]) -> Classes:
        """P labels, for ``told``; None, and a class that the model does not know, is no class."""
        return classes_of(labels, self.classes, self.device)

    def told(self, words: Words | Classes, guidance: float = 1.0) -> Denoiser:
        """epsilon(x, t) of rows that are told prompts or labels: a denoiser whose row i is told words[i mod P].

        So B rows, or T times B with the time steps outermost, as an inversion has them, take B prompts.
        Classifier-free guidance (arXiv 2207.12598): untold + guidance (told - untold), both halves in one
        call; none where guidance is 1, or where the prompts say no more than no words.
        """
        scale = 1.0 if words.silent else guidance

        @torch.inference_mode()
        def epsilon(x_BCHW: Tensor, t_B: Tensor) -> Tensor:
            assert len(x_BCHW) % len(words) == 0, (len(x_BCHW), len(words))
            which_B = torch.arange(len(x_BCHW), device=self.device) % len(words)
            condition = Condition(words=words, guidance=scale, which_B=which_B)
            return self.parts(x_BCHW, t_B, condition)

        return epsilon

    def _epsilon(self, x: Tensor, t: Tensor, *told: Any) -> Tensor:
        """Rows that overflow in half precision are done once more in float32, whatever else is in the call."""
        t = t.to(self.device)
        out = self._noise(x, t, *told)
        bad_B = ~out.flatten(1).isfinite().all(1)
        if self.dtype == torch.float32 or not bad_B.any():
            return out
        half, self.dtype = self.dtype, torch.float32
        self.unet.to(torch.float32)
        try:
            out[bad_B] = self._noise(x[bad_B], t[bad_B], *(c[bad_B] for c in told))
        finally:
            self.dtype = half
            self.unet.to(half)
        return out

    def _noise(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        if condition is None:
            return self.noise_of(self.unet(x.to(self.dtype), t, return_dict=False)[0].float(), x, t)
        height, width = (int(side) * self.shrink for side in x.shape[2:])
        return self.noise_of(condition.predict(self.unet, x.to(self.dtype), t, (height, width)), x, t)

    def noise_of(self, out: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """What the network gives, float32 [B, C, H, W] -> the noise in x, whatever its target is."""
        a = self.scheduler.alphas_cumprod[t.cpu()].to(x.device).view(-1, 1, 1, 1)
        return schedule.noise_of(self.scheduler.config.prediction_type, out, x.float(), a)


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
    from noiseweave.engine.text_to_image import is_text_model

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
    from noiseweave.engine import latent_backbone

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


def check_classes(name: str, unet: Mapping[str, Any]) -> None:
    """Raise ValueError when a network is told something else than a class, or nothing."""
    if unet.get("class_embed_type") is not None:
        raise ValueError(
            f"model {name!r}: class_embed_type {unet['class_embed_type']!r}; supported are a table of classes and none"
        )


def classes(name: str) -> int:
    """How many classes a model is told, read from its configs alone; 0 for none."""
    folder = locate(name)
    return (pretrained.read(name, folder, "unet/config.json").get("num_class_embeds") or 1) - 1


def check_schedule(name: str, folder: Path) -> None:
    """Raise ValueError when a model is no diffusion with a noise schedule."""
    scheduler = str(pretrained.read(name, folder, "scheduler/scheduler_config.json").get("_class_name"))
    if scheduler.startswith("FlowMatch"):
        raise ValueError(
            f"model {name!r}: a flow ({scheduler}); noise maps need a noise schedule, as a DDPM has"
        )


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
    recipes.check_steps("inversion.num_steps", num_steps, pretrained.trained_steps(name, folder))
    if sampler != "ddim":
        config = pretrained.read(name, folder, "scheduler/scheduler_config.json")
        solver.schedule(SimpleNamespace(config=config), num_steps)
