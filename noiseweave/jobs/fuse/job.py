"""The ``fuse`` job: pictures -> one, fused in noise space. Runs in this process, without Ray.

One picture and a target prompt are text-guided editing (arXiv 2304.06140): inverted as what it shows, replayed as
what it should show. One picture and ``edit`` are an edit of its noise maps alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from noiseweave import __version__
from noiseweave.engine.checks import check
from noiseweave.engine.fusion import reconstruction
from noiseweave.engine.fusion.recipes import MODES, Mode
from noiseweave.engine.networks import loading
from noiseweave.engine.networks.recipes import Prompts
from noiseweave.engine.records import Json, JsonMapping
from noiseweave.engine.seeding import seed_of
from noiseweave.jobs.fuse.config import Config, drawn, spread
from noiseweave.jobs.reading import class_names, looks, loras

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from noiseweave.engine.fusion.drawing import Drawing
    from noiseweave.engine.networks.backbone import Backbone
    from noiseweave.engine.networks.facts import ModelFacts

FLAGGED = (
    "the model's safety checker flags the picture, and once more with another seed; nothing was written "
    "(--model.safety_checker false does without it)"
)


def run(config: Config) -> int:
    """Do the job. Returns 0, or 1 when the model's safety checker flags the picture.

    Raises:
        ValueError: what a user can put right, in one line.
    """
    from noiseweave.cluster import lock, storage
    from noiseweave.engine.networks import tuning
    from noiseweave.jobs.fuse import output as folder
    from noiseweave.jobs.fuse import pictures as work

    model, _ = tuning.settled_here(loras.settled(config.model), tuning.pick_device())
    config = replace(config, model=model)
    facts = loading.describe(config.model.name, config.size)
    inversion = loading.settled_chain(facts, config.inversion)
    config = replace(config, inversion=inversion, prompt=loading.settled_prompt(facts, config.prompt))
    prompts = config.prompts if facts.conditioning == "text" else classes(config, facts)
    keys, image_NHWC, unlike = work.pictures(config.images, facts)
    config = drawn(config, keys)
    mask_HW, mask_key = work.mask(config.fusion.region, config.images[-1], facts.side)
    if config.cache is not None:
        storage.check_writable(storage.absolute(config.cache))
    output = storage.absolute(config.output)
    folder.claim(output, config.images)
    looks.warn(unlike)
    looks.warn(loading.long_chain(facts, inversion))
    with lock.held(output):
        return _fused(config, facts, _Read(keys, image_NHWC, mask_HW, mask_key), prompts)


def classes(config: Config, facts: ModelFacts) -> Prompts | None:
    """The class of each picture, where they are given.

    Raises:
        ValueError: the model knows no classes, or not this one.
    """
    if config.labels is None:
        return None
    knows = facts.conditioning == "class"
    check(knows, "labels", config.labels, f"null: model {facts.name!r} is conditioned on no class")
    names = class_names.classes_in(str(facts.folder)) or [str(n) for n in range(facts.classes)]
    numbers = [class_names.number(label, names, facts.classes) for label in config.labels.split(",")]
    return config.prompt.classes(numbers if len(numbers) > 1 else numbers * len(config.images))


class _Read(NamedTuple):
    """What was read: the pictures' keys and pixels; of a mask, where there is one, weights and key."""

    keys: list[str]
    image_NHWC: np.ndarray
    mask_HW: torch.Tensor | None
    mask_key: str | None


def _fused(config: Config, facts: ModelFacts, read: _Read, prompts: Prompts | None) -> int:
    from noiseweave.cluster import storage
    from noiseweave.engine.networks.tuning import pick_device
    from noiseweave.jobs.fuse import output as folder
    from noiseweave.jobs.fuse import pictures as work
    from noiseweave.jobs.report.job import finish_page

    output, (keys, image_NHWC, mask_HW, mask_key) = storage.absolute(config.output), read
    model = loading.load(config.model, pick_device(), config.size, loras.adding(config.model))
    work.warn(model, prompts)
    made = drawing(config, model, image_NHWC, keys, prompts, mask_HW)
    if made.flagged_F[0]:
        config = replace(config, seed=seed_of(config.seed, "flagged", *keys))
        made = drawing(config, model, image_NHWC, keys, prompts, mask_HW)
    if made.flagged_F[0]:
        print(f"error: flagged: {FLAGGED}", file=sys.stderr)
        return 1
    psnr, model_hash = made.psnr, loading.fingerprint(facts, config.model)
    files = work.encoded(config, image_NHWC, made.shown_FHWC, keys, model_hash)
    folder.replace(output, files.items())
    lineage = describe(config, keys, psnr, list(files), model_hash, prompts)
    lineage = {**lineage, "flagged": int(made.flagged_F.sum())}
    storage.write_json(storage.join(output, folder.LINEAGE), {**lineage, **chosen(config, mask_key)})
    print("\n".join(f"wrote {storage.join(output, name)}" for name in [*files, "fuse.json"]))
    work.report_fidelity(model, psnr, image_NHWC)
    if count := int(made.flagged_F.sum()):
        print(f"{count} pictures of the sweep are flagged by the model's safety checker and shown grey")
    finish_page(output)
    return 0


