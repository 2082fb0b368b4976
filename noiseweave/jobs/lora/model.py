"""What lora needs to know of the model that weights are trained for, read from its configs alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from noiseweave.engine.checks import check
from noiseweave.engine.lora.recipes import LoraObjective
from noiseweave.jobs.lora.config import Config

if TYPE_CHECKING:
    from noiseweave.engine.networks.facts import ModelFacts

WEIGHTS_AND_WORDS = (".json", ".txt", ".model", ".jinja", ".safetensors")


@dataclass(frozen=True, kw_only=True)
class Model:
    """What the workers need to know of the model.

    Attributes:
        sees_holes: whether its network takes the mask and the masked picture too.
        multiple: sides of pictures are multiples of it.
        most: pixels on a side that it can take at most; None where there is no end.
        guidance: that validation draws with.
        vae_scale_factor: pixels on a latent's side.
        channels: of a latent.
        encoder, words: hashes of the VAE's files, and of the text encoders' and tokenizers'.
        hash: of all files.
    """

    sees_holes: bool
    multiple: int
    most: int | None
    guidance: float
    vae_scale_factor: int
    channels: int
    encoder: str
    words: str
    hash: str


def look(config: Config) -> Model:
    """What kind of model it is, from its configs alone.

    Raises:
        ValueError: it reads no texts, or what is to be trained does not fit it.
    """
    from noiseweave.engine.inpainting import models
    from noiseweave.engine.lora import adapters
    from noiseweave.engine.networks import pretrained
    from noiseweave.engine.networks.facts import fingerprint, read_facts

    name = config.model.name
    facts = read_facts(name)
    about, folder, network = models.for_inpainting(facts), facts.folder, facts.unet
    if about.kind == "pixel":
        raise ValueError(f"model {name!r}: a base model; lora takes a pipeline that reads texts")
    _check_options(config, facts)
    family, factor = facts.reader, facts.vae_scale_factor
    adapters.check_targets(family, network, config.lora)
    most = family.most(network)
    halved = factor * 2 ** (len(network.get("block_out_channels", ())) - 1)
    usual = facts.usual

    def hashed(*parts: str) -> str:
        kept = (f for part in parts for f in sorted((folder / part).glob("*")))
        return pretrained.hash_files(f for f in kept if f.suffix in WEIGHTS_AND_WORDS)

    return Model(
        sees_holes=facts.sees_holes,
        multiple=facts.multiple if facts.transformer else halved,
        most=None if most is None else most * factor,
        guidance=config.validation.guidance or (usual.fill if facts.sees_holes else usual.guidance),
        vae_scale_factor=factor,
        channels=facts.latent_channels,
        encoder=hashed("vae"),
        words=hashed(*(f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3"))),
        hash=fingerprint(facts),
    )


def _check_options(config: Config, facts: ModelFacts) -> None:
    """Raise ValueError for what a user chose and this model has not."""
    goal, flow, usual = config.objective, facts.path == "straight", LoraObjective()
    kind, drawn = facts.reader.guidance(facts.unet), config.validation.guidance
    encoders = config.lora.text_encoder
    check(
        not (encoders and facts.transformer), "lora.text_encoder", encoders, f"false for a {facts.pipeline}"
    )
    check(not flow or goal.min_snr == 0, "objective.min_snr", goal.min_snr, "0, as the model is a flow")
    for name in ("logit_mean", "logit_std"):
        value, own = getattr(goal, name), getattr(usual, name)
        check(flow or value == own, f"objective.{name}", value, f"{own:g}, as the model is no flow")
    facts.check_fewest("validation.steps", config.validation.steps)
    embedded = kind == "embedded"
    check(
        embedded or goal.guidance == 1,
        "objective.guidance",
        goal.guidance,
        "1: it is no input of the network",
    )
    why = "1, as the model was distilled without guidance"
    check(kind != "none" or drawn in (None, 1), "validation.guidance", drawn, why)
