"""Filling holes, a batch at a time: models made for it, and RePaint (arXiv 2201.09865) with any other.

B pictures, H x W pixels, C channels; x is what the network sees, pixels or latents; a hole is True where the
picture is repaired.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine import spans
from noiseweave.engine.checks import NotFinite, check_steps
from noiseweave.engine.diffusion.path import Path
from noiseweave.engine.inpainting.models import InpaintModel, load
from noiseweave.engine.inpainting.recipes import InpaintRecipe, repaint_levels
from noiseweave.engine.inpainting.repaint import Believe, DrawNoise, repaint
from noiseweave.engine.networks import latents, paths, safety, text_pipeline
from noiseweave.engine.networks.conditioning import Condition, words_of
from noiseweave.engine.networks.micro_batch import MicroBatch
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.recipes import TextRecipe
from noiseweave.engine.networks.safety import Checked
from noiseweave.engine.pictures import masks
from noiseweave.engine.sampling.samplers import Predict
from noiseweave.engine.seeding import generator

__all__ = ["InpaintModel", "checked", "inpaint", "load"]

LEAST_SIGNAL = 1e-8  # alpha_bar of pure noise, where a schedule has it: no division by zero


def inpaint(
    model: InpaintModel,
    image_BHWC: np.ndarray,
    hole_BHW: np.ndarray,
    prompts: Sequence[Prompt],
    recipe: InpaintRecipe,
    seed: int,
) -> np.ndarray:
    """Fill the holes of pictures of one size; each a function of (picture, hole, prompt, recipe, seed) alone.

    Args:
        image_BHWC: uint8 [B, H, W, channels]; H and W multiples of about.multiple, or about.size.
        hole_BHW: bool [B, H, W], True where it is repaired.
        prompts: B of them; a picture's noise comes from its prompt's key. A pixel model reads only the key.

    Returns:
        uint8 [B, H, W, channels], the pictures themselves outside the holes. With strength 1 what was inside
        them makes no difference.

    Raises:
        ValueError: a size or number of steps that the model does not have.
        NotFinite: pictures came out as NaN or infinity: try float32.
        torch.OutOfMemoryError: a single picture does not fit.
    """
    assert len(image_BHWC) == len(hole_BHW) == len(prompts) > 0
    assert image_BHWC.shape[:3] == hole_BHW.shape
    _check(model, image_BHWC.shape[1:], recipe)
    parts = MicroBatch(
        lambda *rows: _filled(model, *rows, recipe=recipe, seed=seed), model.micro_batch, model.device
    )
    try:
        restored = parts(image_BHWC, hole_BHW, list(prompts)).numpy()
    finally:
        model.micro_batch = parts.size
    return np.where(hole_BHW[..., None], restored, image_BHWC)


def checked(
    model: InpaintModel,
    image_BHWC: np.ndarray,
    hole_BHW: np.ndarray,
    prompts: Sequence[Prompt],
    recipe: InpaintRecipe,
    seed: int,
) -> Checked:
    """As ``inpaint``; what the pipeline's safety checker flags of the filled pictures is filled once more.

    Raises:
        ValueError, NotFinite, torch.OutOfMemoryError: as of ``inpaint``.
    """

    def once_more(i: int, other: int) -> np.ndarray:
        part = slice(i, i + 1)
        return inpaint(model, image_BHWC[part], hole_BHW[part], prompts[part], recipe, other)[0]

    filled = inpaint(model, image_BHWC, hole_BHW, prompts, recipe, seed)
    checker = model.text.checker if model.text else None
    return safety.checked(checker, filled, [p.key for p in prompts], seed, once_more)


def _check(model: InpaintModel, shape: tuple[int, ...], recipe: InpaintRecipe) -> None:
    about, (height, width, channels) = model.about, shape
    check_steps("inpaint.steps", recipe.steps, int(model.scheduler.config.num_train_timesteps))
    fits, allowed = height == width == about.size, f"{about.size}x{about.size} only"
    if (n := about.multiple) > 0:
        fits, allowed = height % n == width % n == 0, f"multiples of {n}"
    if not fits or channels != about.channels:
        raise ValueError(
            f"a picture of {width}x{height} with {channels} channels: the model takes {allowed}, {about.channels} "
            "channels"
        )


@torch.inference_mode()
def _filled(
    model: InpaintModel,
    image_BHWC: np.ndarray,
    hole_BHW: np.ndarray,
    prompts: Sequence[Prompt],
    *,
    recipe: InpaintRecipe,
    seed: int,
) -> Tensor:
    """The model's pictures, uint8 [B, H, W, C] on the CPU; near the originals outside the holes, no more."""
    generators = [generator(seed, "inpaint", p.key) for p in prompts]
    fill = _conditioned if model.about.kind == "inpaint" else _repainted
    x = fill(model, image_BHWC, hole_BHW, prompts, recipe, generators)
    picture = _decode(model, x)
    finite = (x.isfinite().flatten(1).all(1) & picture.isfinite().flatten(1).all(1)).tolist()
    if not all(finite):
        raise NotFinite([p.key for p, ok in zip(prompts, finite, strict=True) if not ok])
    return torch.from_numpy(latents.to_uint8(picture))


