"""What each method adds to the few labelled pictures. Nothing here is ever given a test picture.

N parents, M made pictures, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from noiseweave.engine import spans
from noiseweave.engine.features import spaces
from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.fusion import groups, redraw
from noiseweave.engine.judging import classifier, quality
from noiseweave.engine.judging.classifier import soft_labels
from noiseweave.engine.judging.recipes import QualityRecipe
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.networks.recipes import Prompts
from noiseweave.engine.records import Pair
from noiseweave.engine.sampling import samplers
from noiseweave.engine.sampling.recipes import SamplerRecipe
from noiseweave.engine.training.systems import System
from noiseweave.engine.usefulness import generators, guesses, pairs
from noiseweave.engine.usefulness.data import Added, Pictures, Setup
from noiseweave.engine.usefulness.guesses import Chances
from noiseweave.engine.usefulness.recipes import GeneratorRecipe, GuessRecipe, Method

DRAWN = 64  # samples drawn at once


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a method makes its pictures of.

    Attributes:
        few: the labelled pictures.
        parents: what pairs are of.
        guessed: the pool with its guesses, or None.
        weight_K: how much of what is made is of each class.
        judge: chances of the classes of pictures, by the few; None where nothing asks it.
    """

    few: Pictures
    parents: Pictures
    guessed: Pictures | None
    weight_K: np.ndarray
    judge: Chances | None


def sources(
    method: Method, few: Pictures, guessed: Pictures | None, recipe: GuessRecipe, setup: Setup
) -> Sources:
    """What a method needs of the few and of the guessed pool."""
    weight_K = np.isin(np.arange(setup.classes), few.label_N).astype(float)
    if method.weights == "hard":
        weight_K = weight_K * guesses.hardness(few, recipe, setup)
    return Sources(
        few=few,
        parents=pairs.parents_of(method, few, guessed),
        guessed=guessed,
        weight_K=weight_K,
        judge=guesses.judge_of(few, recipe, setup) if method.confidence else None,
    )


def make(method: Method, of: Sources, drawing: tuple[GeneratorRecipe, bytes | None], setup: Setup) -> Added:
    """What a method adds.

    Args:
        drawing: the generator and its weights, which those need whose ``drawn`` is true.
    """
    if method.made == "blend":
        added = mix_pixels(method, of, setup)
    elif method.made == "pseudo_labels":
        assert of.guessed is not None
        return pseudo_labels(of.guessed, setup.classes)
    else:
        added = confident(method, drawn(method, of, drawing, setup), of.judge)
    if method.keep_parents:
        assert of.guessed is not None
        added = joined([pseudo_labels(of.guessed, setup.classes), added])
    return added


def drawn(method: Method, of: Sources, drawing: tuple[GeneratorRecipe, bytes | None], setup: Setup) -> Added:
    """Pictures of the generator."""
    recipe, weights = drawing
    assert weights is not None
    side, channels = of.few.image_NHWC.shape[2:]
    system = generators.loaded(recipe, weights, setup, side, channels)
    if method.made == "samples":
        return samples(method, system, of, setup)
    backbone = generators.backbone_of(system, setup)
    all_pairs = pairs.pairs_of(method, of.parents, setup.seed, of.weight_K)
    by_skip: dict[int, list[Pair]] = {}
    for pair in all_pairs:
        by_skip.setdefault(pairs.skip_of(method, pair, setup.seed), []).append(pair)
    check = _gate(method, of, setup) if method.gate else None
    return joined(
        [
            fusions(
                replace(method, inversion=replace(method.inversion, skip=skip)),
                backbone,
                recipe,
                some,
                of,
                setup,
                check,
            )
            for skip, some in spans.steps(sorted(by_skip.items()))
        ]
    )


def mix_pixels(method: Method, of: Sources, setup: Setup) -> Added:
    """Pixels of the pairs, mixed."""
    some, parents = pairs.pairs_of(method, of.parents, setup.seed, of.weight_K), of.parents
    ratio = np.array([p.ratio for p in some], np.float32).reshape(-1, 1, 1, 1)
    a, b = (parents.image_NHWC[[getattr(p, end) for p in some]].astype(np.float32) for end in "ab")
    image_MHWC = ((1 - ratio) * a + ratio * b).round().astype(np.uint8)
    p_MK = pairs.label_shares(some, parents, setup.classes, method.hard_labels)
    return Added(image_MHWC=image_MHWC, p_MK=p_MK, rejected={})


def pseudo_labels(pool: Pictures, classes: int) -> Added:
    """The pool's pictures themselves, where there is a guess."""
    sure = pairs.sure_of(pool)
    return Added(image_MHWC=sure.image_NHWC, p_MK=soft_labels(sure.label_N, classes).numpy(), rejected={})


def joined(parts: Sequence[Added]) -> Added:
    """The pictures of all; what was rejected, counted together."""
    reasons = sorted({reason for part in parts for reason in part.rejected})
    return Added(
        image_MHWC=np.concatenate([part.image_MHWC for part in parts]),
        p_MK=np.concatenate([part.p_MK for part in parts]),
        rejected={reason: sum(part.rejected.get(reason, 0) for part in parts) for reason in reasons},
    )


