"""evaluate's figures of two sets, out of the features that their units wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from noiseweave.engine.judging import set_metrics
from noiseweave.engine.judging.set_metrics import Gaussian
from noiseweave.engine.records import Json
from noiseweave.engine.seeding import seed_of
from noiseweave.jobs.evaluate.config import OF_TWO_SETS
from noiseweave.jobs.evaluate.side import Side

if TYPE_CHECKING:
    from noiseweave.jobs.evaluate.set_task import Task

RESAMPLED_COST = 5e8  # n D^2 + D^3 of a Frechet distance that is still resampled: a tenth of a second or so
NEIGHBOURS = {"precision_recall", "density_coverage"}
Figure = Json


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all figures are made of: the sides, and a sample of each for those that compare rows."""

    task: Task
    sides: Mapping[str, Side]
    samples: Mapping[str, np.ndarray]

    def weights(self, name: str) -> np.ndarray:
        """float64 [1 + bootstrap, n]: ones, then resamples."""
        n, config = len(self.samples[name]), self.task.config
        return np.concatenate([np.ones((1, n)), set_metrics.weights(config.bootstrap, n, config.seed, name)])

    def figure(self, values: np.ndarray) -> Figure:
        """The first value, with an interval of the others around it where the set was not sampled."""
        config = self.task.config
        about: Figure = {"value": float(values[0]), "interval": None}
        if len(values) > 1:
            about["interval"] = list(set_metrics.interval(float(values[0]), values[1:], config.confidence))
        return about


def figures(task: Task, sides: Mapping[str, Side]) -> tuple[dict[str, Figure], list[str], int]:
    """name -> value and interval, what a reader must be warned of, and how many pictures ``half_figures`` took.

    Raises:
        ValueError: too few pictures for a metric.
    """
    config, wanted = task.config, task.config.wanted
    rows = bool(set(OF_TWO_SETS) & set(wanted)) and len(sides) == 2
    rowwise = rows or bool(set(wanted) - ({"fd"} if config.bootstrap == 0 else set()))
    samples = {n: s.sample(config.max_samples, config.seed) for n, s in sides.items()} if rowwise else {}
    work = Work(task=task, sides=sides, samples=samples)
    out: dict[str, Figure] = {}
    warnings: list[str] = []
    if "fd" in wanted:
        out[name_of("fd", task.label)] = _frechet(work, warnings)
    if "kid" in wanted:
        out[name_of("kid", task.label)] = _kernel(work)
    if NEIGHBOURS & set(wanted):
        out |= _neighbours(work)
    if "inception_score" in wanted:
        out["Inception Score" if task.label == "inception" else f"IS({task.label})"] = _score(work)
    for name, side in sides.items():
        if side.n > config.max_samples and set(wanted) - {"fd", "inception_score"}:
            warnings.append(
                f"{name}: all but fd look at {config.max_samples} of {side.n} pictures (max_samples)"
            )
    count = 0
    if rows:
        beside, count = half_figures(work)
        out = {name: figure | beside.get(name, {}) for name, figure in out.items()}
    return out, warnings, count


def name_of(metric: str, label: str) -> str:
    """What a figure of two sets is called: FID and KID are those of inception's features alone."""
    short = {"fd": "FID", "kid": "KID"} if label == "inception" else {"fd": "FD", "kid": "KD"}
    return (
        short[metric] if label == "inception" and metric in short else f"{short.get(metric, metric)}({label})"
    )