def _encode(model: InpaintModel, image_BHWC: np.ndarray) -> Tensor:
    x = latents.to_pixels(image_BHWC, model.device)
    return x if model.vae is None else latents.encode(model.vae, x)


def _decode(model: InpaintModel, x: Tensor) -> Tensor:
    """float32 [B, C, H, W] in about [-1, 1]."""
    return x if model.vae is None else latents.decode(model.vae, x)


def _hole(hole_BHW: np.ndarray) -> Tensor:
    """bool [B, 1, H, W]."""
    return torch.from_numpy(np.array(hole_BHW))[:, None]


def _draw(x: Tensor, generators: list[torch.Generator]) -> DrawNoise:
    """Noise like x, each picture's from its own generator: float32, on the CPU and then moved."""
    return lambda: torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators]).to(x.device)


def _conditional(
    model: InpaintModel, prompts: Sequence[Prompt], guidance: float, size: tuple[int, int]
) -> Predict:
    """The UNet of a pipeline, conditioned on each picture's prompt; size is (height, width) in pixels."""
    assert model.text is not None
    pipeline = model.text.pipeline
    network = model.text.network
    words = words_of(pipeline, prompts, network.dtype)
    which_B = torch.arange(len(prompts), device=model.device)
    condition = Condition(words=words, guidance=guidance, which_B=which_B)
    return lambda x, t: condition.predict(network, x.to(network.dtype), t, size)


def _conditioned(
    model: InpaintModel,
    image_BHWC: np.ndarray,
    hole_BHW: np.ndarray,
    prompts: Sequence[Prompt],
    recipe: InpaintRecipe,
    generators: list[torch.Generator],
) -> Tensor:
    """A network that sees x, the mask and the picture with its hole grey: diffusers' scheduler, or a flow's ODE."""
    assert model.text is not None
    predict = _conditional(model, prompts, recipe.scale, hole_BHW.shape[1:])
    around = latents.around(model.vae, latents.to_pixels(image_BHWC), _hole(hole_BHW))
    beside = model.text.family.beside(_hole(hole_BHW), around)
    noise = _draw(around, generators)()
    if paths.is_straight(model.scheduler):
        start = noise if recipe.strength == 1 else _encode(model, image_BHWC)
        return _ode(
            _path(model, recipe, around), lambda x, t: predict(torch.cat([x, beside], 1), t), start, noise
        )
    words = TextRecipe(sampler=recipe.sampler, steps=recipe.steps, guidance=recipe.scale)
    scheduler = text_pipeline.text_scheduler(model.text, words)
    scheduler.set_timesteps(recipe.steps)
    skip = (recipe.steps - recipe.kept) * scheduler.order
    t_T = scheduler.timesteps[skip:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skip)
    if recipe.strength == 1:
        x = noise * scheduler.init_noise_sigma
    else:
        x = scheduler.add_noise(_encode(model, image_BHWC), noise, t_T[:1])
    takes = inspect.signature(scheduler.step).parameters
    extra = {"generator": generators} if "generator" in takes else {}
    for t in spans.steps(t_T):
        seen = torch.cat([scheduler.scale_model_input(x, t), beside], 1)
        x = scheduler.step(predict(seen, t), t, x, return_dict=False, **extra)[0]
    return x


