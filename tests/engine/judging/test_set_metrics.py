"""Distances of feature sets against closed forms, pytorch-fid, scikit-learn and the definitions written out."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import polynomial_kernel

from noiseweave.engine.judging import set_metrics
from noiseweave.engine.judging.set_metrics import InceptionScore, Moments


def normal(n, mean, factor, seed=0):
    """``n`` rows whose sample mean and covariance are exactly ``mean`` and factor factor^T."""
    x = np.random.default_rng(seed).standard_normal((n, len(mean)))
    x -= x.mean(0)
    x = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return x @ np.asarray(factor, float).T + mean


def frechet(a, b):
    return set_metrics.frechet(Moments.of(a).gaussian(), Moments.of(b).gaussian())


def test_moments_are_numpys_and_add_up():
    f = np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32) + 3
    whole, parts = Moments.of(f), Moments.of(f[:13]) + Moments.of(f[13:40]) + Moments.of(f[40:])
    for m in (whole, parts):
        assert m.n == 50
        assert np.allclose(m.gaussian().mean_D, f.astype(float).mean(0), rtol=1e-13)
        assert np.allclose(m.gaussian().covariance_DD, np.cov(f.T.astype(float)), rtol=1e-11, atol=1e-13)


def test_distance_of_equal_sets_is_zero_and_of_a_shift_its_square():
    a = normal(50, np.zeros(3), np.eye(3))
    assert frechet(a, a) == pytest.approx(0, abs=1e-12)
    assert frechet(a, a[::-1] + np.array([3, 0, 4])) == pytest.approx(25)


def test_distance_of_commuting_covariances():
    a, b = normal(50, [0, 0], np.diag([1, 2])), normal(80, [1, 0], np.diag([4, 0.5]), seed=1)
    assert frechet(a, b) == pytest.approx(1 + (1 - 4) ** 2 + (2 - 0.5) ** 2)
    assert frechet(b, a) == pytest.approx(frechet(a, b))


@pytest.mark.parametrize(("n", "close"), [(200, 1e-9), (20, 1e-6)])
def test_distance_is_pytorch_fids(n, close):
    """With fewer rows than features its matrix root is good to seven digits or so."""
    from pytorch_fid.fid_score import calculate_frechet_distance

    r = np.random.default_rng(2)
    a, b = (r.standard_normal((n, 32)) @ r.standard_normal((32, 32)) + r.standard_normal(32) for _ in "ab")
    theirs = calculate_frechet_distance(a.mean(0), np.cov(a.T), b.mean(0), np.cov(b.T))
    assert frechet(a, b) == pytest.approx(theirs, rel=close)


def test_distance_holds_for_fewer_pictures_than_features():
    a = np.random.default_rng(3).standard_normal((5, 64))
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    expected = 4 * np.square(a.mean(0)).sum() + 4 * np.trace(np.cov(a.T))
    assert frechet(a, 3 * a) == pytest.approx(expected)


def kernel_distance(a, b):
    return set_metrics.kernel_distance(a, b, np.ones((1, len(a))), np.ones((1, len(b))))[0]


def test_kernel_distance_is_the_unbiased_estimate_of_scikit_learns_kernel(monkeypatch):
    r = np.random.default_rng(4)
    a, b = r.standard_normal((30, 6)), r.standard_normal((21, 6)) + 0.3
    k_aa, k_bb, k_ab = (polynomial_kernel(x, y, degree=3, coef0=1) for x, y in ((a, a), (b, b), (a, b)))
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (k_aa, k_bb)]
    expected = sum(within) - 2 * k_ab.mean()
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(set_metrics, "BLOCK", 7)
    assert kernel_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_a_resample_of_the_kernel_distance_pairs_no_row_with_its_copy():
    r = np.random.default_rng(5)
    a, b = r.standard_normal((9, 3)), r.standard_normal((8, 3))
    w_a, w_b = set_metrics.weights(3, 9, 0, "a"), set_metrics.weights(3, 8, 0, "b")
    found = set_metrics.kernel_distance(a, b, w_a, w_b)
    for i in range(3):
        total = []
        for f, w in ((a, w_a[i]), (b, w_b[i])):
            which = np.repeat(np.arange(len(f)), w.astype(int))
            k = polynomial_kernel(f[which], degree=3, coef0=1)
            total.append(k[which[:, None] != which].mean())
        cross = polynomial_kernel(
            np.repeat(a, w_a[i].astype(int), 0), np.repeat(b, w_b[i].astype(int), 0), degree=3, coef0=1
        )
        assert found[i] == pytest.approx(sum(total) - 2 * cross.mean(), rel=1e-10)


def test_neighbours_are_the_definitions_written_out(monkeypatch):
    r, k = np.random.default_rng(6), 3
    a, b = r.standard_normal((40, 2)), r.standard_normal((33, 2)) * 1.5 + 0.5

    def distances(x, y):
        return np.linalg.norm(x[:, None] - y[None], axis=-1)

    ball_a, ball_b = (
        np.sort(distances(x, x), axis=1)[:, k] for x in (a, b)
    )  # column 0 is the picture itself
    inside = distances(a, b) <= ball_b
    for block in (1024, 9):
        monkeypatch.setattr(set_metrics, "BLOCK", block)
        found = set_metrics.find_neighbours(a, b, k)
        assert np.array_equal(found.precision_N, inside.any(1))
        assert np.array_equal(found.density_N, inside.sum(1) / k)
        assert np.array_equal(found.recall_M, (distances(b, a) <= ball_a).any(1))
        assert np.array_equal(found.coverage_M, inside[distances(a, b).argmin(0), np.arange(33)])


def test_neighbours_of_equal_and_of_far_sets():
    a = np.random.default_rng(7).standard_normal((50, 4))
    same, far = set_metrics.find_neighbours(a, a, 5), set_metrics.find_neighbours(a, a + 100, 5)
    assert [v.mean() for v in (same.precision_N, same.recall_M, same.coverage_M)] == [1, 1, 1]
    assert same.density_N.mean() == pytest.approx(6 / 5, abs=0.3)  # itself, and k neighbours on average
    assert [v.mean() for v in vars(far).values()] == [0, 0, 0, 0]


def test_inception_score_of_sure_and_of_unsure_classifiers():
    sure = np.eye(10)[np.arange(40) % 10]
    assert InceptionScore.of(sure).value() == pytest.approx(10)
    assert InceptionScore.of(np.full((40, 10), 0.1)).value() == pytest.approx(1)
    p = np.random.default_rng(8).dirichlet(np.ones(5), 60)
    expected = np.exp((p * np.log(p / p.mean(0))).sum(1).mean())
    assert (InceptionScore.of(p[:25]) + InceptionScore.of(p[25:])).value() == pytest.approx(
        expected, rel=1e-12
    )
    w = set_metrics.weights(2, 60, 0)
    drawn = np.repeat(p, w[1].astype(int), 0)
    assert set_metrics.score_resampled(p, w)[1] == pytest.approx(InceptionScore.of(drawn).value(), rel=1e-12)


def test_resamples_of_a_distance_are_distances_of_resampled_rows():
    r = np.random.default_rng(9)
    a, b = r.standard_normal((20, 3)), r.standard_normal((25, 3)) + 1
    w_a, w_b = set_metrics.weights(2, 20, 1, "a"), set_metrics.weights(2, 25, 1, "b")
    rows = np.repeat(a, w_a[1].astype(int), 0), np.repeat(b, w_b[1].astype(int), 0)
    assert set_metrics.frechet_resampled(a, b, w_a, w_b)[1] == pytest.approx(frechet(*rows), rel=1e-10)


def test_an_intervals_width_is_that_of_the_mean_of_a_normal():
    """The interval of a mean of n normal values is value +- 1.96 / sqrt n."""
    x = np.random.default_rng(10).standard_normal(400)
    x = (x - x.mean()) / x.std()
    w = set_metrics.weights(4000, 400, 0, "mean")
    assert (w.sum(1) == 400).all()
    low, high = set_metrics.interval(7.0, w @ x / 400, 0.95)
    assert (low, high) == pytest.approx((7 - 1.96 / 20, 7 + 1.96 / 20), abs=0.006)
