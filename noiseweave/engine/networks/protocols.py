"""What Noiseweave uses of diffusers' and transformers' classes, whose own types hide the configs behind dict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M")


class Network(Protocol):
    """A diffusers model."""

    config: Any

    @property
    def device(self) -> torch.device:
        """Where its weights are."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Its output: a tuple with ``return_dict=False``."""

    def to(self: M, *where: Any) -> M:
        """Moved, in place."""

    def eval(self: M) -> M:
        """In evaluation mode, in place."""

    def requires_grad_(self: M, requires_grad: bool = True) -> M:
        """Trained or frozen, in place."""


class Unet(Network, Protocol):
    """UNet2DModel or UNet2DConditionModel."""

    mid_block: nn.Module
    class_embedding: nn.Module | None
    register_forward_hook: Callable[..., Any]


class Autoencoder(Network, Protocol):
    """AutoencoderKL, AutoencoderTiny or AutoencoderKLQwenImage."""

    encode: Callable[..., Any]
    decode: Callable[..., Any]


class Scheduler(Protocol):
    """A diffusers scheduler."""

    config: Any
    from_config: Callable[..., Scheduler]
    alphas_cumprod: Tensor
    timesteps: Tensor
    sigmas: Tensor
    order: int
    init_noise_sigma: float
    model_outputs: list[Tensor]
    set_timesteps: Callable[..., None]
    set_begin_index: Callable[[int], None]
    add_noise: Callable[[Tensor, Tensor, Tensor], Tensor]
    scale_model_input: Callable[[Tensor, Tensor], Tensor]
    step: Callable[..., Any]


class Pipeline(Protocol):
    """A diffusers pipeline that reads texts; its network is ``unet`` or ``transformer``, as its family says."""

    vae: Any
    scheduler: Any
    tokenizer: Any
    components: dict[str, object]
    device: torch.device
    vae_scale_factor: int
    num_timesteps: int
    image_processor: Any
    encode_prompt: Callable[..., tuple[Any, ...]]
    safety_checker: Any
    feature_extractor: Any
    set_progress_bar_config: Callable[..., None]

    def __call__(self, **named: Any) -> Any:
        """Pictures, with what the pipeline says of them."""

    def to(self: M, *where: Any) -> M:
        """Moved, in place."""


Adding = Callable[[Pipeline], None]
"""Adds LoRA files to a pipeline's weights, which are float32, in place; see ``lora.weights.add``."""