def confident(method: Method, added: Added, judge: Chances | None) -> Added:
    """Those that the judge is sure enough of: of the class, or the two, that they are labelled as."""
    if judge is None or not len(added.p_MK):
        return added
    sure_M = (judge(added.image_MHWC) * (added.p_MK > 0)).sum(1)
    keep_M = sure_M >= method.confidence
    out = int((~keep_M).sum())
    rejected = added.rejected | ({"unsure": out} if out else {})
    return Added(image_MHWC=added.image_MHWC[keep_M], p_MK=added.p_MK[keep_M], rejected=rejected)


def samples(method: Method, system: System, of: Sources, setup: Setup) -> Added:
    """Drawn from the class-conditional model; with a gate, those of another class are left out."""
    label_M = pairs.labels_of(of.weight_K, method.count)
    recipe = SamplerRecipe(steps=method.inversion.num_steps, guidance=method.guidance)
    parts, side = [], of.few.image_NHWC.shape[1]
    for start in spans.steps(range(0, method.count, DRAWN)):
        keys = range(start, min(start + DRAWN, method.count))
        label_B = torch.from_numpy(label_M[keys.start : keys.stop])
        image_BHWC = samplers.draw(system.model, keys, label_B, recipe, setup.seed).image_BHWC
        parts.append(generators.resized(image_BHWC, side))
    image_MHWC, keep = np.concatenate(parts), np.ones(method.count, bool)
    if method.gate:
        network = _network_of(of.few, method.quality, setup)
        chance_MK = classifier.probabilities(network, image_MHWC)
        keep = 1 - chance_MK[np.arange(method.count), label_M] <= method.quality.drift
    p_MK = np.eye(setup.classes, dtype=np.float32)[label_M]
    out = int((~keep).sum())
    return Added(image_MHWC=image_MHWC[keep], p_MK=p_MK[keep], rejected={"drifted": out} if out else {})


def _network_of(few: Pictures, recipe: QualityRecipe, setup: Setup) -> classifier.Classifier:
    """The gate's classifier, of the few alone."""
    p_NK = soft_labels(few.label_N, setup.classes)
    return classifier.train(few.image_NHWC, p_NK, recipe.classifier, setup.seed, device=setup.device)


Check = Callable[[Sequence[Pair], groups.Fused], list[quality.QualityCheck]]


def fusions(
    method: Method,
    backbone: Backbone,
    recipe: GeneratorRecipe,
    some: Sequence[Pair],
    of: Sources,
    setup: Setup,
    check: Check | None,
) -> Added:
    """Fused in noise space, as ``augment`` does it; variations are of one parent, twice, with fresh noise."""
    used = sorted({end for p in some for end in (p.a, p.b)})
    place = {number: i for i, number in enumerate(used)}
    labels: list[int | None] = of.parents.label_N[used].tolist()
    labelled = Prompts(
        source=tuple(labels), target=tuple(labels), guidance_source=1.0, guidance_target=method.guidance
    )
    group = groups.Parents(
        image_BHWC=generators.enlarged(recipe, of.parents.image_NHWC[used]),
        keys=[str(number) for number in used],
        prompts=labelled if method.conditional else None,
    )
    seconds = {place[p.b] for p in some}
    maps = groups.invert_group(backbone, group, seconds, method.inversion, method.fusion, setup.seed)

    def fuse(drawn: Sequence[Pair]) -> groups.Fused:
        placed = [replace(p, a=place[p.a], b=place[p.b]) for p in drawn]
        fused = groups.fuse_group(backbone, maps, placed, method.inversion.sampler, method.fusion)
        side = of.parents.image_NHWC.shape[1]
        return replace(fused, image_PHWC=generators.resized(fused.image_PHWC, side))

    def again(pair: Pair, attempt: int) -> Pair:
        return pairs.draw(method, (pair.a, pair.b), setup.seed, (pair.number, attempt))

    done = redraw.redraw_rejected(some, fuse, again, check, method.quality.redraw)
    keep = done.fused.finite_P & ~done.fused.flagged_P
    if done.checks is not None:
        keep &= np.array([c.verdict == "kept" for c in done.checks])
    p_MK = pairs.label_shares(done.pairs, of.parents, setup.classes, method.hard_labels)
    return Added(image_MHWC=done.fused.image_PHWC[keep], p_MK=p_MK[keep], rejected=dict(done.rejected))


def _gate(method: Method, of: Sources, setup: Setup) -> Check:
    network, parents = _network_of(of.few, method.quality, setup), of.parents
    judge = quality.Judge(
        extract=_seen,
        real_ND=_seen(parents.image_NHWC),
        chances=lambda image_PHWC, _: classifier.probabilities(network, image_PHWC),
    )

    def check(some: Sequence[Pair], fused: groups.Fused) -> list[quality.QualityCheck]:
        ends = [tuple(sorted({p.a, p.b})) for p in some]
        labels = parents.label_N.tolist()
        return quality.checks(
            judge, fused.image_PHWC, fused.finite_P, ends, parents.image_NHWC, labels, method.quality
        )

    return check


def _seen(image_PHWC: np.ndarray) -> np.ndarray:
    return spaces.similarity(FeatureRecipe(name="pixels"), spaces.pixels(image_PHWC))
