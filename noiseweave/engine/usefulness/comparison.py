"""Do made pictures help a classifier of few labelled ones? The parts of one comparison.

Few are the labelled pictures that everyone has; the pool is what a generator may have seen without labels. Nothing
here is ever given a test picture. N few pictures, M made ones, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, cycle, islice

import numpy as np
import torch

from noiseweave.engine.features import spaces
from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.fusion import groups, redraw
from noiseweave.engine.judging import classifier, quality
from noiseweave.engine.judging.classifier import soft_labels
from noiseweave.engine.judging.recipes import ClassifierRecipe, QualityRecipe
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.networks.recipes import Prompts
from noiseweave.engine.records import Pair
from noiseweave.engine.sampling import samplers
from noiseweave.engine.sampling.recipes import SamplerRecipe
from noiseweave.engine.seeding import rng
from noiseweave.engine.training.systems import System
from noiseweave.engine.usefulness import generators
from noiseweave.engine.usefulness.data import Added, Pictures, Setup
from noiseweave.engine.usefulness.recipes import GeneratorRecipe, Method


def make_pictures(
    method: Method, few: Pictures, parents: Pictures, weights: bytes, recipe: GeneratorRecipe, setup: Setup
) -> Added:
    """The pictures that the generator adds to the few, by a method whose ``drawn`` is true.

    Args:
        parents: what pairs are of, ``parents_of`` the method.
    """
    side, channels = few.image_NHWC.shape[2:]
    system = generators.loaded(recipe, weights, setup, side, channels)
    if method.made == "samples":
        return samples(method, system, few, setup)
    return fusions(method, generators.backbone_of(system, setup), few, parents, setup)


def sure_of(pool: Pictures) -> Pictures:
    """What of the pool has a guess."""
    sure = pool.label_N >= 0
    return Pictures(image_NHWC=pool.image_NHWC[sure], label_N=pool.label_N[sure])


def parents_of(method: Method, few: Pictures, pool: Pictures | None) -> Pictures:
    """The few; with ``parents: guessed`` also what has a guess of the pool."""
    if method.parents == "few":
        return few
    assert pool is not None
    more = sure_of(pool)
    return Pictures(
        image_NHWC=np.concatenate([few.image_NHWC, more.image_NHWC]),
        label_N=np.concatenate([few.label_N, more.label_N]),
    )


def pairs_of(method: Method, parents: Pictures, seed: int) -> list[Pair]:
    """``count`` draws of pairs, every pair as often as the others or once more; in an order of chance."""
    label_N = parents.label_N.tolist()
    same = method.pairs == "same_class"
    every = [(a, b) for a, b in combinations(range(len(label_N)), 2) if not same or label_N[a] == label_N[b]]
    if not every:
        raise ValueError(f"methods.pairs={method.pairs!r}: no two of the parents are a pair")
    rng(seed, "pairs").shuffle(every)
    rounds = (n // len(every) for n in range(method.count))
    return [
        groups.draw_pair((a, b), (str(a), str(b)), 0.0, method.fusion, seed, turn=(number, 0))
        for (a, b), number in zip(islice(cycle(every), method.count), rounds, strict=True)
    ]


def label_shares(pairs: Sequence[Pair], parents: Pictures, classes: int, hard: bool) -> np.ndarray:
    """float32 [M, K]: the parents' labels by their weights, or the larger alone."""
    one_NK = np.eye(classes, dtype=np.float32)[parents.label_N]
    ratio = np.array([p.ratio for p in pairs], np.float32)[:, None]
    p_MK = (1 - ratio) * one_NK[[p.a for p in pairs]] + ratio * one_NK[[p.b for p in pairs]]
    return np.eye(classes, dtype=np.float32)[p_MK.argmax(1)] if hard else p_MK


def mix_pixels(method: Method, parents: Pictures, classes: int, seed: int) -> Added:
    """Pixels of the pairs, mixed."""
    pairs = pairs_of(method, parents, seed)
    ratio = np.array([p.ratio for p in pairs], np.float32).reshape(-1, 1, 1, 1)
    a, b = (parents.image_NHWC[[getattr(p, end) for p in pairs]].astype(np.float32) for end in "ab")
    image_MHWC = ((1 - ratio) * a + ratio * b).round().astype(np.uint8)
    p_MK = label_shares(pairs, parents, classes, method.hard_labels)
    return Added(image_MHWC=image_MHWC, p_MK=p_MK, rejected={})


def pseudo_labels(pool: Pictures, classes: int) -> Added:
    """The pool's pictures themselves, where there is a guess."""
    sure = sure_of(pool)
    return Added(image_MHWC=sure.image_NHWC, p_MK=soft_labels(sure.label_N, classes).numpy(), rejected={})


def joined(one: Added, other: Added) -> Added:
    """The pictures of both."""
    return Added(
        image_MHWC=np.concatenate([one.image_MHWC, other.image_MHWC]),
        p_MK=np.concatenate([one.p_MK, other.p_MK]),
        rejected={**one.rejected, **other.rejected},
    )


