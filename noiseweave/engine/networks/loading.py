"""The way to a diffusion model whose pictures become noise maps: whether it is one, its fingerprint, the network."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from noiseweave.engine import checks
from noiseweave.engine.diffusion import dpm_solver
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.networks import base_models, facts, paths, pretrained, text_pipeline, tuning
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.networks.base_models import BaseModel
from noiseweave.engine.networks.facts import ModelFacts
from noiseweave.engine.networks.families.registry import text_to_image
from noiseweave.engine.networks.latent_backbone import LatentBackbone, LatentNetworks
from noiseweave.engine.networks.protocols import Adding
from noiseweave.engine.networks.recipes import BASELINES, ModelConfig, PromptRecipe, TextRecipe
from noiseweave.engine.networks.text_pipeline import TextModel

TARGETS = ("epsilon", "v_prediction", "sample")
VAES = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderKLQwenImage")
UNET_FAMILIES = ("sd", "sdxl")
FEW = 8
"""Steps that a model takes at most that is distilled for few."""


def describe(name: str, size: int | None = None) -> ModelFacts:
    """What a model is that can invert pictures, read from its configs alone; see ``facts.read_facts``.

    Args:
        size: side of the pictures that is wanted, in pixels; None takes what the model was made for.

    Raises:
        ValueError: one line: it is no such model, broken, or cannot take that size.
    """
    found = facts.read_facts(name, size)
    _check_path(found)
    if isinstance(found.unet.get("sample_size"), (list, tuple)):
        raise ValueError(f"model {name!r}: supported are square pictures")
    if (kind := found.unet.get("class_embed_type")) is not None:
        raise ValueError(
            f"model {name!r}: class_embed_type {kind!r}; supported are a table of classes and none"
        )
    (_check_latents if found.latent else _check_pixels)(found)
    return found


def _check_path(model: ModelFacts) -> None:
    if model.family in BASELINES:
        raise ValueError(
            f"model {model.name!r}: a {model.family}; noise maps need a model that takes noise off step by step"
        )
    if model.path == "straight" and model.family in UNET_FAMILIES:
        raise ValueError(
            f"model {model.name!r}: a {model.pipeline} with {model.scheduler['_class_name']}; of this family "
            "those with a noise schedule are supported"
        )
    if model.path == "vp" and model.prediction not in TARGETS:
        raise ValueError(
            f"model {model.name!r}: it predicts {model.prediction}; supported are {', '.join(TARGETS)}"
        )


def _check_pixels(model: ModelFacts) -> None:
    channels = model.unet.get("in_channels")
    if channels not in (1, 3) or model.unet.get("out_channels") != channels:
        raise ValueError(
            f"model {model.name!r}: {channels} channels in; supported are 1 or 3, and as many out"
        )


def _check_latents(model: ModelFacts) -> None:
    name, kind = model.name, model.vae.get("_class_name")
    if kind not in VAES:
        raise ValueError(f"model {name!r}: its VAE is a {kind}; supported are {', '.join(VAES)}")
    channels = model.network_channels
    if channels != model.latent_channels:
        raise ValueError(
            f"model {name!r}: its network takes {channels} channels and its vae gives {model.latent_channels}"
        )


def check_prompt(model: ModelFacts, prompt: PromptRecipe) -> None:
    """Raise ValueError when a prompt says something that the model cannot be conditioned on."""
    given = None if model.conditioning == "text" else prompt.given(guidance=model.conditioning == "none")
    if given:
        known = text_to_image()
        raise ValueError(f"{given}: model {model.name!r} reads no words; prompts are for {known}")


def settled_prompt(model: ModelFacts, prompt: PromptRecipe) -> PromptRecipe:
    """The recipe with what is usual for the model's family, where nothing is chosen.

    Raises:
        ValueError: it says something that the model cannot be conditioned on.
    """
    check_prompt(model, prompt)
    if model.conditioning != "text":
        return prompt
    if model.reader.guidance(model.unet) == "none":
        for name in ("guidance_source", "guidance_target"):
            value = getattr(prompt, name)
            checks.check(
                value in (None, 1), f"prompt.{name}", value, "1, as the model was distilled without guidance"
            )
    return prompt.settled(model.usual.edit)


def settled_chain(model: ModelFacts, recipe: InversionRecipe) -> InversionRecipe:
    """The recipe with what is usual for the model, where nothing is chosen.

    Raises:
        ValueError: a chain has more steps than the model was trained with, or its sampler can take.
    """
    checks.check_steps("inversion.num_steps", recipe.num_steps, model.trained_steps)
    if recipe.sampler != "ddim" and model.path == "vp":
        dpm_solver.preserving_steps(SimpleNamespace(config=model.scheduler), recipe.num_steps)
    if recipe.noise_shift is not None:
        return recipe
    return replace(recipe, noise_shift=float(_distilled(model) and recipe.kept > 1))


def long_chain(model: ModelFacts, recipe: InversionRecipe) -> str | None:
    """A note on a chain that is longer than a model that is distilled for few steps was made for."""
    if not _distilled(model) or recipe.kept <= FEW:
        return None
    what = f"inversion.num_steps={recipe.num_steps}, skip={recipe.skip}: {recipe.kept} steps"
    return (
        f"{what} of {model.name!r}, which is distilled for few; 3 to {FEW} serve, such as num_steps 5, skip 1"
    )


def _distilled(model: ModelFacts) -> bool:
    return model.conditioning == "text" and model.usual.distilled


def fingerprint(model: ModelFacts, config: ModelConfig | None = None) -> str:
    """SHA-256 over the configs and weights, 16 hex digits; of a pixel model, those of its UNet and scheduler alone.

    The LoRA files of a config are part of it, see ``facts.fingerprint``.
    """
    if model.latent:
        return facts.fingerprint(model, config)
    files = (model.folder / name for name in facts.PIXEL_FILES)
    return pretrained.hash_files([*files, *sorted(model.folder.glob(facts.PIXEL_WEIGHTS))])


def load(
    config: ModelConfig, device: str = "cpu", size: int | None = None, add: Adding | None = None
) -> Backbone:
    """Load a model: a LatentBackbone for one that works on latents.

    Args:
        size: side of the pictures, in pixels; None takes what the model was made for, and a pixel model has
            no other.
        add: adds the config's LoRA files, where it has some; see ``text_pipeline.with_loras``.

    Raises:
        ValueError: one line, when it is missing, broken, of another kind, or cannot take that size.
    """
    model = describe(config.name, size)
    return backbone_of(model, config, drawing_model(model, config, device, add))


def drawing_model(
    model: ModelFacts, config: ModelConfig, device: str = "cpu", add: Adding | None = None
) -> BaseModel | TextModel:
    """A model as pictures are drawn from it: what reads texts as its pipeline; ``add`` as of ``load``.

    Raises:
        ValueError: one line, when its weights are missing or broken, or it is for filling holes alone.
    """
    if model.conditioning == "text":
        return text_pipeline.load(config, TextRecipe(steps=1), device, model, add)
    return base_models.load(config, device, model)


def backbone_of(model: ModelFacts, config: ModelConfig, drawing: BaseModel | TextModel) -> Backbone:
    """A loaded model, which still draws as before, for pictures of ``model.side``; the networks are shared.

    Args:
        model: as ``describe`` has it.
        drawing: as of ``drawing_model``.
    """
    own = drawing.device if isinstance(drawing, BaseModel) else drawing.pipeline.device
    config, precision = tuning.settled_here(config, own)
    if isinstance(drawing, BaseModel):
        scheduler = paths.stepping(drawing.scheduler)
        if drawing.encoder is None:
            unet, batch = drawing.network, config.micro_batch
            return Backbone(unet, scheduler, str(own), precision, batch, drawing.prediction)
        parts = LatentNetworks(unet=drawing.network, vae=drawing.encoder, prediction=drawing.prediction)
    else:
        scheduler = text_pipeline.text_scheduler(drawing, TextRecipe(sampler="ddim", steps=1))
        parts = LatentNetworks(unet=drawing.network, vae=drawing.pipeline.vae, text=drawing)
    return LatentBackbone(parts, scheduler, str(own), precision, config.micro_batch, model.side)