@dataclass(frozen=True, kw_only=True)
class Made:
    """The fused picture and, after it, those of the sweep.

    Attributes:
        image_FHWC: uint8.
        flagged_F: which of them the model's safety checker flags.
        psnr: of each input's plain invert -> replay, in dB.
    """

    image_FHWC: np.ndarray
    flagged_F: np.ndarray
    psnr: list[float]

    @property
    def shown_FHWC(self) -> np.ndarray:
        """The pictures, grey where one is flagged."""
        return np.where(self.flagged_F[:, None, None, None], np.uint8(128), self.image_FHWC)


def drawing(
    config: Config,
    model: Backbone,
    image_NHWC: np.ndarray,
    keys: Sequence[str],
    prompts: Prompts | None,
    mask_HW: Tensor | None,
) -> Made:
    """Invert, mix or edit, replay."""
    from noiseweave.engine.fusion import drawing as engine
    from noiseweave.engine.fusion.groups import Inverted
    from noiseweave.jobs.fuse import pictures as work

    path, maps = work.inverted(config, model, image_NHWC, keys, prompts)
    psnr = reconstruction.fidelity(model, path, maps, image_NHWC, prompts, config.inversion.sampler)
    group = Inverted(path=path, maps=maps, prompts=prompts)
    image_FHWC, flagged_F = engine.draw(model, group, keys, recipe_of(config, mask_HW))
    return Made(image_FHWC=image_FHWC, flagged_F=flagged_F, psnr=psnr)


def recipe_of(config: Config, mask_HW: Tensor | None = None) -> Drawing:
    """What a config, once ``drawn`` has left one mode, draws: its picture and, with a sweep, the cells of that."""
    from noiseweave.engine.fusion.drawing import Drawing

    return Drawing(
        cells=[(config.mode, config.shares), *(grid(config) if config.sweep else ())],
        edit=config.edit,
        region=config.fusion.region,
        mask_HW=mask_HW,
        fresh=config.fusion.variation,
        keep_spread=config.fusion.keep_spread,
        solver=config.inversion.sampler,
        seed=config.seed,
    )


def grid(config: Config) -> list[tuple[Mode, list[float]]]:
    """The cells of the sweep, row by row."""
    return [(mode, spread(ratio, len(config.images))) for mode in MODES for ratio in config.ratios]


def chosen(config: Config, mask_key: str | None) -> Json:
    """What fuse.json records of an edit or a region, where there is one; mask_key is the SHA-256 of the file."""
    edit = {"edit": asdict(config.edit)} if config.edit else {}
    everywhere = config.fusion.region.source == "everywhere"
    return edit | (
        {} if everywhere else {"region": {**asdict(config.fusion.region), "mask_sha256": mask_key}}
    )


def describe(
    config: Config,
    keys: Sequence[str],
    psnr: Sequence[float],
    files: Sequence[str],
    model_hash: str,
    prompts: Prompts | None,
) -> JsonMapping:
    """The content of fuse.json: enough to make the picture again."""
    rows = zip(config.images, keys, config.shares, psnr, strict=True)
    return {
        "inputs": [
            {"path": path, "sha256": key, "weight": round(weight, 6), "psnr": value}
            for path, key, weight, value in rows
        ],
        "mode": config.mode,
        "keep_spread": config.fusion.keep_spread,
        "variation": config.fusion.variation,
        "seed": config.seed,
        **asdict(config.inversion),
        "model": config.model.name,
        "model_hash": model_hash,
        "lora": loras.record(config.model),
        "precision": config.model.precision,
        "noiseweave": __version__,
        "files": files,
        "sweep": {"modes": MODES, "ratios": config.ratios} if config.sweep else None,
        **({"prompt": asdict(prompts)} if prompts else {}),
    }
