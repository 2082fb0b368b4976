"""The controls of the tabs Fuse and Pairs -> the config of ``noiseweave augment`` that does so with the whole input."""

from __future__ import annotations

from noiseweave.cluster import storage
from noiseweave.cluster.session import ClusterConfig
from noiseweave.engine.checks import check
from noiseweave.engine.features.recipes import AUTO, FeatureRecipe
from noiseweave.engine.fusion.recipes import FusionRecipe, RegionRecipe
from noiseweave.engine.pairing.recipes import PairingRecipe
from noiseweave.engine.records import JsonMapping
from noiseweave.jobs.augment import config as augment
from noiseweave.jobs.studio.config import Config
from noiseweave.jobs.studio.features import FOLDER
from noiseweave.jobs.studio.fusing import inversion_of, mode_of, prompt_of
from noiseweave.jobs.studio.values import number, whole


def config_of(
    config: Config,
    controls: JsonMapping,
    output: str,
    pairing: PairingRecipe | None = None,
    space: FeatureRecipe | None = None,
) -> augment.Config:
    """Pairs of the input, fused as the tab Fuse fuses two pictures: mode, ratio, region, fresh noise, steps, seed.

    An edit is of one picture, and a weight of three or more: they are not taken. A model that is conditioned on
    classes or texts takes each picture's own.

    Args:
        controls: those of the tab Fuse, by name.
        pairing: which pairs; None is augment's own.
        space: what pictures are compared in; None leaves the choice to augment.

    Raises:
        ValueError: one line: a value that is not allowed.
    """
    region = controls["region"]
    check(
        region != "file",
        "fusion.region.source",
        region,
        "everywhere or saliency: a painting is of two pictures",
    )
    return augment.Config(
        input=str(config.input),
        output=output,
        seed=whole(controls, "seed"),
        size=config.size,
        model=config.model,
        prompt=prompt_of(controls, labels=True),
        features=space or FeatureRecipe(name=AUTO, cache=storage.join(config.output, FOLDER)),
        pairing=pairing or PairingRecipe(),
        inversion=inversion_of(controls),
        fusion=FusionRecipe(
            modes=mode_of(controls),
            ratio=number(controls, "ratio"),
            region=RegionRecipe(source=region),
            variation=number(controls, "variation"),
        ),
        max_pixels=config.max_pixels,
        cluster=cluster(),
    )


def cluster() -> ClusterConfig:
    """Where a run beside the page runs: in one process, without Ray, where one process can use all of the machine."""
    import torch

    return ClusterConfig(address="auto" if torch.cuda.device_count() > 1 else "inline")