def _ode(path: Path, predict: Predict, x_0: Tensor, noise: Tensor) -> Tensor:
    """From x_0 under the noise of the first kept step, Euler's steps on a straight path."""
    x = path.noised(x_0, noise[None].expand(len(path), *noise.shape))[0]
    for i in spans.steps(range(len(path))):
        x = path.mean(x, predict(x, path.t_T[i]), i)
    return x


def _repainted(
    model: InpaintModel,
    image_BHWC: np.ndarray,
    hole_BHW: np.ndarray,
    prompts: Sequence[Prompt],
    recipe: InpaintRecipe,
    generators: list[torch.Generator],
) -> Tensor:
    """RePaint in pixels or latents."""
    # a latent near the hole sees into it: it is shown its surroundings there, not what is to be replaced
    shown = np.stack([masks.filled(x, hole) for x, hole in zip(image_BHWC, hole_BHW, strict=True)])
    known = _encode(model, shown)
    hole = latents.hole_in_latents(_hole(hole_BHW), known)
    inside = torch.zeros_like(known) if recipe.strength == 1 else _encode(model, image_BHWC)
    path = _path(model, recipe, known)
    levels = repaint_levels(len(path), recipe.jump_length, recipe.resample)
    predict = _predict(model, prompts, recipe, hole_BHW.shape[1:])
    believe = _believe(model, predict, path)
    return repaint(believe, path, known, hole, inside, levels, _draw(known, generators))


def _path(model: InpaintModel, recipe: InpaintRecipe, x_BCHW: Tensor) -> Path:
    """The steps that the model's own scheduler takes for x, without those that strength leaves out."""
    scheduler, skip = paths.stepping(model.scheduler), recipe.steps - recipe.kept
    if model.text is not None and paths.is_straight(scheduler):
        size, eta = (x_BCHW.shape[2], x_BCHW.shape[3]), 0.0 if model.about.kind == "inpaint" else 1.0
        return paths.pipeline_path(model.text.family, scheduler, size, recipe.steps, skip, eta)
    if not paths.is_straight(scheduler):
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.clamp(min=LEAST_SIGNAL)
    return paths.path_of(scheduler, model.prediction, recipe.steps, skip)


def _predict(
    model: InpaintModel, prompts: Sequence[Prompt], recipe: InpaintRecipe, size: tuple[int, int]
) -> Predict:
    """The network's output, float32: conditioned on the prompts; a class-conditional base model, on none."""
    if model.base is None:
        return _conditional(model, prompts, recipe.scale, size)
    base, n = model.base, len(prompts)
    none = torch.full((n,), base.classes, device=base.device) if base.classes else None

    def predict(x: Tensor, t: Tensor) -> Tensor:
        t_B = t.to(x.device).expand(n)
        return base.network(x.to(base.dtype), t_B, class_labels=none, return_dict=False)[0].float()

    return predict


def _believe(model: InpaintModel, predict: Predict, path: Path) -> Believe:
    """x_0 from the network's output, whatever it predicts; a base model's is clipped where its scheduler clips."""
    config = model.scheduler.config
    clip = config.clip_sample_range if model.base and config.get("clip_sample") else float("inf")
    return lambda x, i: path.clean(x, predict(x, path.t_T[i]), i).clamp(-clip, clip)
