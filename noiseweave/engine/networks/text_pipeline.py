"""Words -> pictures: pipelines of the Stable Diffusion family (Rombach et al., arXiv 2112.10752).

B pictures, H x W pixels, K kept steps, L tokens of D values; z is a latent.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine import spans
from noiseweave.engine.checks import check_steps
from noiseweave.engine.networks import pretrained, safety, tuning
from noiseweave.engine.networks.facts import TEXT_TO_IMAGE, ModelFacts, read_facts
from noiseweave.engine.networks.micro_batch import MicroBatch
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.protocols import Pipeline, Scheduler
from noiseweave.engine.networks.recipes import ModelConfig, TextRecipe
from noiseweave.engine.networks.safety import Checked, SafetyChecker
from noiseweave.engine.networks.tuning import DTYPES
from noiseweave.engine.records import Json
from noiseweave.engine.seeding import generator

X0_SCHEDULERS = ("DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler")
PARALLEL = 1e-3  # sine of the angle below which slerp is lerp to float32's precision


@dataclass(kw_only=True)
class TextModel:
    """A pipeline, ready to draw.

    Attributes:
        pipeline: diffusers' StableDiffusionPipeline or StableDiffusionXLPipeline.
        scheduler: the one that its folder names; each drawing makes its own from this one's config.
        micro_batch: pictures in one call, halved for good when memory runs out.
        checker: the safety checker that its folder has, or None.
    """

    pipeline: Pipeline
    scheduler: Scheduler
    micro_batch: int
    checker: SafetyChecker | None = None

    def size(self, recipe: TextRecipe) -> tuple[int, int]:
        """(height, width) in pixels of what a recipe draws."""
        made_for = self.pipeline.unet.config.sample_size
        sides = (made_for, made_for) if isinstance(made_for, int) else tuple(made_for)
        height, width = (int(side) * int(self.pipeline.vae_scale_factor) for side in sides)
        return recipe.height or height, recipe.width or width

    def calls(self, recipe: TextRecipe) -> int:
        """Network evaluations of one picture, guided ones counted once."""
        scheduler = text_scheduler(self, recipe)
        scheduler.set_timesteps(recipe.steps)
        return len(scheduler.timesteps)


def check_text_to_image(facts: ModelFacts) -> None:
    """Raise ValueError, one line, when a model does not draw pictures from texts."""
    name, kind = facts.name, facts.pipeline
    if kind not in TEXT_TO_IMAGE:
        raise ValueError(f"model {name!r}: it is a {kind}; text-to-image takes {' or '.join(TEXT_TO_IMAGE)}")
    channels, latent = facts.unet.get("in_channels"), facts.latent_channels
    if channels != latent:
        raise ValueError(f"model {name!r}: its unet takes {channels} channels and its vae gives {latent}")


def load(
    config: ModelConfig, recipe: TextRecipe, device: str = "cpu", facts: ModelFacts | None = None
) -> TextModel:
    """Load a pipeline from a folder that save_pretrained wrote, or from the hub.

    A safety checker that the folder has is kept, unless the config does without it; none is ever added. The
    pipeline's arithmetic is diffusers' own, so in half precision latents are half too. micro_batch 0 takes 16 pictures
    on a GPU and 4 elsewhere.

    Args:
        facts: what ``read_facts`` says of it, where that is known.

    Raises:
        ValueError: one line, when it is missing, broken, of another kind, or not fit for the recipe.
    """
    from diffusers import AutoPipelineForText2Image

    facts = facts or read_facts(config.name)
    check_text_to_image(facts)
    pipeline = opened(AutoPipelineForText2Image, config, facts.folder)
    pipeline.set_progress_bar_config(disable=True)
    size = config.micro_batch or (16 if torch.device(device).type == "cuda" else 4)
    checker = safety.taken_from(pipeline.to(device))
    model = TextModel(pipeline=pipeline, scheduler=pipeline.scheduler, micro_batch=size, checker=checker)
    text_scheduler(model, recipe)
    tuning.tune(pipeline.unet, config, device)
    return model


def opened(auto: Any, config: ModelConfig, folder: Path, **parts: object) -> Pipeline:
    """A pipeline in its precision, as one of diffusers' AutoPipelines makes it; ``parts`` instead of the folder's."""
    pretrained.quiet()
    if not config.safety_checker and (folder / "safety_checker").is_dir():
        parts["safety_checker"] = None
    with pretrained.one_line(config.name, folder):
        return auto.from_pretrained(
            folder,
            dtype=DTYPES[config.precision],
            use_safetensors=True,
            variant=pretrained.variant(folder),
            local_files_only=True,
            trust_remote_code=False,
            **parts,
        )


def text_scheduler(model: TextModel, recipe: TextRecipe) -> Scheduler:
    """diffusers' scheduler for a recipe, with the noise schedule and target that the model was trained with.

    Raises:
        ValueError: more steps than the model has.
    """
    import diffusers

    config = model.scheduler.config
    check_steps("text.steps", recipe.steps, int(config.num_train_timesteps))
    if recipe.sampler == "pipeline":
        return model.scheduler.from_config(config)
    if recipe.sampler == "dpm-solver++":
        return diffusers.DPMSolverMultistepScheduler.from_config(
            config, algorithm_type="dpmsolver++", solver_order=2, thresholding=False
        )
    if recipe.sampler == "euler":
        return diffusers.EulerDiscreteScheduler.from_config(config)
    kind: Any = diffusers.DDPMScheduler if recipe.sampler == "ddpm" else diffusers.DDIMScheduler
    # a latent goes beyond [-1, 1]; without a word in the config both of them would clip it
    return kind.from_config(config, clip_sample=False, thresholding=False)


def slerp(a: Tensor, b: Tensor, mix: float) -> Tensor:
    """Spherical interpolation along the last dimension (Shoemake, SIGGRAPH 1985), float32 [..., D].

    ``sin((1 - mix) w) / sin(w) a + sin(mix w) / sin(w) b``, w the angle between a and b: a at mix 0 and b at 1,
    bit for bit. Each vector turns on its own: cross-attention reads a prompt token by token, and the end of
    CLIP's transformer is a normalisation of each token, so it is each token's length that must stay.
    Parallel and opposite vectors have no one arc between them and are mixed linearly.
    """
    a, b = a.float(), b.float()
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1, 1)[..., None]
    w = cosine.acos()
    turned = torch.sin((1 - mix) * w) / torch.sin(w) * a + torch.sin(mix * w) / torch.sin(w) * b
    return torch.where(torch.sin(w) < PARALLEL, torch.lerp(a, b, mix), turned)


def _encoder(pipeline: Pipeline) -> Callable[[str, bool], tuple[Tensor, ...]]:
    """(text, as negative?) -> its embedding [1, L, D], and for SDXL the pooled one [1, D] too; each once."""

    @functools.cache
    def encode(text: str, negative: bool) -> tuple[Tensor, ...]:
        if not negative:
            words, none = text, None
        else:  # None and not "": SDXL's own way of no words may be zeros
            words, none = "", text or None
        out = pipeline.encode_prompt(
            prompt=words,
            device=pipeline.device,
            num_images_per_prompt=1,
            negative_prompt=none,
            do_classifier_free_guidance=negative,
        )
        return tuple(out[int(negative) :: 2])

    return encode


def embeddings(pipeline: Pipeline, prompts: Sequence[Prompt], guided: bool) -> dict[str, Tensor]:
    """The pipeline's arguments prompt_embeds [B, L, D], pooled_prompt_embeds, and if guided the negative ones."""
    encode = _encoder(pipeline)

    def mixed(p: Prompt) -> Iterable[Tensor]:
        a = encode(p.text, False)
        if p.other is None:
            return a
        pairs = zip(a, encode(p.other, False), strict=True)
        return [slerp(x, y, p.mix).to(x.dtype) for x, y in pairs]

    names = ("prompt_embeds", "pooled_prompt_embeds")
    positive = [torch.cat(t) for t in zip(*map(mixed, prompts), strict=True)]
    out = dict(zip(names, positive, strict=False))
    if guided:
        negative = [torch.cat(t) for t in zip(*(encode(p.negative, True) for p in prompts), strict=True)]
        out |= {f"negative_{n}": t for n, t in zip(names, negative, strict=False)}
    return out


