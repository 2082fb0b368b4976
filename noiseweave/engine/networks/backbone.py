"""A diffusion model as the algorithms see it: encode, denoise, decode and its time steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine.diffusion.path import Denoiser, Path, Prediction
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.networks import latents, paths
from noiseweave.engine.networks.conditioning import Classes, Condition, Words, classes_of, mixable
from noiseweave.engine.networks.micro_batch import MicroBatch
from noiseweave.engine.networks.protocols import Scheduler, Unet
from noiseweave.engine.networks.tuning import DTYPES

ALIKE = 8
"""Rows of a call in half precision on a CPU: its kernels are chosen by the number of rows, and round differently. Up to
16 rows, which guidance makes of 8, they agree (measured with AMX), so that replay rounds as the inversion did."""


def limit_rows(rows: int, device: str, precision: str) -> int:
    """The rows of a call, 0 for as many as ``MicroBatch`` picks: no more than round alike."""
    if precision == "fp32" or torch.device(device).type != "cpu":
        return rows
    return min(rows or ALIKE, ALIKE)


class Backbone:
    """A diffusion model of pixels (diffusers ``UNet2DModel`` + scheduler) with its micro-batching.

    Attributes:
        unet: a diffusers UNet2DModel; called as unet(x, t, return_dict=False)[0]. A pipeline's may be a transformer.
        scheduler: a diffusers scheduler; of it only time steps, alphas_cumprod and config are used.
        prediction: what the network gives; the constructor's None is what the scheduler says.
        channels: 1 (grey) or 3 (RGB).
        size: side of the square pictures that it was made for.
        classes: that it can be conditioned on, 0 for none.
        vae_scale_factor: pixels on a side of what the network sees.
        parts: the network in micro-batches, halved for good when memory runs out.
    """

    def __init__(
        self,
        unet: Unet,
        scheduler: Scheduler,
        device: str = "cpu",
        precision: str = "fp32",
        micro_batch: int = 0,
        prediction: Prediction | None = None,
    ) -> None:
        self.device, self.dtype = torch.device(device), DTYPES[precision]
        self.unet = unet.to(self.device, self.dtype).eval().requires_grad_(False)
        self.classes = (getattr(unet.config, "num_class_embeds", None) or 1) - 1
        if self.classes:
            mixable(self.unet)
        self.scheduler = scheduler
        self.prediction: Prediction = prediction or paths.prediction_of(scheduler)
        self.channels = int(unet.config.in_channels)
        self.size = int(getattr(unet.config, "sample_size", None) or 0)
        self.parts = MicroBatch(self._predict, micro_batch or limit_rows(0, device, precision), self.device)

    vae_scale_factor = 1

    def path(self, recipe: InversionRecipe) -> Path:
        """The steps of a recipe on the path that the model was trained on; errors as of ``paths.path_of``."""
        r = recipe
        shift = r.noise_shift or 0.0
        return paths.path_of(self.scheduler, self.prediction, r.num_steps, r.skip, r.eta, r.sampler, shift)

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

    def flagged(self, image_BHWC: np.ndarray) -> np.ndarray:
        """bool [B]: which made pictures must not be shown: none, where the model has no safety checker."""
        return np.zeros(len(image_BHWC), bool)

    @torch.inference_mode()
    def denoise(self, x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """What the network predicts, float32 [B, C, H, W], without conditioning."""
        return self._silence(x_BCHW, t_B) if self.classes else self.parts(x_BCHW, t_B)

    @cached_property
    def _silence(self) -> Denoiser:
        return self.conditioned(self.labels([None]))

    def labels(self, labels: Sequence[int | None]) -> Classes:
        """P labels, for ``conditioned``; None, and a class that the model does not know, is no class."""
        return classes_of(labels, self.classes, self.device)

    def conditioned(
        self, words: Words | Classes, guidance: float = 1.0, interval: tuple[float, float] = (0.0, 1.0)
    ) -> Denoiser:
        """The network conditioned on prompts or labels: row i of a call on words[i mod P].

        So B rows, or T times B with the time steps outermost, as an inversion has them, take B prompts.
        Classifier-free guidance (``conditioning.guide``) has both halves in one call; there is none where guidance
        is 1, or where the prompts are the empty ones.

        Args:
            interval: lowest and highest sigma that is guided (Kynkäänniemi et al., arXiv 2404.07724); a row outside
                costs one row of the network in place of two.
        """
        scale = 1.0 if words.silent else guidance

        @torch.inference_mode()
        def denoise(x_BCHW: Tensor, t_B: Tensor) -> Tensor:
            assert len(x_BCHW) % len(words) == 0, (len(x_BCHW), len(words))
            which_B = torch.arange(len(x_BCHW), device=self.device) % len(words)
            guided_B = None
            if interval != (0.0, 1.0):
                sigma_B = paths.sigma_of(self.scheduler, t_B.to(self.device))
                guided_B = (interval[0] <= sigma_B) & (sigma_B <= interval[1])
            condition = Condition(words=words, guidance=scale, which_B=which_B, guided_B=guided_B)
            return self.parts(x_BCHW, t_B, condition)

        return denoise

    def _predict(self, x: Tensor, t: Tensor, *condition: Condition) -> Tensor:
        """Rows that overflow in half precision are done once more in float32, whatever else is in the call."""
        t = t.to(self.device)
        out = self._output(x, t, *condition)
        infinite_B = ~out.flatten(1).isfinite().all(1)
        if self.dtype == torch.float32 or not infinite_B.any():
            return out
        half, self.dtype = self.dtype, torch.float32
        self.unet.to(torch.float32)
        try:
            out[infinite_B] = self._output(x[infinite_B], t[infinite_B], *(c[infinite_B] for c in condition))
        finally:
            self.dtype = half
            self.unet.to(half)
        return out

    def _output(self, x: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        if condition is None:
            # kernels are chosen by the order in memory too, and round differently: it is one in inversion and replay
            x = x.to(self.dtype).contiguous()
            return self.unet(x, t, return_dict=False)[0].float()
        height, width = (int(side) * self.vae_scale_factor for side in x.shape[2:])
        return condition.predict(self.unet, x.to(self.dtype), t, (height, width))
