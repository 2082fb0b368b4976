"""What a user may say of evaluate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from noiseweave.cluster.session import ClusterConfig
from noiseweave.engine.checks import check
from noiseweave.engine.diffusion.recipes import InversionRecipe, SolverName
from noiseweave.engine.features.recipes import AUTO, FeatureRecipe
from noiseweave.engine.judging.recipes import QualityRecipe
from noiseweave.engine.networks.recipes import UNNAMED, ModelConfig, check_named

Metric = Literal[
    "fd", "kid", "inception_score", "precision_recall", "density_coverage", "psnr", "ssim", "lpips"
]
OF_TWO_SETS: tuple[Metric, ...] = ("fd", "kid", "precision_recall", "density_coverage")
OF_SETS: tuple[Metric, ...] = (*OF_TWO_SETS, "inception_score")
OF_PAIRS: tuple[Metric, ...] = ("psnr", "ssim", "lpips")
MODES = ("sets", "pairs", "reconstruction", "samples")
USUAL = {
    "input and output": ("input", "reference", "output", "overwrite"),
    "what it does": ("mode", "metrics", "masks"),
    "model": ("features.name", "model.name", "inversion.num_steps"),
    "where it runs": ("cluster.address", "cluster.workers"),
}
OWNED = ("report.json", "quarantine.jsonl", "pairs.jsonl", "samples.jsonl")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Pictures -> figures of how good they are.

    Args:
        input: what is judged: shards (folder, glob, brace pattern, URL), a folder of pictures, or for sets
            statistics (.npz with mu and sigma, as pytorch-fid writes them).
        output: folder or URL for report.json and quarantine.jsonl; pairs also write pairs.jsonl, samples samples.jsonl.
        reference: what it is compared with, for sets and pairs; of the same kinds. In pairs a picture's
            partner has the same relative path without extension, or else the same file name; in shards the same key.
            For samples the shards that the input was made from.
        mode: sets, pairs, reconstruction or samples. Reconstruction inverts and replays each picture, with model
            and inversion. Samples reports of each generated picture whether it is a copy, out of its parents' class,
            broken, or kept.
        metrics: null takes what fits. For sets: fd (Frechet distance, FID with inception's features), kid (kernel
            distance), precision_recall, density_coverage, inception_score; for pairs: psnr, ssim, lpips.
        save_statistics: for sets, also write the input's n, mu and sigma to this .npz file.
        masks: for pairs, a folder of masks, matched as the reference is: figures inside and outside of them too.
            Samples of shards have theirs as .mask.png.
        mask_mode: the colour that counts as inside; grey counts as white from 128 on.
        features: the space that sets and samples are compared in.
        quality: for samples, what a verdict asks for, as of augment's gate; redraw and keep_rejected are augment's.
        model: the diffusion model, for unet features and for reconstruction; nothing else needs one.
        inversion: the recipe that reconstruction measures.
        compare_steps: for reconstruction, these in place of inversion.num_steps, one recipe each.
        compare_samplers: these in place of inversion.sampler, each with each of compare_steps.
        size: side of the pictures in pixels, for a latent model; null takes what the model was made for. For samples
            the side that they are looked at in; null takes that of the first.
        neighbours: k of precision_recall and density_coverage.
        max_samples: kid, precision_recall, density_coverage and intervals look at no more pictures of each set, drawn
            by the seed; fd and inception_score take all.
        bootstrap: resamples for the intervals; 0 gives none.
        confidence: of the intervals.
        seed: of the samples, the resamples, reconstruction's noise and the training of the judge.
        lpips_weights: AlexNet's weights of torchvision, .pth or .safetensors; null looks in torch hub's folder.
        max_pixels: larger pictures are quarantined unread.
        unit_pictures: pictures in a unit of work, where they are no shards.
        cluster: where it runs.
        overwrite: throw away an earlier run in the output folder and start anew.
    """

    input: str
    output: str
    reference: str | None = None
    mode: Literal["sets", "pairs", "reconstruction", "samples"] = "sets"
    metrics: tuple[Metric, ...] | None = None
    save_statistics: str | None = None
    masks: str | None = None
    mask_mode: Literal["black", "white"] = "black"
    features: FeatureRecipe = field(default_factory=FeatureRecipe)
    quality: QualityRecipe = field(default_factory=QualityRecipe)
    model: ModelConfig = UNNAMED
    inversion: InversionRecipe = field(default_factory=InversionRecipe)
    compare_steps: tuple[int, ...] = ()
    compare_samplers: tuple[SolverName, ...] = ()
    size: int | None = None
    neighbours: int = 5
    max_samples: int = 10_000
    bootstrap: int = 200
    confidence: float = 0.95
    seed: int = 0
    lpips_weights: str | None = None
    max_pixels: int = 64_000_000
    unit_pictures: int = 256
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name in ("input", "output"):
            check(bool(getattr(self, name).strip()), name, getattr(self, name), "a folder or URL")
        for name, low, high in (
            ("neighbours", 1, 1000),
            ("max_samples", 2, 1_000_000),
            ("max_pixels", 1, 1 << 40),
            ("unit_pictures", 1, 100_000),
        ):
            check(low <= getattr(self, name) <= high, name, getattr(self, name), f"{low} to {high}")
        few = [n for n in self.compare_steps if not self.inversion.skip < n <= 1000]
        check(not few, "compare_steps", self.compare_steps, "each above inversion.skip, at most 1000")
        enough = self.bootstrap == 0 or 20 <= self.bootstrap <= 100_000
        check(enough, "bootstrap", self.bootstrap, "0 (no intervals), or 20 to 100000")
        check(0.5 <= self.confidence < 1, "confidence", self.confidence, "0.5 to below 1")
        self._check_mode()
        check(
            self.features.name != AUTO,
            "features.name",
            AUTO,
            "the name of one space: figures compare within it",
        )
        unet = self.features.name == "unet" and self.mode in ("sets", "samples")
        if self.mode == "reconstruction" or unet:
            check_named(self.model)
        else:
            check(not self.model.loras, "model.lora", self.model.lora, "null, as no model is used here")

    def _check_mode(self) -> None:
        of_mode = {"sets": OF_SETS, "pairs": OF_PAIRS, "reconstruction": OF_PAIRS, "samples": ()}
        allowed = of_mode[self.mode]
        wrong = [m for m in self.metrics or () if m not in allowed]
        check(not wrong, "metrics", wrong, f"for mode {self.mode}: {', '.join(allowed) or 'null'}")
        check(self.metrics is None or len(self.metrics) > 0, "metrics", self.metrics, "at least one")
        only = {"save_statistics": "sets", "masks": "pairs"}
        for name, mode in only.items():
            value = getattr(self, name)
            check(value is None or self.mode == mode, name, value, f"for mode {mode} alone")
        saved = self.save_statistics
        check(
            saved is None or saved.endswith(".npz"), "save_statistics", saved, "a file name that ends in .npz"
        )
        with_reference = self.reference is not None
        self._check_quality()
        if self.mode in ("pairs", "samples"):
            check(with_reference, "reference", self.reference, f"needed for mode {self.mode}")
        elif self.mode == "reconstruction":
            check(
                not with_reference,
                "reference",
                self.reference,
                "null: reconstruction compares the input with itself",
            )
        else:
            self._check_sets()

    def _check_quality(self) -> None:
        usual = QualityRecipe()
        samples = self.mode == "samples"
        check(samples or self.quality == usual, "quality", "given", "for mode samples alone")
        for name in ("redraw", "keep_rejected", "strange"):
            value = getattr(self.quality, name)
            check(value == getattr(usual, name), f"quality.{name}", value, "for augment alone")

    def _check_sets(self) -> None:
        two = [m for m in self.metrics or () if m in OF_TWO_SETS]
        if self.reference is None:
            check(not two, "metrics", two, "they need a --reference")
            nothing = self.metrics is None and self.save_statistics is None
            check(
                not nothing,
                "reference",
                None,
                "needed, but for metrics inception_score and --save_statistics",
            )
        elif self.reference.endswith(".npz") or self.input.endswith(".npz"):
            pictures = () if self.input.endswith(".npz") else ("inception_score",)
            more = [m for m in self.metrics or () if m not in ("fd", *pictures)]
            check(
                not more,
                "metrics",
                more,
                "fd where a side is statistics (.npz), the others need its pictures",
            )
        statistics = self.input.endswith(".npz") and self.save_statistics is not None
        check(
            not statistics,
            "save_statistics",
            self.save_statistics,
            "null, as the input is statistics already",
        )

    @property
    def wanted(self) -> tuple[Metric, ...]:
        """The metrics of this run."""
        if self.metrics is not None:
            return tuple(self.metrics)
        if self.mode != "sets":
            return () if self.mode == "samples" else ("psnr", "ssim")
        if self.reference is None:
            return ()
        statistics = any((side or "").endswith(".npz") for side in (self.input, self.reference))
        return ("fd",) if statistics else OF_TWO_SETS
