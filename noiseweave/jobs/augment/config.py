"""What a user may say of augment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from noiseweave.cluster.session import ClusterConfig
from noiseweave.engine.checks import check
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.features.recipes import AUTO, FeatureRecipe
from noiseweave.engine.fusion.recipes import FusionRecipe
from noiseweave.engine.identity import ASIDE
from noiseweave.engine.judging.recipes import QualityRecipe
from noiseweave.engine.networks.recipes import UNNAMED, ModelConfig, PromptRecipe, check_named
from noiseweave.engine.pairing.recipes import PairingRecipe
from noiseweave.engine.usefulness.recipes import PoolRecipe

POSITIONAL = "input"
POSITIONAL_HELP = (
    "The input needs no flag: noiseweave augment my/photos --model.name NAME --output out/augmented"
)
USUAL = {
    "input and output": ("input", "pool", "output", "overwrite"),
    "what it does": (
        "pairing.threshold",
        "pairing.max_pairs",
        "fusion.per_pair",
        "fusion.modes",
        "fusion.ratio",
        "gate",
        "files",
    ),
    "model": ("model.name",),
    "where it runs": ("cluster.address", "cluster.workers"),
}
ALIASES = {
    "--similarity_threshold": "--pairing.threshold",
    "--max_pairs": "--pairing.max_pairs",
    "--fusion_mode": "--fusion.modes",
    "--fusion_ratio": "--fusion.ratio",
    "--input_dir": "--input",
    "--output_dir": "--output",
}


@dataclass(frozen=True, kw_only=True)
class SampleRecipe:
    """How the new samples are written.

    Args:
        image_format: png and webp are lossless, jpg is quality 95.
        keep_pool: also write the pool's pictures that were taken in, at the new ones' size and with their guessed
            labels, to guessed/.
        copy_original: also write the input's samples, at the new ones' size, to originals/.
        provenance: each new picture's file says in XMP that a model made it, which, and from what.
    """

    image_format: Literal["png", "jpg", "webp"] = "png"
    copy_original: bool = False
    keep_pool: bool = False
    provenance: bool = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """Shards -> similar pairs -> fused, labelled shards with their lineage.

    Args:
        input: a local folder of pictures, one sub-folder a class or all directly in it, or WebDataset .tar shards as a
            folder, glob, brace pattern or fsspec URL; pictures are packed into output/_run/packed first.
        output: folder or URL for shards/augmented-*.tar or pictures/, originals/, report.json, quarantine.jsonl,
            contact_sheet.png.
        pool: a folder of pictures, or shards, whose labels nobody knows (those that it has are passed over): the ones
            whose class is guessed surely enough are parents beside the input's. Their guesses are their labels.
        guess: which of the pool's pictures are taken in.
        seed: every random choice comes from it and the keys of the pictures.
        size: side of the pictures in pixels, for a latent model; null takes what the model was made for.
        model: the diffusion model.
        prompt: what a text-to-image model is conditioned on, for each picture.
        features: what similarity is measured in.
        pairing: which pictures are fused with which.
        inversion: how pictures become noise maps.
        fusion: how noise maps of a pair become one.
        gate: check each new picture, draw again what is a copy, a double exposure, broken or out of its class, and
            leave out what stays so. null checks photos alone: pictures in colour of 64 pixels a side or more.
        quality: what the gate asks for.
        samples: how the new samples are written.
        files: shards writes WebDataset tars, to shards/; folder writes the pictures as files, to pictures/: a folder
            for each class, classes.json and a metadata.jsonl with their lineage, as unpack makes them of shards.
        max_pixels: larger pictures are quarantined unread.
        follow: the input folder grows while the job runs (window scope only); its shards must arrive in the
            order of their names.
        follow_marker: a growing input is complete when a file of this name lies in the folder.
        follow_quiet: it is also complete after so many seconds without a new shard.
        cluster: where the work runs.
        skip_failed: quarantine units that failed twice, name their shards and go on without them, as long as others
            of the phase are done; otherwise the job stops after the phase, and the same command tries them again.
        overwrite: throw away an earlier run in the output folder and start anew.
    """

    input: str = field(metadata=ASIDE)
    output: str = field(metadata=ASIDE)
    pool: str | None = field(default=None, metadata=ASIDE)
    guess: PoolRecipe = field(default_factory=PoolRecipe)
    seed: int = 0
    size: int | None = None
    model: ModelConfig = UNNAMED
    prompt: PromptRecipe = field(default_factory=PromptRecipe)
    features: FeatureRecipe = field(default_factory=lambda: FeatureRecipe(name=AUTO))
    pairing: PairingRecipe = field(default_factory=PairingRecipe)
    inversion: InversionRecipe = field(default_factory=InversionRecipe)
    fusion: FusionRecipe = field(default_factory=FusionRecipe)
    gate: bool | None = None
    quality: QualityRecipe = field(default_factory=QualityRecipe)
    samples: SampleRecipe = field(default_factory=SampleRecipe)
    files: Literal["shards", "folder"] = "shards"
    max_pixels: int = 64_000_000
    follow: bool = field(default=False, metadata=ASIDE)
    follow_marker: str = field(default="_END", metadata=ASIDE)
    follow_quiet: float = field(default=60.0, metadata=ASIDE)
    cluster: ClusterConfig = field(default_factory=ClusterConfig, metadata=ASIDE)
    skip_failed: bool = field(default=False, metadata=ASIDE)
    overwrite: bool = field(default=False, metadata=ASIDE)

    def __post_init__(self) -> None:
        check(bool(self.output.strip()), "output", self.output, "a folder or URL")
        check_named(self.model)
        check(self.max_pixels >= 1, "max_pixels", self.max_pixels, "1 or more")
        marker = self.follow_marker
        check(bool(marker) and "/" not in marker, "follow_marker", marker, "a plain file name")
        check(self.follow_quiet > 0, "follow_quiet", self.follow_quiet, "above 0")
        mask = self.fusion.region.mask
        allowed = "null for augment, whose masks lie beside the pictures, as .mask.png"
        check(mask is None, "fusion.region.mask", mask, allowed)
        window = self.pairing.scope == "window" and self.samples.copy_original
        check(
            not window,
            "samples.copy_original",
            True,
            "for pairing.scope=dataset, which keeps an index of the input",
        )
        self._check_pool()
        listed = isinstance(self.prompt.source, tuple)
        check(not listed, "prompt.source", self.prompt.source, "one text for augment; see prompt.template")
        if self.follow and self.pairing.scope != "window":
            raise ValueError(
                "follow=True: needs pairing.scope=window, as dataset scope pairs the whole input"
            )

    def _check_pool(self) -> None:
        if self.pool is None:
            check(not self.samples.keep_pool, "samples.keep_pool", True, "needs a pool")
            return
        check(bool(self.pool.strip()), "pool", self.pool, "a folder of pictures, or shards")
        dataset = self.pairing.scope == "dataset"
        check(dataset, "pool", self.pool, "for pairing.scope=dataset, which keeps an index of the input")
