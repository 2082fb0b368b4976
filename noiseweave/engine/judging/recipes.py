"""What a user can choose about classifiers and about the check of generated pictures. Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from noiseweave.engine.checks import check

UNLIKE = {"efficientnet-lite0": 0.6}
"""Feature space -> cosine to the nearest input picture below which a made photo is none (docs/jobs/augment.md)."""
Classical = Literal["flip", "crop", "affine", "randaugment", "mixup", "cutmix"]


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe:
    """A small convolutional classifier of square pictures, trained from nothing.

    Args:
        steps: of AdamW.
        batch: pictures in a step, made ones included.
        width: channels at the full resolution; doubled once, and again from 32 pixels on.
        lr: highest learning rate, of a one-cycle schedule.
        weight_decay: of AdamW.
        dropout: before the last layer.
        share: of made pictures in a batch, where there are any.
        classical: augmentations of every batch: flip, crop (moved by up to an eighth of the side, reflected at the
            edge), affine (up to 15 degrees, 10 % shift and 15 % scale, black outside), randaugment
            (arXiv 1909.13719), mixup (arXiv 1710.09412), cutmix (arXiv 1905.04899).
    """

    steps: int = 500
    batch: int = 64
    width: int = 16
    lr: float = 4e-3
    weight_decay: float = 0.01
    dropout: float = 0.3
    share: float = 0.5
    classical: tuple[Classical, ...] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "width"):
            check(getattr(self, name) >= 1, f"classifier.{name}", getattr(self, name), "1 or more")
        check(0 < self.lr < math.inf, "classifier.lr", self.lr, "above 0")
        check(self.weight_decay >= 0, "classifier.weight_decay", self.weight_decay, "0 or more")
        check(0 <= self.dropout < 1, "classifier.dropout", self.dropout, "0 to below 1")
        check(0 < self.share < 1, "classifier.share", self.share, "above 0, below 1")
        both = {"mixup", "cutmix"} <= set(self.classical)
        check(not both, "classifier.classical", self.classical, "mixup or cutmix, not both")


@dataclass(frozen=True, kw_only=True)
class QualityRecipe:
    """What a made picture must be like to be kept, where ``gate`` is on.

    Args:
        copy: rejected as ``copy`` when its cosine to the nearest input picture is above this.
        traced: of pictures from 64 pixels a side on, rejected as ``copy`` when one parent alone explains more than
            this share of its tiles, in place; 1 is off.
        hash: of such pictures, rejected as ``copy`` when its perceptual hash differs from a parent's in at most so many
            of 64 bits; null is off.
        double: of such pictures, rejected as ``double_exposure`` when both parents show at one place by more than this,
            where 1 is the pixel mean of the two; 1 is off.
        speckle: of such pictures, rejected as ``speckled`` when a band of high frequencies is so many times as strong
            against the next lower one as in the noisier parent; 0 is off.
        rough: of such pictures, rejected as ``speckled`` when its middle frequencies are so many times as strong as in
            the rougher parent; 0 is off.
        strange: of photos made by augment, rejected as ``strange`` when the share of it that the model does not see
            through noise is so many times its parents'; 0 is off, and costs nothing.
        unlike: rejected as ``unlike`` when its cosine to the nearest input picture is below this; 0 is off; null is
            0.6 for photos that are compared in EfficientNet-lite0's features, else 0.
        drift: rejected as ``drifted`` when its chance of not being of its parents' classes is above this, in the
            eyes of the judge; 1 is off, and so it is where the parents have no labels.
        least: pictures that the middle one of the classes must have for the judge to say anything of drift; null is 40
            for photos, else 1.
        sharpness: rejected as ``broken`` when its sharpness is below this share of its parents', or above
            1 / share of it; 0 is off; null is 0.05 for photos, else 0.25.
        redraw: times that a rejected picture is drawn again, with another mode, ratio and noise.
        judge: what drift is measured by: classifier (a small network trained on the input's own labelled pictures)
            or centroid (class means of the features); null takes centroid for photos, else classifier.
        classifier: the judge's training.
        pool: most input pictures that are looked through for the nearest one, spread evenly over a larger input; the
            parents are always among them.
        keep_rejected: write what stays rejected to rejected/, to be looked at.
    """

    copy: float = 0.999
    traced: float = 0.7
    hash: int | None = 6
    double: float = 0.45
    speckle: float = 1.7
    rough: float = 1.5
    strange: float = 1.3
    unlike: float | None = None
    drift: float = 0.5
    least: int | None = None
    sharpness: float | None = None
    redraw: int = 2
    judge: Literal["classifier", "centroid"] | None = None
    classifier: ClassifierRecipe = ClassifierRecipe(classical=("affine",))
    pool: int = 50_000
    keep_rejected: bool = True

    def __post_init__(self) -> None:
        check(-1 <= self.copy <= 1, "quality.copy", self.copy, "-1 to 1")
        check(-1 <= (self.unlike or 0) < 1, "quality.unlike", self.unlike, "-1 to below 1, or null")
        check(0 <= self.drift <= 1, "quality.drift", self.drift, "0 to 1")
        check(self.least is None or self.least >= 1, "quality.least", self.least, "1 or more, or null")
        for name in ("traced", "double"):
            check(0 < getattr(self, name) <= 1, f"quality.{name}", getattr(self, name), "above 0, at most 1")
        check(self.hash is None or 0 <= self.hash <= 32, "quality.hash", self.hash, "0 to 32, or null")
        for name in ("speckle", "rough", "strange"):
            value = getattr(self, name)
            check(value == 0 or 1 <= value < math.inf, f"quality.{name}", value, "1 or more, or 0")
        low = self.sharpness
        check(low is None or 0 <= low < 1, "quality.sharpness", low, "0 to below 1, or null")
        check(0 <= self.redraw <= 100, "quality.redraw", self.redraw, "0 to 100")
        check(self.pool >= 1, "quality.pool", self.pool, "1 or more")

    def settled(self, photos: bool, space: str = "") -> QualityRecipe:
        """With what null stands for.

        Args:
            photos: the pictures are in colour and not small.
            space: the name of the features that they are compared in.
        """
        judge, sharpness = self.judge, self.sharpness
        unlike = UNLIKE.get(space, 0.0) if photos else 0.0
        return replace(
            self,
            judge=judge or ("centroid" if photos else "classifier"),
            unlike=unlike if self.unlike is None else self.unlike,
            least=(40 if photos else 1) if self.least is None else self.least,
            sharpness=(0.05 if photos else 0.25) if sharpness is None else sharpness,
        )
