"""Do made pictures help a classifier of few labelled ones? The parts of one comparison.

Few are the labelled pictures that everyone has; the pool is what a generator may have seen without labels. Nothing
here is ever given a test picture. N few pictures, M made ones, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, cycle, islice

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from noiseweave.engine import spans
from noiseweave.engine.features import spaces
from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.fusion import groups, redraw
from noiseweave.engine.judging import classifier, quality
from noiseweave.engine.judging.classifier import soft_labels
from noiseweave.engine.judging.recipes import ClassifierRecipe, QualityRecipe
from noiseweave.engine.networks import pretrained
from noiseweave.engine.networks.backbone import Backbone
from noiseweave.engine.networks.latents import to_pixels
from noiseweave.engine.networks.recipes import Prompts
from noiseweave.engine.records import Pair
from noiseweave.engine.sampling import samplers
from noiseweave.engine.sampling.recipes import SamplerRecipe
from noiseweave.engine.seeding import generator, rng
from noiseweave.engine.training import systems
from noiseweave.engine.training.objectives import learning_rate, moving_average
from noiseweave.engine.training.recipes import Blueprint, ModelRecipe
from noiseweave.engine.training.systems import Batch, System
from noiseweave.engine.usefulness.recipes import GeneratorRecipe, Method

WARMUP = 100


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """uint8 [N, side, side, C] and their labels, int64 [N]; -1 is none."""

    image_NHWC: np.ndarray
    label_N: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Added:
    """Made pictures: uint8 [M, side, side, C], float32 [M, K]; how many the gate left out, by reason."""

    image_MHWC: np.ndarray
    p_MK: np.ndarray
    rejected: dict[str, int]


def few_of(label_N: np.ndarray, keys: Sequence[str], per_class: int, seed: int) -> np.ndarray:
    """Rows of ``per_class`` pictures of each class, chosen by (seed, key); smaller choices lie in larger ones.

    Raises:
        ValueError: a class has fewer.
    """
    order = sorted(range(len(keys)), key=lambda i: rng(seed, "few", keys[i]).random())
    chosen = []
    for c in np.unique(label_N[label_N >= 0]).tolist():
        rows = [i for i in order if label_N[i] == c][:per_class]
        if len(rows) < per_class:
            raise ValueError(f"per_class={per_class}: class {c} has {len(rows)} pictures")
        chosen += rows
    return np.array(chosen, np.int64)


# the generator


def blueprint(recipe: GeneratorRecipe, classes: int, side: int, channels: int, seed: int) -> Blueprint:
    return Blueprint(
        model=ModelRecipe(kind="ddpm", classes=classes, label_dropout=recipe.label_dropout),
        objective=recipe.objective,
        unet=recipe.unet,
        schedule=recipe.schedule,
        classes=classes,
        size=side,
        channels=channels,
        seed=seed,
    )


def learn(
    system: System,
    parts: Sequence[tuple[Pictures, float]],
    recipe: GeneratorRecipe,
    steps: int,
    seed: int,
    flip: bool = False,
    device: str = "cpu",
) -> None:
    """Train a generator in place; its weights become the moving average.

    Args:
        parts: pictures, and their share of a batch; label -1 trains the half that is told nothing.
    """
    network: torch.nn.Module = system.networks["unet"].to(device).train()
    weights = list(network.parameters())
    optimizer = torch.optim.AdamW(weights, betas=(0.9, 0.99), weight_decay=0.01)
    average = moving_average(weights, recipe.ema)
    loaded = [(to_pixels(p.image_NHWC, torch.device("cpu")), torch.from_numpy(p.label_N)) for p, _ in parts]
    counts = _counts([share for _, share in parts], recipe.batch)
    g = generator(seed, "generator")
    for step in spans.steps(range(steps)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, peak=recipe.lr, steps=steps, warmup=WARMUP, decay="cosine")
        batch = _batch(loaded, counts, g, flip, device)
        optimizer.zero_grad()
        system.turns[0].loss(system.networks, batch).mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        average.step(weights)
    average.copy_to(weights)
    network.eval()


def _counts(shares: Sequence[float], batch: int) -> list[int]:
    """Pictures of each part in a batch; the last has what the others leave."""
    first = [round(batch * share) for share in shares[:-1]]
    return [*first, batch - sum(first)]


def _batch(
    parts: Sequence[tuple[Tensor, Tensor]], counts: Sequence[int], g: torch.Generator, flip: bool, device: str
) -> Batch:
    rows = [torch.randint(len(x), (n,), generator=g) for (x, _), n in zip(parts, counts, strict=True)]
    x0 = torch.cat([x[r] for (x, _), r in zip(parts, rows, strict=True)])
    label = torch.cat([y[r] for (_, y), r in zip(parts, rows, strict=True)])
    mirrored = torch.rand(len(x0), generator=g) < 0.5 * flip
    x0 = torch.where(mirrored.view(-1, 1, 1, 1), x0.flip(-1), x0)
    eps = torch.randn(x0.shape, generator=g)
    time, hide = torch.rand(2, len(x0), generator=g)
    return Batch(
        x0=x0.to(device),
        label=label.to(device),
        eps=eps.to(device),
        time=time.to(device),
        hide=hide.to(device),
    )


def tuned(
    few: Pictures,
    pool: Pictures | None,
    start: bytes | None,
    recipe: GeneratorRecipe,
    classes: int,
    seed: int,
    flip: bool = False,
    device: str = "cpu",
) -> bytes:
    """A generator that knows the labels of the few, as safetensors.

    Args:
        pool: what it may see beside them, each with what it was guessed to be or -1; None is the closed protocol.
        start: the prior that it goes on from; None starts anew.
    """
    side, channels = few.image_NHWC.shape[2:]
    system = systems.build(blueprint(recipe, classes, side, channels, seed))
    if start is not None:
        system.networks["unet"].load_state_dict(safetensors.torch.load(start))
    parts = [(few, 1.0)]
    if pool is not None:
        parts = [(few, recipe.labelled), (pool, 1 - recipe.labelled)]
    learn(system, parts, recipe, recipe.tuning_steps, seed, flip, device)
    return safetensors.torch.save({n: w.cpu() for n, w in system.networks["unet"].state_dict().items()})


def prior(
    pool: Pictures, recipe: GeneratorRecipe, classes: int, seed: int, flip: bool = False, device: str = "cpu"
) -> bytes:
    """A generator trained on the pool with every label hidden, as safetensors."""
    side, channels = pool.image_NHWC.shape[2:]
    system = systems.build(blueprint(recipe, classes, side, channels, seed))
    hidden = Pictures(image_NHWC=pool.image_NHWC, label_N=np.full(len(pool.label_N), -1, np.int64))
    learn(system, [(hidden, 1.0)], recipe, recipe.steps, seed, flip, device)
    return safetensors.torch.save({n: w.cpu() for n, w in system.networks["unet"].state_dict().items()})


# made pictures


def made(
    method: Method,
    few: Pictures,
    parents: Pictures,
    weights: bytes,
    recipe: GeneratorRecipe,
    classes: int,
    seed: int,
    device: str = "cpu",
) -> Added:
    """The pictures that the generator adds to the few, by a method whose ``drawn`` is true.

    Args:
        parents: what pairs are of, ``parents_of`` the method.
    """
    pretrained.quiet()
    side, channels = few.image_NHWC.shape[2:]
    system = systems.build(blueprint(recipe, classes, side, channels, 0))
    system.networks["unet"].load_state_dict(safetensors.torch.load(weights))
    network = system.networks["unet"].to(device).eval().requires_grad_(False)
    if method.made == "samples":
        return samples(method, system, few, classes, seed, device)
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(system.model.scheduler.config)
    return fusions(method, Backbone(network, scheduler, device), few, parents, classes, seed, device)


def sure_of(told: Pictures) -> Pictures:
    """What of the pool has a guess."""
    sure = told.label_N >= 0
    return Pictures(image_NHWC=told.image_NHWC[sure], label_N=told.label_N[sure])


def parents_of(method: Method, few: Pictures, told: Pictures | None) -> Pictures:
    """The few; with ``parents: guessed`` also what has a guess of ``told``, the pool."""
    if method.parents == "few":
        return few
    assert told is not None
    more = sure_of(told)
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
        groups.draw_pair(a, b, str(a), str(b), 0.0, method.fusion, seed, number=number)
        for (a, b), number in zip(islice(cycle(every), method.count), rounds, strict=True)
    ]


def shares(pairs: Sequence[Pair], parents: Pictures, classes: int, hard: bool) -> np.ndarray:
    """float32 [M, K]: the parents' labels by their weights, or the larger alone."""
    one_NK = np.eye(classes, dtype=np.float32)[parents.label_N]
    ratio = np.array([p.ratio for p in pairs], np.float32)[:, None]
    p_MK = (1 - ratio) * one_NK[[p.a for p in pairs]] + ratio * one_NK[[p.b for p in pairs]]
    return np.eye(classes, dtype=np.float32)[p_MK.argmax(1)] if hard else p_MK


