"""Words -> pictures: diffusers' own pipelines, of the ``families``.

B pictures, H x W pixels, K kept steps; z is a latent.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from noiseweave.engine import spans
from noiseweave.engine.checks import check, check_steps
from noiseweave.engine.networks import latents, memory, paths, pretrained, safety, text_encoding, tuning
from noiseweave.engine.networks.facts import ModelFacts, read_facts
from noiseweave.engine.networks.families.family import Family
from noiseweave.engine.networks.families.registry import family_of, text_to_image
from noiseweave.engine.networks.micro_batch import MicroBatch
from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.protocols import Adding, Pipeline, Scheduler
from noiseweave.engine.networks.recipes import ModelConfig, Precision, TextRecipe
from noiseweave.engine.networks.safety import Checked, SafetyChecker
from noiseweave.engine.networks.tuning import DTYPES
from noiseweave.engine.records import Json
from noiseweave.engine.seeding import generator

FLOW_SAMPLERS = ("euler", "pipeline")
X0_SCHEDULERS = ("DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler")


@dataclass(kw_only=True)
class TextModel:
    """A pipeline, ready to draw.

    Attributes:
        pipeline: diffusers', of one of the ``families``.
        scheduler: the one that its folder names; each drawing makes its own from this one's config.
        micro_batch: pictures in one call, halved for good when memory runs out.
        checker: the safety checker that its folder has, or None.
    """

    pipeline: Pipeline
    scheduler: Scheduler
    micro_batch: int
    checker: SafetyChecker | None = None

    @property
    def family(self) -> Family:
        """What the pipeline is of."""
        return family_of(self.pipeline)

    @property
    def network(self) -> Any:
        """The network that takes noise off."""
        return self.family.network_of(self.pipeline)

    def size(self, recipe: TextRecipe) -> tuple[int, int]:
        """(height, width) in pixels of what a recipe draws."""
        height, width = self.family.size(self.pipeline)
        return recipe.height or height, recipe.width or width

    def calls(self, recipe: TextRecipe) -> int:
        """Network evaluations of one picture, guided ones counted once."""
        scheduler = text_scheduler(self, recipe)
        if paths.is_straight(scheduler):
            return recipe.steps
        scheduler.set_timesteps(recipe.steps)
        return len(scheduler.timesteps)


def check_text_to_image(facts: ModelFacts) -> None:
    """Raise ValueError, one line, when a model does not draw pictures from texts."""
    name, kind = facts.name, facts.pipeline
    if facts.conditioning != "text" or kind == facts.reader.filling:
        raise ValueError(f"model {name!r}: it is a {kind}; text-to-image takes {text_to_image()}")
    channels, latent = facts.network_channels, facts.latent_channels
    if channels != latent:
        raise ValueError(f"model {name!r}: its network takes {channels} channels and its vae gives {latent}")


def check_recipe(facts: ModelFacts, recipe: TextRecipe) -> None:
    """Raise ValueError, one line, when a model cannot draw by a recipe."""
    check_steps("text.steps", recipe.steps, facts.trained_steps)
    facts.check_fewest("text.steps", recipe.steps)
    family, multiple = facts.reader, facts.multiple
    if facts.path == "straight":
        fits = recipe.sampler in FLOW_SAMPLERS
        check(fits, "text.sampler", recipe.sampler, f"{' or '.join(FLOW_SAMPLERS)}, as the model is a flow")
        check(recipe.eta == 0, "text.eta", recipe.eta, "0, as the model is a flow")
    guided = family.guidance(facts.unet) != "none" or recipe.guidance == 1
    check(guided, "text.guidance", recipe.guidance, "1, as the model was distilled without guidance")
    most = (family.most(facts.unet) or 8192) * facts.vae_scale_factor
    for name in ("height", "width"):
        value = getattr(recipe, name)
        fits = value is None or (value % multiple == 0 and value <= most)
        check(fits, f"text.{name}", value, f"a multiple of {multiple}, at most {most}, as the model takes")


def load(
    config: ModelConfig,
    recipe: TextRecipe,
    device: str = "cpu",
    facts: ModelFacts | None = None,
    add: Adding | None = None,
) -> TextModel:
    """Load a pipeline from a folder that save_pretrained wrote, or from the hub.

    A safety checker that the folder has is kept, unless the config does without it; none is ever added. The
    pipeline's arithmetic is diffusers' own, so in half precision latents are half too. micro_batch 0 takes 16 pictures
    on a GPU and 4 elsewhere.

    Args:
        facts: what ``read_facts`` says of it, where that is known.
        add: as of ``with_loras``.

    Raises:
        ValueError: one line, when it is missing, broken, of another kind, or not fit for the recipe.
    """
    import diffusers

    facts = facts or read_facts(config.name)
    check_text_to_image(facts)
    config, precision = tuning.settled_here(config, device)
    memory.check_fits(facts, precision, device)
    pipeline = with_loras(getattr(diffusers, facts.reader.pipeline), config, facts.folder, add)
    pipeline.set_progress_bar_config(disable=True)
    size = config.micro_batch or (16 if torch.device(device).type == "cuda" else 4)
    checker = safety.taken_from(pipeline.to(device))
    model = TextModel(pipeline=pipeline, scheduler=pipeline.scheduler, micro_batch=size, checker=checker)
    text_scheduler(model, recipe)
    tuning.tune(model.network, config, device)
    return model


def with_loras(auto: Any, config: ModelConfig, folder: Path, add: Adding | None) -> Pipeline:
    """As ``opened``, with the config's LoRA files added in float32, before the weights are rounded to its precision.

    Args:
        add: adds them, see ``lora.weights.add``; None where the config has none.

    Raises:
        ValueError: as of ``opened``, and where a LoRA file does not fit.
    """
    assert (add is not None) == bool(config.loras), (
        "LoRA files are named and not handed in, or handed in unnamed"
    )
    if add is None:
        return opened(auto, config, folder)
    pipeline = opened(auto, replace(config, precision="fp32"), folder)
    add(pipeline)
    return pipeline.to(DTYPES[tuning.chosen(config)])


def opened(
    auto: Any,
    config: ModelConfig,
    folder: Path,
    others: Mapping[str, Precision] | None = None,
    **parts: object,
) -> Pipeline:
    """A pipeline in its precision, as a class of diffusers' makes it; ``parts`` instead of the folder's.

    Args:
        others: parts that are in another precision.
    """
    pretrained.quiet()
    index = pretrained.read(config.name, folder, "model_index.json")
    # what the folder says that it does without: diffusers takes a part of no default for forgotten
    absent = [part for part, named in index.items() if named == [None, None]]
    # a tokenizer is of no use without its text encoder, and families ask by it how far a text is read
    absent += [part.replace("text_encoder", "tokenizer") for part in absent]
    parts = dict.fromkeys(absent) | parts
    if not config.safety_checker and (folder / "safety_checker").is_dir():
        parts["safety_checker"] = None
    with pretrained.one_line(config.name, folder):
        return auto.from_pretrained(
            folder,
            dtype={n: DTYPES[p] for n, p in {"default": tuning.chosen(config), **(others or {})}.items()},
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
    if recipe.sampler == "pipeline" or paths.is_straight(model.scheduler):
        return model.scheduler.from_config(config)
    if recipe.sampler == "dpm-solver++":
        return diffusers.DPMSolverMultistepScheduler.from_config(
            config, algorithm_type="dpmsolver++", solver_order=2, thresholding=False
        )
    if recipe.sampler == "euler":
        return diffusers.EulerDiscreteScheduler.from_config(config)
    kind: Any = diffusers.DDPMScheduler if recipe.sampler == "ddpm" else diffusers.DDIMScheduler
    # a latent consistency model knows the last of each 20 steps
    more = {"timestep_spacing": "trailing"} if type(model.scheduler).__name__ == "LCMScheduler" else {}
    # a latent goes beyond [-1, 1]; without a word in the config both of them would clip it
    return kind.from_config(config, clip_sample=False, thresholding=False, **more)


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
    family, config = model.family, model.network.config
    inside = height // pipe.vae_scale_factor, width // pipe.vae_scale_factor
    shape = (family.channels(config), *inside)
    z = torch.stack([torch.randn(shape, generator=g) for g in generators])
    guided = recipe.guidance > 1 and family.guidance(config) == "classifier-free"
    out = pipe(
        **family.arguments(text_encoding.embeddings(pipe, prompts, guided)),
        **family.options(recipe.guidance, recipe.eta),
        latents=family.pack(z).to(pipe.device, model.network.dtype),
        height=height,
        width=width,
        num_inference_steps=recipe.steps,
        generator=generators,
        output_type="np",
        callback_on_step_end=_counted,
    )
    spread = np.linspace(0, len(beliefs) - 1, min(kept, len(beliefs))).round().astype(int)
    shown = [_decoded(pipe, family.unpack(beliefs[i], inside)) for i in spread]
    seen = np.stack([*shown, out.images], axis=1)
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
    flow = paths.is_straight(scheduler)
    if not own and not flow and type(scheduler).__name__ not in X0_SCHEDULERS:
        raise ValueError(
            f"text.sampler='pipeline': {type(scheduler).__name__} does not report its predictions of x_0; a "
            "trajectory needs dpm-solver++, ddim, ddpm or euler"
        )
    step, seen = scheduler.step, []

    @functools.wraps(step)  # the pipeline asks step's signature whether it takes eta and generator
    def recording(output: Tensor, t: Tensor, x: Tensor, **named: object) -> object:
        out = step(output, t, x, **named)
        if flow:
            seen.append(x.float() - float(t) / scheduler.config.num_train_timesteps * output.float())
        else:
            seen.append(scheduler.model_outputs[-1] if own else out[1])  # DPM-Solver++ keeps them to itself
        return out

    scheduler.step = recording
    return seen


def _decoded(pipe: Pipeline, z_BCHW: Tensor) -> np.ndarray:
    """Latents -> float [B, H, W, 3] in [0, 1], as the pipelines decode their last one."""
    vae, half = pipe.vae, pipe.vae.dtype
    if half == torch.float16 and latents.overflows(vae.config):  # SDXL's overflows in float16
        vae.to(torch.float32)
    try:
        image = latents.decode(vae, z_BCHW)
    finally:
        vae.to(half)
    return pipe.image_processor.postprocess(image, output_type="np")