def samples(method: Method, system: System, few: Pictures, setup: Setup) -> Added:
    """Drawn from the class-conditional model, every class alike; with a gate, those of another class are left out."""
    known = np.unique(few.label_N)
    label_M = known[np.arange(method.count) % len(known)]
    parts = [slice(i, i + 64) for i in range(0, method.count, 64)]
    recipe = SamplerRecipe(steps=method.inversion.num_steps, guidance=method.guidance)
    drawn = [
        samplers.draw(
            system.model, range(method.count)[part], torch.from_numpy(label_M[part]), recipe, setup.seed
        ).image_BHWC
        for part in parts
    ]
    image_MHWC, keep = np.concatenate(drawn), np.ones(method.count, bool)
    if method.gate:
        chance_MK = classifier.probabilities(judge_of(few, method.quality, setup), image_MHWC)
        keep = 1 - chance_MK[np.arange(method.count), label_M] <= method.quality.drift
    p_MK = np.eye(setup.classes, dtype=np.float32)[label_M]
    out = int((~keep).sum())
    return Added(image_MHWC=image_MHWC[keep], p_MK=p_MK[keep], rejected={"drifted": out} if out else {})


def judge_of(few: Pictures, recipe: QualityRecipe, setup: Setup) -> classifier.Classifier:
    """The gate's classifier, of the few alone."""
    p_NK = soft_labels(few.label_N, setup.classes)
    return classifier.train(few.image_NHWC, p_NK, recipe.classifier, setup.seed, device=setup.device)


def fusions(method: Method, backbone: Backbone, few: Pictures, parents: Pictures, setup: Setup) -> Added:
    """Fused in noise space, as ``augment`` does it."""
    pairs = pairs_of(method, parents, setup.seed)
    labels: list[int | None] = parents.label_N.tolist()
    labelled = Prompts(
        source=tuple(labels), target=tuple(labels), guidance_source=1.0, guidance_target=method.guidance
    )
    keys = [str(i) for i in range(len(labels))]
    group = groups.Parents(
        image_BHWC=parents.image_NHWC, keys=keys, prompts=labelled if method.conditional else None
    )
    seconds = {p.b for p in pairs}
    maps = groups.invert_group(backbone, group, seconds, method.inversion, method.fusion, setup.seed)
    check = _gate(method, few, parents, setup) if method.gate else None

    def again(pair: Pair, attempt: int) -> Pair:
        a, b = sorted((pair.a, pair.b))
        turn = pair.number, attempt
        return groups.draw_pair((a, b), (str(a), str(b)), 0.0, method.fusion, setup.seed, turn=turn)

    done = redraw.redraw_rejected(
        pairs,
        lambda some: groups.fuse_group(backbone, maps, some, method.inversion.sampler, method.fusion),
        again,
        check,
        method.quality.redraw,
    )
    keep = done.fused.finite_P & ~done.fused.flagged_P
    if done.checks is not None:
        keep &= np.array([c.verdict == "kept" for c in done.checks])
    p_MK = label_shares(done.pairs, parents, setup.classes, method.hard_labels)
    return Added(image_MHWC=done.fused.image_PHWC[keep], p_MK=p_MK[keep], rejected=dict(done.rejected))


def _gate(
    method: Method, few: Pictures, parents: Pictures, setup: Setup
) -> Callable[..., list[quality.QualityCheck]]:
    network = judge_of(few, method.quality, setup)
    judge = quality.Judge(
        extract=_seen,
        real_ND=_seen(parents.image_NHWC),
        chances=lambda image_PHWC, _: classifier.probabilities(network, image_PHWC),
    )

    def check(pairs: Sequence[Pair], fused: groups.Fused) -> list[quality.QualityCheck]:
        ends = [(p.a, p.b) for p in pairs]
        labels = parents.label_N.tolist()
        return quality.checks(
            judge, fused.image_PHWC, fused.finite_P, ends, parents.image_NHWC, labels, method.quality
        )

    return check


def _seen(image_PHWC: np.ndarray) -> np.ndarray:
    return spaces.similarity(FeatureRecipe(name="pixels"), spaces.pixels(image_PHWC))


# scores


def score_method(
    method: Method, few: Pictures, added: Added | None, test: Pictures, recipe: ClassifierRecipe, setup: Setup
) -> float:
    """Test accuracy of a classifier that was trained with a method: the one place where test pictures are looked at."""
    made = None
    if added is not None and len(added.p_MK):
        made = (added.image_MHWC, torch.from_numpy(added.p_MK))
    own = replace(recipe, classical=method.classical, share=method.share or recipe.share)
    network = classifier.train(
        few.image_NHWC, soft_labels(few.label_N, setup.classes), own, setup.seed, made, setup.device
    )
    return classifier.accuracy(network, test.image_NHWC, test.label_N)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half of the 95 % interval of the mean by Student's t); nan for one value."""
    from scipy import stats

    n = len(values)
    if n < 2:
        return float(np.mean(values)), float("nan")
    return float(np.mean(values)), float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