def blend(method: Method, parents: Pictures, classes: int, seed: int) -> Added:
    """Pixels of the pairs, mixed."""
    pairs = pairs_of(method, parents, seed)
    ratio = np.array([p.ratio for p in pairs], np.float32).reshape(-1, 1, 1, 1)
    a, b = (parents.image_NHWC[[getattr(p, end) for p in pairs]].astype(np.float32) for end in "ab")
    image_MHWC = ((1 - ratio) * a + ratio * b).round().astype(np.uint8)
    p_MK = shares(pairs, parents, classes, method.hard_labels)
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


def samples(method: Method, system: System, few: Pictures, classes: int, seed: int, device: str) -> Added:
    """Drawn from the class-conditional model, every class alike; with a gate, those of another class are left out."""
    known = np.unique(few.label_N)
    label_M = known[np.arange(method.count) % len(known)]
    parts = [slice(i, i + 64) for i in range(0, method.count, 64)]
    recipe = SamplerRecipe(name="ddim", steps=method.inversion.num_steps, guidance=method.guidance)
    drawn = [
        samplers.draw(
            system.model, range(method.count)[part], torch.from_numpy(label_M[part]), recipe, seed
        ).image_BHWC
        for part in parts
    ]
    image_MHWC, keep = np.concatenate(drawn), np.ones(method.count, bool)
    if method.gate:
        chance_MK = classifier.probabilities(judge_of(few, method.quality, classes, seed, device), image_MHWC)
        keep = 1 - chance_MK[np.arange(method.count), label_M] <= method.quality.drift
    p_MK = np.eye(classes, dtype=np.float32)[label_M]
    out = int((~keep).sum())
    return Added(image_MHWC=image_MHWC[keep], p_MK=p_MK[keep], rejected={"drifted": out} if out else {})