def half_figures(work: Work) -> tuple[dict[str, Figure], int]:
    """What a figure is between real pictures: one half of the reference, drawn by the seed, against the other.

    As the figures depend on how many pictures there are, each is given twice at one count, for as many of the input
    (``as_many``) and for real ones (``real``), against the same half of the reference.

    Returns:
        name -> {as_many, real}, and the count; 0 and nothing where there are not two for each.
    """
    config, real, made = work.task.config, work.samples["reference"], work.samples["input"]
    count = min(len(real) // 2, len(made))
    if count < 2:
        return {}, 0
    draw = np.random.default_rng(seed_of(config.seed, "halves"))
    order, rows = draw.permutation(len(real)), draw.permutation(len(made))[:count]
    half, other = real[order[:count]], real[order[count : 2 * count]]
    wanted = {"neighbours" if metric in NEIGHBOURS else metric for metric in config.wanted}
    found = {
        "as_many": set_metrics.between(made[rows], half, config.neighbours, wanted),
        "real": set_metrics.between(other, half, config.neighbours, wanted),
    }
    names = {metric: name_of(metric, work.task.label) for metric in found["real"]}
    return {name: {side: of[m] for side, of in found.items()} for m, name in names.items()}, count


def _frechet(work: Work, warnings: list[str]) -> Figure:
    gaussians: dict[str, Gaussian] = {n: s.gaussian for n, s in work.task.statistics.items()}
    gaussians |= {n: side.moments().gaussian() for n, side in work.sides.items()}
    a, b = gaussians["input"], gaussians["reference"]
    if len(a.mean_D) != len(b.mean_D):
        raise ValueError(
            f"reference={work.task.config.reference!r}: statistics of another feature space: {len(b.mean_D)} "
            f"features against {len(a.mean_D)}"
        )
    counts = {n: s.n for n, s in work.sides.items()} | {n: s.n for n, s in work.task.statistics.items()}
    for name, n in counts.items():
        if n is not None and n <= len(a.mean_D):
            warnings.append(
                f"{name}: {n} pictures for {len(a.mean_D)} features: the covariance is singular and the distance far "
                "too large; compare it with distances of as many pictures only"
            )
    value = set_metrics.frechet(a, b)
    return work.figure(np.concatenate([[value], _frechet_resampled(work)]))


def _frechet_resampled(work: Work) -> np.ndarray:
    """Resamples where both sides are whole sets and it takes seconds; none elsewhere."""
    if len(work.samples) < 2 or any(len(f) < work.sides[n].n for n, f in work.samples.items()):
        return np.zeros(0)
    cost = sum(len(f) * f.shape[1] ** 2 + 10 * f.shape[1] ** 3 for f in work.samples.values())
    if cost > RESAMPLED_COST:
        return np.zeros(0)
    a, b = work.samples["input"], work.samples["reference"]
    return set_metrics.frechet_resampled(a, b, work.weights("input")[1:], work.weights("reference")[1:])


def _kernel(work: Work) -> Figure:
    a, b = work.samples["input"], work.samples["reference"]
    return work.figure(set_metrics.kernel_distance(a, b, work.weights("input"), work.weights("reference")))


def _neighbours(work: Work) -> dict[str, Figure]:
    config, label = work.task.config, work.task.label
    for name, f_ND in work.samples.items():
        if len(f_ND) <= config.neighbours:
            raise ValueError(
                f"neighbours={config.neighbours}: {name} has {len(f_ND)} pictures, more than neighbours are needed"
            )
    found = set_metrics.find_neighbours(work.samples["input"], work.samples["reference"], config.neighbours)
    w_N, w_M = work.weights("input"), work.weights("reference")
    values = {
        "precision": ("precision_recall", w_N @ found.precision_N / len(found.precision_N)),
        "recall": ("precision_recall", w_M @ found.recall_M / len(found.recall_M)),
        "density": ("density_coverage", w_N @ found.density_N / len(found.density_N)),
        "coverage": ("density_coverage", w_M @ found.coverage_M / len(found.coverage_M)),
    }
    return {name_of(n, label): work.figure(v) for n, (metric, v) in values.items() if metric in config.wanted}


def _score(work: Work) -> Figure:
    config, side = work.task.config, work.sides["input"]
    value = side.score().value()
    resampled = np.zeros(0)
    if config.bootstrap and side.n <= config.max_samples:
        p_NC = side.sample(config.max_samples, config.seed, "probabilities")
        resampled = set_metrics.score_resampled(p_NC, work.weights("input")[1:])
    return work.figure(np.concatenate([[value], resampled]))
