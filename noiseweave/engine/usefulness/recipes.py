"""What is compared in ``evaluate usefulness``. Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from noiseweave.engine.checks import check
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.features.recipes import AUTO, FeatureRecipe
from noiseweave.engine.fusion.recipes import FusionRecipe
from noiseweave.engine.judging.recipes import Classical, ClassifierRecipe, QualityRecipe
from noiseweave.engine.networks.recipes import UNETS
from noiseweave.engine.training.recipes import ObjectiveRecipe, ScheduleRecipe, UnetRecipe

Protocol = Literal["closed", "prior"]


@dataclass(frozen=True, kw_only=True)
class GeneratorRecipe:
    """The diffusion model that the pictures are made with: class-conditional, of pixels or a VAE's latents.

    In the closed protocol it sees the few labelled pictures alone. In the prior one it is first trained on the whole
    pool with every label hidden, then goes on with the few labelled pictures beside the pool.

    Args:
        kind: ddpm, flow or linear_mixing, see ``train --help``.
        vae: taesd, which ships, or the folder or hub id of a diffusers AutoencoderKL or AutoencoderTiny, on whose
            latents the network then works; null works on pixels.
        enlarge: the generator sees pictures of so many times their side, and what it makes is brought back to it: a
            VAE smears what is small.
        precision: what the network trains in, fp32 or bf16; it draws in fp32.
        steps: on the pool, labels hidden; none in the closed protocol.
        tuning_steps: with the labels of the few; in the closed protocol these are all there are.
        batch: pictures in a step.
        labelled: share of labelled pictures in a batch while the labels are learnt, in the prior protocol.
        lr: highest learning rate.
        label_dropout: share of labels hidden, for guidance.
        ema: decay of the moving average of the weights.
    """

    kind: Literal["ddpm", "flow", "linear_mixing"] = "ddpm"
    vae: str | None = None
    enlarge: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    steps: int = 2000
    tuning_steps: int = 600
    batch: int = 64
    labelled: float = 0.5
    lr: float = 1e-3
    label_dropout: float = 0.1
    ema: float = 0.995
    objective: ObjectiveRecipe = field(default_factory=lambda: ObjectiveRecipe(target="v_prediction"))
    unet: UnetRecipe = field(default_factory=lambda: UnetRecipe(channels=(32, 64, 64)))
    schedule: ScheduleRecipe = field(default_factory=ScheduleRecipe)

    def __post_init__(self) -> None:
        check(self.kind in UNETS, "generator.kind", self.kind, f"one of {', '.join(UNETS)}")
        check(
            self.vae is None or bool(self.vae),
            "generator.vae",
            self.vae,
            "a name, a folder, a hub id or null",
        )
        check(1 <= self.enlarge <= 8, "generator.enlarge", self.enlarge, "1 (off) to 8")
        coupled = self.objective.coupling
        check(coupled == "independent", "generator.objective.coupling", coupled, "independent, here")
        check(self.steps >= 0, "generator.steps", self.steps, "0 or more")
        for name in ("tuning_steps", "batch"):
            check(getattr(self, name) >= 1, f"generator.{name}", getattr(self, name), "1 or more")
        check(0 < self.labelled <= 1, "generator.labelled", self.labelled, "above 0, at most 1")
        check(0 < self.lr < math.inf, "generator.lr", self.lr, "above 0")
        check(0 <= self.label_dropout < 1, "generator.label_dropout", self.label_dropout, "0 to below 1")
        check(0 <= self.ema < 1, "generator.ema", self.ema, "0 to below 1")


@dataclass(frozen=True, kw_only=True)
class ClassifierChoice(ClassifierRecipe):
    """A classifier that is trained with every method, from nothing or from weights that it begins with.

    Args:
        pretrained: efficientnet-lite0, fine-tuned from its ImageNet weights, or null, from nothing; a width has
            only the latter.
        blocks: of a pretrained network, its last blocks that learn, of 16; null is all of it.
        resize: of a pretrained network, side that pictures are resized to for it; 0 leaves them as they are.
    """

    pretrained: Literal["efficientnet-lite0"] | None = None
    blocks: int | None = None
    resize: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.blocks is None or self.blocks >= 0, "blocks", self.blocks, "0 or more, or null (all)")
        check(self.resize == 0 or self.resize >= 32, "resize", self.resize, "0 (as they are), or 32 or more")
        for name in ("blocks", "resize"):
            given = self.pretrained is None and getattr(self, name)
            check(not given, name, getattr(self, name), "of a pretrained classifier alone")


@dataclass(frozen=True, kw_only=True)
class GuessRecipe:
    """What the pool's pictures are taken for, in the prior protocol: pseudo-labels (Lee 2013).

    A classifier of the few makes them. The generator is conditioned on them (You et al., arXiv 2302.10586), and
    the method ``pseudo_labels`` adds these pictures.

    Args:
        sure: a guess counts when it is at least so probable; 1 makes no guess.
        classifier: what guesses, where features are null; with its own classical augmentations.
        rounds: of self-training (Xie et al., arXiv 1911.04252): from the second on, the classifier also learns from
            what the one before was sure of.
        features: a logistic regression on these features in place of the classifier, null for the classifier. What
            such a network was trained on comes in beside the pool: the protocol is no longer the data's alone.
    """

    sure: float = 1.0
    classifier: ClassifierRecipe = field(default_factory=lambda: ClassifierRecipe(classical=("affine",)))
    rounds: int = 1
    features: FeatureRecipe | None = None

    def __post_init__(self) -> None:
        check(0 < self.sure <= 1, "guess.sure", self.sure, "above 0, at most 1 (off)")
        check(self.rounds >= 1, "guess.rounds", self.rounds, "1 or more")
        unet = self.features is not None and self.features.name == "unet"
        auto = self.features is not None and self.features.name == AUTO
        check(not auto, "guess.features.name", AUTO, "the name of one space")
        check(not unet, "guess.features.name", "unet", "features that need no diffusion model")


@dataclass(frozen=True, kw_only=True)
class PoolRecipe:
    """Which pictures of augment's pool get a label: pseudo-labels (Lee 2013).

    Args:
        confidence: a picture of the pool is used where its class is at least so probable, by a logistic regression of
            the labelled pictures' features.
    """

    confidence: float = 0.9

    def __post_init__(self) -> None:
        check(0 < self.confidence <= 1, "guess.confidence", self.confidence, "above 0, at most 1")


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to more pictures.

    Args:
        classical: augmentations of every batch.
        made: added pictures: none; blend (pixels of the same pairs, mixed); samples (drawn from the class-conditional
            model); fusion (of pairs, in noise space); variations (of one picture: its noise maps with fresh noise, as
            fusion.variation has it, so SDEdit, arXiv 2108.01073, at 1); pseudo_labels (the pool's own pictures with
            their guesses).
        count: added pictures; of pseudo_labels, all with a guess.
        share: of added pictures in a batch; None is the classifier's.
        smoothing: share of the labels of added pictures that is spread evenly over all classes (arXiv 2403.19600).
        weights: of classes among what is made: even, or hard: by how often the guesses' classifier, cross-validated
            on the few, takes each for another.
        parents: of fusion, blend and variations: the few, or those and the pool's pictures with a guess (guessed),
            which is taken for their label.
        keep_parents: with ``parents: guessed``, the guessed pictures themselves are added as well.
        pairs: of the same class, or of any two, with soft labels.
        hard_labels: a picture of two classes is given the label of the larger share.
        inversion, fusion: of fusion and variations; blend takes the ratios of fusion.
        skips: of fusion and variations: several strengths, one of which takes the place of inversion.skip in each
            picture; () is inversion.skip alone.
        guidance: of the labels, in the replay of fusion and in drawing samples; 1 is off.
        conditional: whether the model is conditioned on the labels at all.
        gate: leave out, after quality.redraw tries, what quality rejects.
        quality: what the gate asks for; its judge is trained on the few labelled pictures.
        confidence: of what the generator draws, leave out what the guesses' classifier of the few does not take for
            its label with at least this chance; 0 is off.
    """

    classical: tuple[Classical, ...] = ()
    made: Literal["none", "blend", "samples", "fusion", "variations", "pseudo_labels"] = "none"
    count: int = 1000
    share: float | None = None
    smoothing: float = 0.0
    weights: Literal["even", "hard"] = "even"
    parents: Literal["few", "guessed"] = "few"
    keep_parents: bool = False
    pairs: Literal["same_class", "any"] = "same_class"
    hard_labels: bool = False
    inversion: InversionRecipe = field(default_factory=InversionRecipe)
    fusion: FusionRecipe = field(default_factory=FusionRecipe)
    skips: tuple[int, ...] = ()
    guidance: float = 1.0
    conditional: bool = True
    gate: bool = False
    quality: QualityRecipe = field(default_factory=QualityRecipe)
    confidence: float = 0.0

    def __post_init__(self) -> None:
        check(self.count >= 1, "methods.count", self.count, "1 or more")
        check(self.share is None or 0 < self.share < 1, "methods.share", self.share, "above 0, below 1")
        check(0 <= self.guidance <= 100, "methods.guidance", self.guidance, "0 to 100")
        check(0 <= self.smoothing < 1, "methods.smoothing", self.smoothing, "0 to below 1")
        check(0 <= self.confidence <= 1, "methods.confidence", self.confidence, "0 to 1")
        self._check_of("parents", "few", ("fusion", "blend", "variations"))
        self._check_of("skips", (), ("fusion", "variations"))
        self._check_of("confidence", 0.0, ("samples", "fusion", "variations"))
        self._check_of("smoothing", 0.0, ("blend", "samples", "fusion", "variations", "pseudo_labels"))
        self._check_of("weights", "even", ("blend", "samples", "fusion", "variations"))
        hard = self.weights == "hard" and self.pairs == "any"
        check(not hard, "methods.weights", self.weights, "even with pairs: any")
        steps = self.inversion.num_steps
        check(all(0 <= s < steps for s in self.skips), "methods.skips", self.skips, f"each 0 to {steps - 1}")
        same = self.made == "variations" and self.fusion.variation == 0
        check(not same, "methods.fusion.variation", 0, "above 0 with made: variations")
        kept = self.keep_parents and self.parents != "guessed"
        check(not kept, "methods.keep_parents", self.keep_parents, "with parents: guessed alone")

    def _check_of(self, name: str, usual: object, made: tuple[str, ...]) -> None:
        """Raise ValueError where an option is given that says something of other methods."""
        value = getattr(self, name)
        fits = self.made in made or value == usual
        check(fits, f"methods.{name}", value, f"of {', '.join(made)} alone")

    @property
    def drawn(self) -> bool:
        """Whether its pictures come from the generator."""
        return self.made in ("samples", "fusion", "variations")

    @property
    def guesses(self) -> bool:
        """Whether it adds what was guessed, which no closed protocol has."""
        return self.made == "pseudo_labels" or self.parents == "guessed"
