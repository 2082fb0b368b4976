"""The ``augment`` job: shards -> features -> similar pairs -> groups -> fused, labelled shards.

Three flows with a barrier between them: embed (a shard), pair (a block of rows), generate (a group). With
``pairing.scope: window`` one flow does all three for a run of consecutive shards (augment_window.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, cast

from noiseweave.cluster.session import ClusterConfig
from noiseweave.engine.quality_recipes import QualityRecipe
from noiseweave.engine.recipes import (
    FeatureRecipe,
    FusionRecipe,
    Hears,
    InversionRecipe,
    ModelConfig,
    PairingRecipe,
    PromptRecipe,
    Prompts,
    check,
)

if TYPE_CHECKING:
    from noiseweave.engine.records import Location

FORGOTTEN = "forgotten.json"  # in _run: what `noiseweave forget` named


@dataclass(frozen=True, kw_only=True)
class SampleRecipe:
    """How the new samples are written.

    Args:
        image_format: png and webp are lossless, jpg is quality 95.
        copy_original: also write the input's samples, as original-*.tar beside the new shards.
        provenance: each new picture's file says in XMP that a model made it, which, and from what.
    """

    image_format: Literal["png", "jpg", "webp"] = "png"
    copy_original: bool = False
    provenance: bool = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """Shards -> similar pairs -> fused, labelled shards with their lineage.

    Args:
        input: folder, glob, brace pattern or fsspec URL of WebDataset .tar shards.
        output: folder or URL for shards/augmented-*.tar, report.json, quarantine.jsonl, contact_sheet.png.
        seed: every random choice comes from it and the keys of the pictures.
        size: side of the pictures in pixels, for a latent model; null takes what the model was made for.
        model: the diffusion model.
        prompt: what a text-to-image model is told of each picture.
        features: what similarity is measured in.
        pairing: which pictures are fused with which.
        inversion: how pictures become noise maps.
        fusion: how noise maps of a pair become one.
        gate: check each new picture, draw again what is a copy, broken or out of its class, and leave out what
            stays so.
        quality: what the gate asks for.
        samples: how the new samples are written.
        max_pixels: larger pictures are quarantined unread.
        follow: the input folder grows while the job runs (window scope only); its shards must arrive in the
            order of their names.
        follow_marker: a growing input is complete when a file of this name lies in the folder.
        follow_quiet: it is also complete after so many seconds without a new shard.
        cluster: where the work runs.
        skip_failed: count units that failed twice as quarantined and go on without them; otherwise the job
            stops after the phase, and the same command tries them again.
        overwrite: throw away an earlier run in the output folder and start anew.
    """

    input: str
    output: str
    seed: int = 0
    size: int | None = None
    model: ModelConfig = field(default_factory=ModelConfig)
    prompt: PromptRecipe = field(default_factory=PromptRecipe)
    features: FeatureRecipe = field(default_factory=FeatureRecipe)
    pairing: PairingRecipe = field(default_factory=PairingRecipe)
    inversion: InversionRecipe = field(default_factory=InversionRecipe)
    fusion: FusionRecipe = field(default_factory=FusionRecipe)
    gate: bool = False
    quality: QualityRecipe = field(default_factory=QualityRecipe)
    samples: SampleRecipe = field(default_factory=SampleRecipe)
    max_pixels: int = 64_000_000
    follow: bool = False
    follow_marker: str = "_END"
    follow_quiet: float = 60.0
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    skip_failed: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        check(bool(self.output.strip()), "output", self.output, "a folder or URL")
        check(self.max_pixels >= 1, "max_pixels", self.max_pixels, "1 or more")
        marker = self.follow_marker
        check(bool(marker) and "/" not in marker, "follow_marker", marker, "a plain file name")
        check(self.follow_quiet > 0, "follow_quiet", self.follow_quiet, "above 0")
        mask = self.fusion.region.mask
        allowed = "null for augment, whose masks lie beside the pictures, as .mask.png"
        check(mask is None, "fusion.region.mask", mask, allowed)
        listed = isinstance(self.prompt.source, tuple)
        check(not listed, "prompt.source", self.prompt.source, "one text for augment; see prompt.template")
        if self.follow and self.pairing.scope != "window":
            raise ValueError(
                "follow=True: needs pairing.scope=window, as dataset scope pairs the whole input"
            )


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the workers need to know of a job: plain values, small enough to travel with each callable.

    Attributes:
        config: the job's config.
        output: absolute output folder or URL.
        root: what the URLs of all shards begin with; a shard's name is the rest.
        channels, size: of the model's pictures.
        feature_side: side of the pictures that the extractor wants.
        model_hash: fingerprint of the model's files.
        hears: what the model is told: words, classes or nothing.
        classes: names of the classes, where the prompts ask for them and the input has them.
        forgotten: digests of the pictures that `noiseweave forget` named, see ``digest_of``.
    """

    config: Config
    output: str
    root: str
    channels: int
    size: int
    feature_side: int
    model_hash: str
    hears: Hears = "nothing"
    classes: tuple[str, ...] = ()
    forgotten: frozenset[str] = frozenset()

    def name_of(self, shard: str) -> str:
        """A shard's name: it stays when the whole data set moves."""
        return shard[len(self.root) :]

    def key_of(self, shard: str, key: str) -> str:
        """A picture's name in the whole data set."""
        return f"{self.name_of(shard)}#{key}"

    def forgets(self, shard: str, key: str) -> bool:
        """Whether a picture is no longer to be used."""
        names = (self.name_of(shard), shard)
        return bool(self.forgotten) and any(digest_of(name, key) in self.forgotten for name in names)

    def prompts_of(self, images: Sequence[Location]) -> Prompts | None:
        """What the model is told of some pictures; None where that is nothing."""
        if self.hears == "nothing":
            return None
        if self.hears == "classes":
            return self.config.prompt.classes([p.label for p in images])
        return self.config.prompt.of([self._class_of(p.label) for p in images], [p.caption for p in images])

    def _class_of(self, label: int | None) -> str | None:
        known = label is not None and 0 <= label < len(self.classes)
        return self.classes[cast(int, label)] if known else None if label is None else str(label)


