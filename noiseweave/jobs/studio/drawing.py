"""The tab Sample: controls -> the config of ``noiseweave sample``, and what that job draws of it, bit for bit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from noiseweave.cluster import storage
from noiseweave.engine.checks import check
from noiseweave.engine.networks.recipes import BASELINES, TextOptions
from noiseweave.engine.records import Json, JsonMapping
from noiseweave.engine.sampling.recipes import SamplerRecipe
from noiseweave.jobs.reading import class_names
from noiseweave.jobs.sample.config import Config as SampleConfig
from noiseweave.jobs.studio import commands
from noiseweave.jobs.studio.config import Config
from noiseweave.jobs.studio.models import Models
from noiseweave.jobs.studio.values import number, text, whole

if TYPE_CHECKING:
    from noiseweave.engine.networks.facts import ModelFacts

CONTROLS = (
    *("classes", "sample_prompts", "sample_negative", "count", "sample_guidance", "sample_steps"),
    *("sample_seed", "kept"),
)
"""Names of the controls, in the order that the page sends them."""
MOST = 64
"""Pictures at once, all of one unit of work of the job, so that the network sees them in the same batches."""


def config_of(config: Config, controls: JsonMapping, facts: ModelFacts) -> SampleConfig:
    """What the controls say of a model; its output is named by what it is.

    Args:
        controls: value of each of CONTROLS, as a browser sent it.

    Raises:
        ValueError: one line: a value that is not allowed.
    """
    count, kept, steps = (whole(controls, name) for name in ("count", "kept", "sample_steps"))
    guidance, words = number(controls, "sample_guidance"), text(controls, "sample_prompts").splitlines()
    prompts = tuple(line.strip() for line in words if line.strip())
    chosen = controls["classes"]
    labels = chosen if isinstance(chosen, list) else []
    check(all(type(n) is int for n in labels), "classes", labels, "numbers of classes")
    reads = facts.conditioning == "text"
    check(1 <= count * max(1, len(prompts) * reads) <= MOST, "count", count, f"1 to {MOST} pictures")
    how: Json = {}
    if reads:
        how["prompts"], how["negative_prompt"] = prompts, text(controls, "sample_negative")
        side = config.size
        how["text"] = TextOptions(steps=steps, guidance=guidance or None, height=side, width=side)
    elif facts.family not in BASELINES:
        guided = guidance if guidance and facts.classes else None
        how["sampler"] = SamplerRecipe(steps=steps, guidance=guided)
    if facts.conditioning == "class" and labels:
        how["labels"] = ",".join(map(str, labels))
    if facts.family not in BASELINES:
        how["trajectory"] = kept

    def made(output: str) -> SampleConfig:
        seed = whole(controls, "sample_seed")
        return SampleConfig(output=output, model=config.model, count=count, seed=seed, **how)

    name = hashlib.sha256(commands.yaml_of(made("-")).encode()).hexdigest()[:8]
    return made(storage.join(config.output, f"sample-{name}"))


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What was drawn.

    Attributes:
        image_BHWC: uint8, without those that were flagged.
        beliefs_KBHWC: the clean pictures that the network believed in on the way; None where none are kept.
        names: of each picture: its class, or its prompt; "" where it has neither.
        left_out: how many were flagged.
    """

    image_BHWC: np.ndarray
    beliefs_KBHWC: np.ndarray | None
    names: Sequence[str]
    left_out: int


def draw(models: Models, config: SampleConfig) -> Drawn:
    """What ``noiseweave sample`` draws of a config.

    Raises:
        ValueError: what a user can put right, in one line; the model's safety checker flags all.
    """
    from noiseweave.jobs.sample import draw, plan

    known = models.known()
    task = plan.of_model(replace(config, model=known.config), "", known.facts)
    result = draw.drawer(task, models.drawing())(range(task.total))
    good = [i for i in range(task.total) if i not in result.flagged]
    if not good:
        raise ValueError("flagged: the model's safety checker flags all of them (model.safety_checker)")
    beliefs = result.beliefs_KBHWC
    return Drawn(
        image_BHWC=result.image_BHWC[good],
        beliefs_KBHWC=None if beliefs is None else beliefs[:, good],
        names=[_name(task.label(i), task.names, task.words[i][1] if task.words else "") for i in good],
        left_out=task.total - len(good),
    )


def _name(label: int | None, names: Sequence[str], words: str) -> str:
    return words if label is None else class_names.shown(label, names)


def classes_of(facts: ModelFacts) -> list[tuple[str, int]]:
    """(name, number) of each class that a model knows, for a person to choose."""
    names = class_names.readable_classes(str(facts.folder)) if facts.classes else []
    return [(class_names.shown(n, names), n) for n in range(facts.classes)]
