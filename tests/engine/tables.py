"""Feature tables for the tests of pairing."""

import numpy as np


def features(n, d=24, seed=0):
    """Clusters, exact duplicates and an empty picture."""
    g = np.random.default_rng(seed)
    f = g.standard_normal((n, d)) + 3 * g.standard_normal((5, d))[g.integers(5, size=n)]
    f[n // 2 : n // 2 + n // 4] = f[: n // 4]
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    f[n - 1] = 0
    return f.astype(np.float32), g.integers(-1, 3, size=n)


def blocks(f, label, size):
    return [(i, f[i : i + size], label[i : i + size]) for i in range(0, len(f), size)]