def run(config: Config) -> int:
    """Do the job. Returns 0, or 1 when units failed.

    Raises:
        ValueError: what a user can put right, in one line.
    """
    from noiseweave.cluster import ledger, storage
    from noiseweave.cluster.session import session
    from noiseweave.jobs import augment_dataset, augment_report, augment_window

    output = storage.absolute(config.output)
    found = [] if config.follow else _find(config)
    task = _task(config, output, found)
    book = ledger.open_run(output, identity(task, found), config.overwrite, augment_report.OWNED)
    path = book.path(FORGOTTEN)
    task = replace(task, forgotten=frozenset(storage.read_json(path) if storage.exists(path) else ()))
    with session(config.cluster) as s:
        phases = augment_window if config.pairing.scope == "window" else augment_dataset
        outcomes = phases.run(task, found, book, s)
        if config.samples.copy_original and not augment_report.failed(outcomes):
            outcomes["copy"] = augment_dataset.copy_original(task, book, s)
        return augment_report.finish(task, book, outcomes, s)


def digest_of(shard: str, key: str) -> str:
    """What a run keeps of a picture that was forgotten, in place of its name."""
    return hashlib.sha256(f"{shard}#{key}".encode()).hexdigest()


def _find(config: Config) -> list[str]:
    from noiseweave.cluster import shards

    return shards.find(config.input)


def _task(config: Config, output: str, found: list[str]) -> Task:
    from noiseweave.cluster import storage
    from noiseweave.engine import backbone, features

    channels, size = backbone.shape(config.model.name, config.size)
    backbone.check_steps(config.model.name, config.inversion.num_steps, config.inversion.sampler)
    hears = backbone.hears(config.model.name, config.prompt)
    config = replace(config, fusion=config.fusion.settled(hears == "classes"))
    root = common_root(found) if found else storage.absolute(config.input).rstrip("/") + "/"
    return Task(
        config=config, output=output, channels=channels, size=size, root=root,
        feature_side=features.side(config.features, config.model.name, config.size),
        model_hash=backbone.fingerprint(config.model.name), hears=hears,
        classes=_class_names(config, found or [root]) if hears == "words" else (),
    )  # fmt: skip


def _class_names(config: Config, found: list[str]) -> tuple[str, ...]:
    """What classes.json beside the shards says, as pack writes it; () where no prompt asks for a class."""
    from noiseweave.jobs import pack_shards

    asks = any("{label}" in (text or "") for text in (config.prompt.template, config.prompt.target))
    return tuple(pack_shards.carried_classes(cast(Any, config), found)) if asks else ()


def common_root(found: list[str]) -> str:
    """The folder that all shards lie in, with its slash."""
    first, last = min(found).split("/")[:-1], max(found).split("/")[:-1]
    same = [a for a, b in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))]
    return "/".join([*same, ""])


def identity(task: Task, found: list[str]) -> Mapping[str, Any]:
    """What the output depends on. Where it is computed, and how much at a time, is left out."""
    from noiseweave.cluster import storage

    config: dict[str, Any] = {"job": "augment"} | asdict(task.config)
    for name in ("output", "cluster", "overwrite", "skip_failed", "input"):
        del config[name]
    for name in ("follow", "follow_marker", "follow_quiet"):
        del config[name]
    for name in ("batch", "cache"):
        del config["features"][name]
    if config["features"]["weights"] is None:  # a run begun before there was a choice goes on
        del config["features"]["weights"]
    config["model"] = task.config.model.identity() | {"hash": task.model_hash}
    if task.hears == "words":
        config["prompt"]["classes"] = task.classes
    elif task.hears == "nothing":
        del config["prompt"]
    if task.config.size is None:
        del config["size"]
    if not task.config.gate:
        del config["gate"], config["quality"]
    if task.config.inversion.sampler == "ddim":  # a run begun before there was a choice goes on
        del config["inversion"]["sampler"]
    defaults = FusionRecipe(variation=0.0)
    for name in ("adaptive", "variation", "per_pair"):
        if getattr(task.config.fusion, name) == getattr(defaults, name):
            del config["fusion"][name]
    if task.config.fusion.region.source == "everywhere":
        del config["fusion"]["region"]
    if not task.config.samples.provenance:
        del config["samples"]["provenance"]
    if found:
        listing = "".join(f"{task.name_of(s)} {storage.size_of(s)}\n" for s in found)
        digest = hashlib.sha256(listing.encode()).hexdigest()[:16]
        config["input"] = {"shards": len(found), "names_and_sizes": digest}
    else:
        config["input"] = {"follow": task.config.input}
    return config
