"""What inpaint will do: the model looked at, and the options held against it."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from noiseweave.engine.checks import check, check_steps
from noiseweave.jobs.inpaint.config import Config, set_cache
from noiseweave.jobs.inpaint.task import Task
from noiseweave.jobs.reading import loras, running

if TYPE_CHECKING:
    from noiseweave.engine.inpainting.models import InpaintFacts
    from noiseweave.engine.networks.facts import ModelFacts


def plan(config: Config, output: str, sheet: str | None, seed: int) -> Task:
    """Look at the model.

    Raises:
        ValueError: it does not fit the options.
    """
    from noiseweave.engine.networks.facts import fingerprint, read_facts

    set_cache(config)
    config = replace(config, model=loras.settled(config.model))
    model = read_facts(config.model.name)
    config, about = fitted(config, model)
    chosen = running.with_precision(config.model, config.cluster, output, config.overwrite)
    config = replace(config, model=chosen)
    if about.repaint:
        print(
            f"{config.model.name} is no inpainting model: RePaint (arXiv 2201.09865) is used", file=sys.stderr
        )
    return Task(
        config=config,
        output=output,
        sheet=sheet,
        about=asdict(about),
        seed=seed,
        model_hash=fingerprint(model, config.model),
    )


def fitted(config: Config, model: ModelFacts) -> tuple[Config, InpaintFacts]:
    """The config with what is usual for the model, and what the model takes.

    Raises:
        ValueError: it does not fit the options.
    """
    from noiseweave.engine.inpainting.models import for_inpainting

    about = for_inpainting(model)
    check_steps("inpaint.steps", config.inpaint.steps, model.trained_steps)
    whole = about.multiple > 0
    check(
        whole or config.size in (0, about.size),
        "size",
        config.size,
        f"0 or {about.size}, as the model draws {about.size}x{about.size} pixels only",
    )
    for name in ("prompt", "negative_prompt"):
        value = getattr(config, name)
        check(about.reads_prompts or not value, name, value, '"", as the model reads no prompts')
    return _settled(config, model), about


def _settled(config: Config, model: ModelFacts) -> Config:
    """With the guidance that is usual for the model; what it cannot be guided by is refused."""
    if model.conditioning != "text":
        return config
    kind, recipe = model.reader.guidance(model.unet), config.inpaint
    negative, free = config.negative_prompt, kind == "classifier-free"
    check(free or not negative, "negative_prompt", negative, f'"", as a {model.pipeline} takes none')
    ok = kind != "none" or recipe.guidance in (None, 1)
    check(ok, "inpaint.guidance", recipe.guidance, "1, as the model was distilled without guidance")
    usual = model.usual.fill
    return replace(config, inpaint=replace(recipe, guidance=recipe.guidance or usual))