def too_long(model: TextModel, prompts: Iterable[Prompt]) -> list[str]:
    """The distinct texts, negative ones too, that a tokenizer of the pipeline truncates, in their order.

    CLIP reads 77 tokens, the two around the words included; what comes after has no effect on the picture.
    """
    tokenizers = [model.pipeline.tokenizer, getattr(model.pipeline, "tokenizer_2", None)]
    texts = dict.fromkeys(t for p in prompts for t in (p.text, p.other, p.negative) if t)
    return [t for t in texts if any(k and len(k(t).input_ids) > k.model_max_length for k in tokenizers)]


def truncated_ends(model: TextModel, prompts: Iterable[Prompt]) -> dict[str, str]:
    """The texts of ``too_long`` -> the ends that the tokenizer has no room for."""
    k = model.pipeline.tokenizer  # the last of its places is the end's own

    def end(text: str) -> str:
        return str(k.decode(k(text).input_ids[k.model_max_length - 1 : -1])).strip()

    return {text: end(text) for text in too_long(model, prompts)}


def draw_prompts(model: TextModel, prompts: Sequence[Prompt], recipe: TextRecipe, seed: int) -> np.ndarray:
    """One picture for each prompt, a function of (prompt, recipe, seed) alone: uint8 [B, H, W, 3].

    Raises:
        ValueError: not finite (fp16 overflows in some VAEs), or not fit for the model.
        torch.OutOfMemoryError: a single picture does not fit.
    """
    return trajectory(model, prompts, recipe, seed, 0)[0]


