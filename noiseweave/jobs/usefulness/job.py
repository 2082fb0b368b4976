"""``noiseweave evaluate usefulness``: do the made pictures help a classifier of few labelled ones?

Seven flows: encode (the pool's latents, where the generator works on a VAE's), prior (the generator on the unlabelled
pool), see (features of the pool's pictures, where they are guessed by
them), guess (what they may be), tune (the generator learns the labels of the few), make (what each method adds), score
(classifiers, each trained on one worker). Only score ever reads the test set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from noiseweave.engine.checks import check
from noiseweave.engine.identity import identity_of
from noiseweave.engine.records import Json, JsonMapping
from noiseweave.jobs.usefulness.config import OWNED, Config
from noiseweave.jobs.usefulness.task import Task

SMALLEST, LARGEST = 8, 32  # sides that are taken by themselves: many classifiers are trained
LARGEST_LATENT = 64  # of a generator of latents


def run(config: Config) -> int:
    """Do the job. Returns 0, or 1 when units failed.

    Raises:
        ValueError: what a user can put right, in one line.
    """
    from noiseweave.cluster import ledger, shards, storage
    from noiseweave.cluster.session import session
    from noiseweave.engine.features import spaces
    from noiseweave.engine.usefulness import finetuned
    from noiseweave.jobs.reading import class_names, looks
    from noiseweave.jobs.usefulness import flows, report

    if config.protocol == "closed":
        config = without_pool(config)
    output = storage.absolute(config.output)
    if config.guess.features is not None:
        spaces.check_here(config.guess.features)
    for name, choice in config.classifiers.items():
        if choice.pretrained is not None:
            finetuned.check_here(name)
    sides = {"input": shards.find(config.input), "test": shards.find(config.test)}
    class_names.check_alike(sides)
    config, unlike = settled(config, sides["input"])
    with ledger.held_run(output, identity(config, sides), config.overwrite, OWNED) as book:
        looks.warn(unlike)
        data, bad = flows.load(config, sides)
        few = {
            (k, n): flows.choose(config, data, k, n) for k in config.per_class for n in range(config.subsets)
        }
        classes = int(data["input"].label_N.max()) + 1
        side = shards.digest(sides["test"])[:8]
        task = Task(config=config, data=data, few=few, classes=classes, side=side)
        check_generator(task)
        with session(config.cluster) as s:
            outcomes = flows.run(task, book, s)
        failed = {name: o.failed for name, o in outcomes.items() if o.failed}
        report.finish(task, book, outcomes, bad, output)
        return 1 if failed else 0


def settled(config: Config, found: Sequence[str]) -> tuple[Config, str | None]:
    """The config with the size and channels of its pictures, said in a line where they come from the input's.

    Beside it a warning, where both are given and the pictures are much larger, or of other channels.

    Raises:
        ValueError: no picture opens.
    """
    from noiseweave.jobs.reading import looks

    seen = looks.look_at_shards(found, config.max_pixels)
    if config.size and config.channels:
        return config, looks.warning(seen, "the generator", config.size, config.channels)
    if seen is None:
        raise ValueError(
            f"input {config.input!r}: none of the pictures looked at opens; give size and channels"
        )
    multiple = (1 << (len(config.generator.unet.channels) - 1)) * _pixels_of_a_latent(config)
    largest = LARGEST if config.generator.vae is None else LARGEST_LATENT
    side = max(min(*seen.middle, largest) // multiple, -(-SMALLEST // multiple)) * multiple
    config = replace(config, size=config.size or side, channels=config.channels or seen.channels)
    print(f"the pictures are {seen}: size={config.size}, channels={config.channels}", flush=True)
    return config, None


def _pixels_of_a_latent(config: Config) -> int:
    """On its side; 1 of a generator of pixels."""
    from noiseweave.engine.networks import base_models, latents

    vae = config.generator.vae
    return 1 if vae is None else latents.vae_scale_factor(base_models.encoder_config(vae))


def check_generator(task: Task) -> None:
    """Raise ValueError, one line, where there can be no such generator of these pictures."""
    from noiseweave.engine.usefulness import generators
    from noiseweave.engine.usefulness.data import Setup

    c = task.config
    if not task.drawing:
        return
    check(c.generator.vae is None or c.channels == 3, "channels", c.channels, "3 with generator.vae")
    try:
        generators.built(c.generator, Setup(classes=task.classes, seed=0), c.size, c.channels)
    except ValueError as e:
        raise ValueError(f"generator: {e}") from None


def without_pool(config: Config) -> Config:
    """Without the methods that need the pool, which are named."""
    needs = [name for name, m in config.methods.items() if m.guesses]
    if needs:
        print(f"closed protocol, which sees no pool: left out {', '.join(needs)}")
    kept = {name: m for name, m in config.methods.items() if name not in needs}
    return replace(config, methods=kept, only=())


def identity(config: Config, sides: Mapping[str, Sequence[str]]) -> JsonMapping:
    """What the figures depend on."""
    from noiseweave.cluster import shards
    from noiseweave.engine.networks import base_models

    known: Json = {"job": "usefulness", "input": shards.digest(sides["input"])}
    if config.generator.vae is not None:
        known["generator.vae_hash"] = base_models.encoder_hash(config.generator.vae)
    return identity_of(config, **known)
