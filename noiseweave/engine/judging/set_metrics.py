"""How far two sets of features lie apart, and how the one covers the other. Float64 throughout, numpy alone.

A set is a float [N, D] table of features, one row a picture. What needs all rows is made of sums that merge (Moments);
what compares rows with rows goes block by block, so that no N x M matrix is held.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np

from noiseweave.engine.seeding import seed_of

BLOCK = 1024  # rows of a distance matrix held at once


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """What the Frechet distance knows of a set: float64 mean [D] and unbiased covariance [D, D]."""

    mean_D: np.ndarray
    covariance_DD: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Sums over a set: n, sum f, sum f f^T. Those of two parts added are those of the whole.

    Added in the same order they are the same to the last digit, whoever computed the parts.
    """

    n: int
    sum_D: np.ndarray
    outer_DD: np.ndarray

    @classmethod
    def of(cls, f_ND: np.ndarray) -> Moments:
        """The sums of some rows."""
        f = np.asarray(f_ND, np.float64)
        return cls(n=len(f), sum_D=f.sum(0), outer_DD=f.T @ f)

    def __add__(self, other: Moments) -> Moments:
        sums = self.sum_D + other.sum_D, self.outer_DD + other.outer_DD
        return Moments(n=self.n + other.n, sum_D=sums[0], outer_DD=sums[1])

    def gaussian(self) -> Gaussian:
        """Mean and covariance; n is at least 2."""
        mean_D = self.sum_D / self.n
        covariance_DD = (self.outer_DD - self.n * np.outer(mean_D, mean_D)) / (self.n - 1)
        return Gaussian(mean_D=mean_D, covariance_DD=(covariance_DD + covariance_DD.T) / 2)


def frechet(a: Gaussian, b: Gaussian) -> float:
    """Squared Frechet distance of two Gaussians (Dowson & Landau 1982; FID: Heusel et al., arXiv 1706.08500).

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)). The last trace is the nuclear norm of A^T B where
    C_a = A A^T and C_b = B B^T: no root of a matrix that is not symmetric, no imaginary part to throw away, and
    singular covariances are no special case.
    """
    A, B = _factor(a.covariance_DD), _factor(b.covariance_DD)
    nuclear = np.linalg.svd(A.T @ B, compute_uv=False).sum()
    traces = np.trace(a.covariance_DD) + np.trace(b.covariance_DD)
    return float(np.square(a.mean_D - b.mean_D).sum() + traces - 2 * nuclear)


def _factor(c_DD: np.ndarray) -> np.ndarray:
    """A [D, rank] with A A^T = c; what is rounding beside the largest eigenvalue is left out."""
    w_D, v_DD = np.linalg.eigh(c_DD)
    kept = w_D > len(w_D) * np.finfo(np.float64).eps * max(float(w_D[-1]), 0.0)
    return v_DD[:, kept] * np.sqrt(w_D[kept])


def weights(count: int, n: int, seed: int, *key: object) -> np.ndarray:
    """float64 [count, n]: how often each of n rows is drawn in each of ``count`` resamples of n with replacement."""
    draw = np.random.default_rng(seed_of(seed, "bootstrap", *key))
    return draw.multinomial(n, np.full(n, 1 / n), size=count).astype(np.float64)


