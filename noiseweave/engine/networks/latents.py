"""Pictures and what a network sees of them: pixels in -1..1, or a VAE's scaled latents (arXiv 2112.10752).

B pictures of C channels, H x W; z are latents. A VAE is diffusers' AutoencoderKL, AutoencoderTiny or
AutoencoderKLQwenImage: that one is of videos, [B, C, frames, H, W], and a picture is its one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine.networks.protocols import Autoencoder
from noiseweave.engine.records import Json


def to_pixels(image_BHWC: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """uint8 [B, H, W, C] -> float32 [B, C, H, W] in -1..1."""
    x = torch.from_numpy(np.array(image_BHWC)).to(device).permute(0, 3, 1, 2)
    return x.float() / 127.5 - 1


def to_uint8(x_BCHW: Tensor) -> np.ndarray:
    """float [B, C, H, W] -> uint8 [B, H, W, C], values outside -1..1 clipped."""
    x = (x_BCHW.float().clamp(-1, 1) + 1) * 127.5
    return x.round().byte().permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def encode(vae: Autoencoder, x_BCHW: Tensor) -> Tensor:
    """Pictures in -1..1 -> scaled latents, float32: the mode of an AutoencoderKL's distribution."""
    x, video = x_BCHW.to(vae.device, vae.dtype), _of_videos(vae.config)
    out = vae.encode(x.unsqueeze(2) if video else x)
    z = (out.latent_dist.mode() if hasattr(out, "latent_dist") else out.latents).float()
    z = z.squeeze(2) if video else z
    shift, scale = _affine(vae.config, z)
    return (z - shift) * scale


@torch.no_grad()
def decode(vae: Autoencoder, z_BCHW: Tensor) -> Tensor:
    """Scaled latents -> pictures in about -1..1, float32."""
    shift, scale = _affine(vae.config, z_BCHW)
    z, video = (z_BCHW.float() / scale + shift).to(vae.dtype), _of_videos(vae.config)
    x = vae.decode(z.unsqueeze(2) if video else z, return_dict=False)[0].float()
    return x.squeeze(2) if video else x


def around(vae: Autoencoder, x_BCHW: Tensor, hole_B1HW: Tensor) -> Tensor:
    """The scaled latents of pictures in -1..1 with 0, mid-grey, in their holes: what a UNet of 9 channels is shown.

    As these models were trained (Rombach et al., arXiv 2112.10752, section 4.5).

    Args:
        hole_B1HW: True, or above 0, where the picture is repaired.
    """
    return encode(vae, x_BCHW * (hole_B1HW == 0))


def hole_in_latents(hole_B1HW: Tensor, z_BCHW: Tensor) -> Tensor:
    """A hole at the size of latents, bool [B, 1, h, w], on their device.

    A latent with any hole in its block of pixels is repaired, so that no crack is lost.
    """
    hole = hole_B1HW.to(z_BCHW.device, torch.float32)
    return torch.nn.functional.max_pool2d(hole, hole.shape[-1] // z_BCHW.shape[-1]).bool()


def _affine(config: Any, z: Tensor) -> tuple[Tensor, Tensor]:
    """(shift, scale), broadcast against z: scaled latents are (z - shift) * scale, as diffusers' pipelines have it."""
    scale = torch.tensor(getattr(config, "scaling_factor", 1.0), device=z.device)
    mean, std = (getattr(config, f"latents_{name}", None) for name in ("mean", "std"))
    if mean is None or std is None:
        return torch.tensor(getattr(config, "shift_factor", None) or 0.0, device=z.device), scale
    mean_C, std_C = torch.tensor(mean, device=z.device), torch.tensor(std, device=z.device)
    return mean_C.view(1, -1, 1, 1), scale / std_C.view(1, -1, 1, 1)


def _of_videos(config: Any) -> bool:
    return hasattr(config, "temperal_downsample")  # diffusers' spelling


def overflows(config: Any) -> bool:
    """Whether a VAE's config says that it is not to run in float16."""
    return bool(getattr(config, "force_upcast", False))


def picture_channels(config: Any) -> int:
    """Channels of a VAE's pictures."""
    return int(config.input_channels if _of_videos(config) else config.in_channels)


def latent_channels(vae: Json) -> int:
    """Channels of a VAE's latents, from its config; diffusers' default where that does not say."""
    return int(vae.get("latent_channels") or vae.get("z_dim") or 4)


def blocks_of(vae: Json) -> Sequence[int]:
    """Channels of a VAE's blocks, from its config, up to a factor; () where that does not say."""
    # of AutoencoderKL, AutoencoderTiny and AutoencoderKLQwenImage
    names = ("block_out_channels", "encoder_block_out_channels", "dim_mult")
    return next((vae[name] for name in names if vae.get(name)), ())


def vae_scale_factor(vae: Json) -> int:
    """Pixels on a latent's side, from a VAE's config: each block but the last halves the picture."""
    return 2 ** (len(blocks_of(vae)) - 1)