def judge_of(
    few: Pictures, recipe: QualityRecipe, classes: int, seed: int, device: str
) -> classifier.Classifier:
    """The gate's classifier, of the few alone."""
    p_NK = soft_labels(few.label_N, classes)
    return classifier.train(few.image_NHWC, p_NK, recipe.classifier, seed, device=device)


def fusions(
    method: Method, backbone: Backbone, few: Pictures, parents: Pictures, classes: int, seed: int, device: str
) -> Added:
    """Fused in noise space, as ``augment`` does it."""
    method = replace(method, fusion=method.fusion.settled(method.told))
    pairs = pairs_of(method, parents, seed)
    labels: list[int | None] = parents.label_N.tolist()
    told = Prompts(
        source=tuple(labels), target=tuple(labels), guidance_source=1.0, guidance_target=method.guidance
    )
    keys = [str(i) for i in range(len(labels))]
    maps = groups.inverted(
        backbone,
        parents.image_NHWC,
        keys,
        {p.b for p in pairs},
        method.inversion,
        method.fusion,
        seed,
        told if method.told else None,
    )
    check = _gate(method, few, parents, classes, seed, device) if method.gate else None

    def again(pair: Pair, attempt: int) -> Pair:
        a, b = sorted((pair.a, pair.b))
        return groups.draw_pair(
            a, b, str(a), str(b), 0.0, method.fusion, seed, number=pair.number, attempt=attempt
        )

    done = redraw.drawn(
        pairs,
        lambda some: groups.fused(backbone, maps, some, method.inversion.sampler, method.fusion),
        again,
        check,
        method.quality.redraw,
    )
    keep = done.fused.finite_P.copy()
    if done.checks is not None:
        keep &= np.array([c.verdict == "kept" for c in done.checks])
    p_MK = shares(done.pairs, parents, classes, method.hard_labels)
    return Added(image_MHWC=done.fused.image_PHWC[keep], p_MK=p_MK[keep], rejected=redraw.rejected(done))


def _gate(
    method: Method, few: Pictures, parents: Pictures, classes: int, seed: int, device: str
) -> Callable[..., list[quality.Check]]:
    network = judge_of(few, method.quality, classes, seed, device)
    judge = quality.Judge(
        extract=_seen,
        real_ND=_seen(parents.image_NHWC),
        chances=lambda image_PHWC, _: classifier.probabilities(network, image_PHWC),
    )

    def check(pairs: Sequence[Pair], fused: groups.Fused) -> list[quality.Check]:
        ends = [(p.a, p.b) for p in pairs]
        labels = parents.label_N.tolist()
        return quality.checks(
            judge, fused.image_PHWC, fused.finite_P, ends, parents.image_NHWC, labels, method.quality
        )

    return check


def _seen(image_PHWC: np.ndarray) -> np.ndarray:
    return spaces.similarity(FeatureRecipe(name="pixels"), spaces.pixels(image_PHWC))


# scores


def score(
    method: Method,
    few: Pictures,
    added: Added | None,
    test: Pictures,
    recipe: ClassifierRecipe,
    classes: int,
    seed: int,
    device: str = "cpu",
) -> float:
    """Test accuracy of a classifier that was trained with a method: the one place where test pictures are looked at."""
    made = None
    if added is not None and len(added.p_MK):
        made = (added.image_MHWC, torch.from_numpy(added.p_MK))
    own = replace(recipe, classical=method.classical, share=method.share or recipe.share)
    network = classifier.train(few.image_NHWC, soft_labels(few.label_N, classes), own, seed, made, device)
    return classifier.accuracy(network, test.image_NHWC, test.label_N)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half of the 95 % interval of the mean by Student's t); nan for one value."""
    from scipy import stats

    n = len(values)
    if n < 2:
        return float(np.mean(values)), float("nan")
    return float(np.mean(values)), float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