def interval(value: float, resampled_B: np.ndarray, confidence: float) -> tuple[float, float]:
    """The spread of a figure over resamples, laid around the figure: value + quantiles of (resampled - their mean).

    Resampling repeats pictures, which moves a distance upwards; that is taken off, so the interval says how far the
    figure would move with other pictures of the same number.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled_B - resampled_B.mean(), [tail, 1 - tail])
    return float(value + low), float(value + high)


def frechet_resampled(a_ND: np.ndarray, b_MD: np.ndarray, w_BN: np.ndarray, w_BM: np.ndarray) -> np.ndarray:
    """float64 [B]: the distance of each resample of both sets."""
    a, b = np.asarray(a_ND, np.float64), np.asarray(b_MD, np.float64)
    pairs = zip(w_BN, w_BM, strict=True)
    return np.array([frechet(_weighted(a, w_N), _weighted(b, w_M)) for w_N, w_M in pairs])


def _weighted(f_ND: np.ndarray, w_N: np.ndarray) -> Gaussian:
    moments = Moments(n=int(w_N.sum()), sum_D=w_N @ f_ND, outer_DD=(f_ND * w_N[:, None]).T @ f_ND)
    return moments.gaussian()


def kernel_distance(a_ND: np.ndarray, b_MD: np.ndarray, w_BN: np.ndarray, w_BM: np.ndarray) -> np.ndarray:
    """Squared maximum mean discrepancy with the kernel (x y / D + 1)^3 (KID: Binkowski et al., arXiv 1801.01401).

    The unbiased estimate from all rows. Published figures are means over random subsets of it, of the same
    expectation and with more spread. A row is never paired with itself, in a resample with its copies neither.

    Args:
        w_BN, w_BM: how often each row counts, a row of weights for each figure; ones are the sets themselves.

    Returns:
        float64 [B]; may be below 0, as it is unbiased.
    """
    a, b = np.asarray(a_ND, np.float64), np.asarray(b_MD, np.float64)
    cross = _kernel_sums(a, b, w_BN, w_BM) / (w_BN.sum(1) * w_BM.sum(1))
    return _within(a, w_BN) + _within(b, w_BM) - 2 * cross


def _within(f_ND: np.ndarray, w_BN: np.ndarray) -> np.ndarray:
    """Mean of the kernel over pairs of different rows."""
    own_N = (np.square(f_ND).sum(1) / f_ND.shape[1] + 1) ** 3
    same_B = np.square(w_BN).sum(1)
    pairs_B = w_BN.sum(1) ** 2 - same_B
    return (_kernel_sums(f_ND, f_ND, w_BN, w_BN) - np.square(w_BN) @ own_N) / pairs_B


def _kernel_sums(a_ND: np.ndarray, b_MD: np.ndarray, w_BN: np.ndarray, w_BM: np.ndarray) -> np.ndarray:
    total_B = np.zeros(len(w_BN))
    for rows in _blocks(len(a_ND)):
        k_RM = (a_ND[rows] @ b_MD.T / a_ND.shape[1] + 1) ** 3
        total_B += ((w_BN[:, rows] @ k_RM) * w_BM).sum(1)
    return total_B


def _blocks(n: int) -> Iterator[slice]:
    return (slice(i, i + BLOCK) for i in range(0, n, BLOCK))


@dataclass(frozen=True, kw_only=True)
class InceptionScore:
    """Class probabilities as sums that merge: n, sum p [C], sum over pictures of sum_c p log p."""

    n: int
    sum_C: np.ndarray
    plogp: float

    @classmethod
    def of(cls, p_NC: np.ndarray) -> InceptionScore:
        """The sums of some rows."""
        p = np.asarray(p_NC, np.float64)
        return cls(n=len(p), sum_C=p.sum(0), plogp=float(plogp(p).sum()))

    def __add__(self, other: InceptionScore) -> InceptionScore:
        return InceptionScore(
            n=self.n + other.n, sum_C=self.sum_C + other.sum_C, plogp=self.plogp + other.plogp
        )

    def value(self) -> float:
        """Inception Score (Salimans et al., arXiv 1606.03498): exp of the mean KL of p(y|x) from their mean p(y)."""
        return math.exp(self.plogp / self.n - float(plogp(self.sum_C / self.n).sum()))


def plogp(p: np.ndarray) -> np.ndarray:
    """p log p, 0 where p is 0."""
    return p * np.log(np.where(p > 0, p, 1))


def score_resampled(p_NC: np.ndarray, w_BN: np.ndarray) -> np.ndarray:
    """float64 [B]: the Inception InceptionScore of each resample."""
    p, n_B = np.asarray(p_NC, np.float64), w_BN.sum(1)
    marginal_BC = w_BN @ p / n_B[:, None]
    return np.exp(w_BN @ plogp(p).sum(1) / n_B - plogp(marginal_BC).sum(1))


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """What each picture has to say about precision, recall, density and coverage; the figures are their means.

    Attributes:
        precision_N: 1 where a picture of the first set lies in a ball of the second.
        density_N: in how many of the second set's balls it lies, over k.
        recall_M: 1 where a picture of the second set lies in a ball of the first.
        coverage_M: 1 where some picture of the first set lies in its own ball.
    """

    precision_N: np.ndarray
    density_N: np.ndarray
    recall_M: np.ndarray
    coverage_M: np.ndarray


def find_neighbours(a_ND: np.ndarray, b_MD: np.ndarray, k: int) -> Neighbours:
    """Precision, recall (Kynkaanniemi et al., arXiv 1904.06991), density, coverage (Naeem et al., arXiv 2002.09797).

    A picture's ball reaches to its k-th nearest neighbour in its own set. The second set is the real one; each
    set has more than k pictures.
    """
    a, b = np.asarray(a_ND, np.float64), np.asarray(b_MD, np.float64)
    ball_N, ball_M = _radii(a, k), _radii(b, k)
    inside_N = np.zeros(len(a))
    recall_M, nearest_M = np.zeros(len(b), bool), np.full(len(b), np.inf)
    for rows in _blocks(len(a)):
        d_RM = _squared(a[rows], b)
        inside_N[rows] = (d_RM <= ball_M).sum(1)
        recall_M |= (d_RM <= ball_N[rows, None]).any(0)
        nearest_M = np.minimum(nearest_M, d_RM.min(0))
    return Neighbours(
        precision_N=(inside_N > 0).astype(np.float64),
        density_N=inside_N / k,
        recall_M=recall_M.astype(np.float64),
        coverage_M=(nearest_M <= ball_M).astype(np.float64),
    )


def between(a_ND: np.ndarray, b_MD: np.ndarray, k: int, wanted: Collection[str]) -> dict[str, float]:
    """Figures of two sets of 2 or more rows: of fd, kid and neighbours, those that are wanted.

    neighbours are precision, recall, density and coverage, of sets of more than k rows.
    """
    out: dict[str, float] = {}
    if "fd" in wanted:
        out["fd"] = frechet(Moments.of(a_ND).gaussian(), Moments.of(b_MD).gaussian())
    if "kid" in wanted:
        ones = np.ones((1, len(a_ND))), np.ones((1, len(b_MD)))
        out["kid"] = float(kernel_distance(a_ND, b_MD, *ones)[0])
    if "neighbours" in wanted and min(len(a_ND), len(b_MD)) > k:
        found = find_neighbours(a_ND, b_MD, k)
        out |= {
            "precision": float(found.precision_N.mean()),
            "recall": float(found.recall_M.mean()),
            "density": float(found.density_N.mean()),
            "coverage": float(found.coverage_M.mean()),
        }
    return out


def _radii(f_ND: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to its k-th nearest other one."""
    out = np.empty(len(f_ND))
    for rows in _blocks(len(f_ND)):
        d_RN = _squared(f_ND[rows], f_ND)
        d_RN[np.arange(len(d_RN)), np.arange(len(f_ND))[rows]] = np.inf
        out[rows] = np.partition(d_RN, k - 1, axis=1)[:, k - 1]
    return out


def _squared(a_RD: np.ndarray, b_MD: np.ndarray) -> np.ndarray:
    d = np.square(a_RD).sum(1)[:, None] + np.square(b_MD).sum(1) - 2 * (a_RD @ b_MD.T)
    return np.maximum(d, 0)
