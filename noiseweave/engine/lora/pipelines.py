"""The pipeline whose network is fitted."""

from __future__ import annotations

from typing import Any

from noiseweave.engine.networks.recipes import ModelConfig, Precision

NETWORKS = ("unet", "transformer")
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


def open_pipeline(
    name: str, device: str, *without: str, network: Precision = "fp32"
) -> Any:  # diffusers gives its pipelines no attributes that mypy knows
    """A pipeline in float32, the one that sees holes where its network does.

    Args:
        without: parts that are left out.
        network: the precision of the network's weights, which are brought into it before they are on the device.
    """
    import diffusers

    from noiseweave.engine.networks import text_pipeline
    from noiseweave.engine.networks.facts import read_facts

    facts = read_facts(name)
    family = facts.reader
    kind = getattr(diffusers, family.filling if facts.sees_holes else family.pipeline)
    parts = {part: None for part in without if (facts.folder / part).is_dir()}
    own: dict[str, Precision] = {family.network: network}
    exact = ModelConfig(name=name, precision="fp32")
    return text_pipeline.opened(kind, exact, facts.folder, own, **parts).to(device)


def open_readers(name: str, device: str) -> Any:
    """As ``open_pipeline``, with no more than its texts are read by."""
    from noiseweave.engine.networks.facts import read_facts

    facts = read_facts(name)
    # an SD3 without T5 has zeros in place of T5's states, and diffusers asks the network how wide they are
    asked = facts.family == "sd3" and not (facts.folder / "text_encoder_3").is_dir()
    return open_pipeline(name, device, "vae", *(() if asked else NETWORKS))
