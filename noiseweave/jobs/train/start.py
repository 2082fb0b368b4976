"""What train begins with: first weights by the seed, or those of a model that is there."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal, cast

from noiseweave.engine.checks import check
from noiseweave.engine.networks import classes as model_classes
from noiseweave.engine.networks.recipes import BASELINES, ModelConfig
from noiseweave.engine.training.recipes import Curve, ModelRecipe, ScheduleRecipe, Target, UnetRecipe
from noiseweave.jobs.reading import class_names
from noiseweave.jobs.train.config import Config, blueprint

if TYPE_CHECKING:
    from noiseweave.engine.networks.facts import ModelFacts
    from noiseweave.engine.training.systems import System
    from noiseweave.jobs.train.task import Source

SCHEDULES: dict[str, Curve] = {
    "squaredcos_cap_v2": "cosine",
    "linear": "linear",
    "scaled_linear": "scaled_linear",
}


def settled(config: Config) -> Config:
    """The config with what ``init`` decides; as it was where there is none.

    Raises:
        ValueError: the model is missing, is none of ours to train, or what is given contradicts it.
    """
    if config.init is None:
        return config
    facts = _facts(config.init)
    vae = str(facts.folder / "vqvae") if facts.latent else None
    _check_given(config, facts, vae)
    objective, schedule = config.objective, config.schedule
    if facts.kind == "ddpm":
        objective = dataclasses.replace(objective, target=cast(Target, facts.prediction))
        known = SCHEDULES.get(str(facts.scheduler.get("beta_schedule")), schedule.kind)
        schedule = dataclasses.replace(schedule, kind=known, timesteps=facts.trained_steps)
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, kind=facts.kind, vae=vae),
        data=dataclasses.replace(config.data, size=facts.side, channels=_channels(facts)),
        objective=objective,
        schedule=schedule,
    )


def fingerprint(config: Config) -> str:
    """Of the model that it starts from."""
    from noiseweave.engine.networks import facts

    assert config.init is not None
    return facts.fingerprint(_facts(config.init))


def build(config: Config, source: Source, device: str = "cpu") -> System:
    """The networks and losses as they are before the first step.

    Args:
        device: of the VAE.

    Raises:
        ValueError: sizes that do not fit each other, a model that is missing.
    """
    from noiseweave.engine.networks import base_models
    from noiseweave.engine.training import starting, systems

    plan = blueprint(config, source.classes)
    if config.init is None:
        encoder = None if config.model.vae is None else base_models.load_encoder(config.model.vae, device)
        return systems.build(plan, encoder)
    model = base_models.load(ModelConfig(name=config.init), facts=_facts(config.init))
    if model.encoder is not None:
        model.encoder.to(device)
    rows = model_classes.rows(source.classes, source.names, model.classes, _names(config))
    return systems.build(plan, start=starting.adapted(model, rows))


def told(config: Config, source: Source) -> str:
    """In a line, what it starts from and how many of the classes that knows."""
    facts, names = _facts(config.init or ""), _names(config)
    rows = model_classes.rows(source.classes, source.names, facts.classes, names)
    known = sum(row != facts.classes for row in rows) if facts.classes else 0
    classes = f", which knows {known} of {len(rows)} classes" if rows else ""
    numbers = f"; {class_names.numbers_taken(names)}" if known and names and not source.names else ""
    return f"starts from {config.init}{classes}{numbers}"


def _facts(name: str) -> ModelFacts:
    from noiseweave.engine.networks.facts import read_facts

    facts = read_facts(name)
    plain = facts.conditioning != "text" and facts.family not in BASELINES
    check(plain, "init", name, f"a ddpm, linear_mixing or flow, and no {facts.family}")
    return facts


def _channels(facts: ModelFacts) -> Literal[1, 3]:
    return 1 if facts.channels == 1 else 3


def _names(config: Config) -> list[str]:
    return class_names.classes_in(str(_facts(config.init or "").folder))


def _check_given(config: Config, facts: ModelFacts, vae: str | None) -> None:
    """Raise ValueError where the config says something else than the model; what it leaves out agrees."""
    data, model = config.data, config.model
    usual = ModelRecipe()
    of = f"as init={config.init!r} has"
    check(model.kind in (usual.kind, facts.kind), "model.kind", model.kind, f"{facts.kind}, {of}")
    check(model.vae in (None, vae), "model.vae", model.vae, "left out: init has its own")
    check(data.size in (0, facts.side), "data.size", data.size, f"{facts.side}, {of}")
    check(data.channels in (0, _channels(facts)), "data.channels", data.channels, f"{facts.channels}, {of}")
    check(config.unet == UnetRecipe(), "unet", config.unet, "left out: init has its own")
    check(config.schedule == ScheduleRecipe(), "schedule", config.schedule, "left out: init has its own")