def trajectory(
    model: TextModel, prompts: Sequence[Prompt], recipe: TextRecipe, seed: int, kept: int
) -> tuple[np.ndarray, np.ndarray]:
    """As draw_prompts, and what the network believed in on the way.

    Args:
        kept: steps whose predicted x_0 is kept, evenly spread, the first and the last among them.

    Returns:
        uint8 [B, H, W, 3] and uint8 [K, B, H, W, 3], K = kept, or all steps where there are fewer.

    Raises:
        ValueError: the scheduler keeps its predictions of x_0 to itself (PNDM, say).
    """
    seen_BKHWC = _seen(model, prompts, recipe, seed, kept)
    return seen_BKHWC[:, -1], seen_BKHWC[:, :-1].swapaxes(0, 1)


def checked(
    model: TextModel, prompts: Sequence[Prompt], recipe: TextRecipe, seed: int, kept: int = 0
) -> Checked:
    """Beliefs and, last, the pictures, uint8 [B, K + 1, H, W, 3]; what is flagged is drawn once more."""
    return safety.checked(
        model.checker,
        _seen(model, prompts, recipe, seed, kept),
        [p.key for p in prompts],
        seed,
        lambda i, other: _seen(model, [prompts[i]], recipe, other, kept)[0],
        lambda seen: seen[:, -1],
    )


def _seen(
    model: TextModel, prompts: Sequence[Prompt], recipe: TextRecipe, seed: int, kept: int
) -> np.ndarray:
    """Beliefs and, last, the picture of each prompt: uint8 [B, K + 1, H, W, 3]."""
    assert prompts
    parts = MicroBatch(
        lambda some: _drawn(model, some, recipe, seed, kept), model.micro_batch, model.pipeline.device
    )
    try:
        return parts(list(prompts)).numpy()
    finally:
        model.micro_batch = parts.size


@torch.inference_mode()
def _drawn(model: TextModel, prompts: Sequence[Prompt], recipe: TextRecipe, seed: int, kept: int) -> Tensor:
    """Beliefs and, last, the picture: uint8 [B, K + 1, H, W, 3]."""
    pipe = model.pipeline
    pipe.scheduler = text_scheduler(model, recipe)
    beliefs = _recorded(pipe.scheduler) if kept else []
    height, width = model.size(recipe)
    generators = [generator(seed, "sample", p.key) for p in prompts]
    shape = (pipe.unet.config.in_channels, height // pipe.vae_scale_factor, width // pipe.vae_scale_factor)
    z = torch.stack([torch.randn(shape, generator=g) for g in generators])
    out = pipe(
        **embeddings(pipe, prompts, recipe.guidance > 1),
        latents=z.to(pipe.unet.dtype),
        height=height,
        width=width,
        num_inference_steps=recipe.steps,
        guidance_scale=recipe.guidance,
        eta=recipe.eta,
        generator=generators,
        output_type="np",
        callback_on_step_end=_counted,
    )
    spread = np.linspace(0, len(beliefs) - 1, min(kept, len(beliefs))).round().astype(int)
    seen = np.stack([*(_decoded(pipe, beliefs[i]) for i in spread), out.images], axis=1)
    if not np.isfinite(seen).all():
        raise ValueError(
            f"prompt {prompts[0].text!r}: the model gave no finite picture; try another precision"
        )
    return torch.from_numpy((seen * 255).round().astype(np.uint8))


def _counted(pipe: Pipeline, step: int, t: Tensor, kept: Json) -> Json:
    """Called by the pipeline after each step."""
    with spans.part(step, step + 1, pipe.num_timesteps):
        return kept


def _recorded(scheduler: Scheduler) -> list[Tensor]:
    """A list that each step of this scheduler appends its predicted x_0 to, [B, C, h, w] latents."""
    own = getattr(scheduler.config, "algorithm_type", "") in ("dpmsolver++", "sde-dpmsolver++")
    if not own and type(scheduler).__name__ not in X0_SCHEDULERS:
        raise ValueError(
            f"text.sampler='pipeline': {type(scheduler).__name__} does not report its predictions of x_0; a "
            "trajectory needs dpm-solver++, ddim, ddpm or euler"
        )
    step, seen = scheduler.step, []

    @functools.wraps(step)  # the pipeline asks step's signature whether it takes eta and generator
    def recording(*args: object, **named: object) -> object:
        out = step(*args, **named)
        seen.append(scheduler.model_outputs[-1] if own else out[1])  # DPM-Solver++ keeps them to itself
        return out

    scheduler.step = recording
    return seen


def _decoded(pipe: Pipeline, z_BCHW: Tensor) -> np.ndarray:
    """Latents -> float [B, H, W, 3] in [0, 1], as the pipelines decode their last one."""
    vae, half = pipe.vae, pipe.vae.dtype
    mean, std = (getattr(vae.config, f"latents_{n}", None) for n in ("mean", "std"))
    z = z_BCHW.float()
    if mean is not None and std is not None:
        z = z * z.new_tensor(std).view(1, -1, 1, 1)
    z = z / vae.config.scaling_factor
    if mean is not None and std is not None:
        z = z + z.new_tensor(mean).view(1, -1, 1, 1)
    if half == torch.float16 and vae.config.force_upcast:  # SDXL's overflows in float16
        vae.to(torch.float32)
    image = vae.decode(z.to(vae.dtype), return_dict=False)[0]
    vae.to(half)
    return pipe.image_processor.postprocess(image, output_type="np")
