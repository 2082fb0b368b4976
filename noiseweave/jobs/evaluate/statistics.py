"""Statistics of a set in a file: ``mu`` and ``sigma``, as pytorch-fid writes and reads them.

Ours say more, which pytorch-fid passes over: ``n``, and ``space``, the identity of the feature space as JSON.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from noiseweave.cluster import storage
from noiseweave.engine.records import Json, JsonMapping

if TYPE_CHECKING:
    from noiseweave.engine.judging.set_metrics import Gaussian
    from noiseweave.jobs.evaluate.side import Side

PYTORCH_FID = {"name": "inception", "weights": "6726825d", "side": None}
"""The space of statistics that do not say theirs."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What a file holds.

    Attributes:
        n: pictures, None where it does not say.
        space: None where it does not say.
    """

    given: str
    gaussian: Gaussian
    n: int | None
    space: JsonMapping | None
    digest: str


def read(name: str, given: str) -> Statistics:
    """A statistics file.

    Raises:
        ValueError: it is missing, or is none, in one line.
    """
    from noiseweave.engine.judging.set_metrics import Gaussian

    url = storage.absolute(given)
    if not storage.exists(url):
        raise ValueError(f"{name}={given!r}: no such file")
    data = storage.read(url)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as f:
            mu_D, sigma_DD = np.asarray(f["mu"], np.float64), np.asarray(f["sigma"], np.float64)
            n = int(f["n"]) if "n" in f else None
            space = json.loads(str(f["space"])) if "space" in f else None
    except Exception as e:
        raise ValueError(f"{name}={given!r}: no statistics (mu and sigma in a .npz): {e}") from None
    fits = mu_D.ndim == 1 and sigma_DD.shape == (len(mu_D), len(mu_D)) and len(mu_D) > 0
    if not fits or not (np.isfinite(mu_D).all() and np.isfinite(sigma_DD).all()):
        raise ValueError(
            f"{name}={given!r}: mu {mu_D.shape} and sigma {sigma_DD.shape} are no finite mean [D] and covariance [D, D]"
        )
    gaussian = Gaussian(mean_D=mu_D, covariance_DD=sigma_DD)
    digest = hashlib.sha256(data).hexdigest()[:16]
    return Statistics(given=given, gaussian=gaussian, n=n, space=space, digest=digest)


def agreed(space: Json | None, statistics: Mapping[str, Statistics]) -> tuple[Json, str]:
    """The space of all sides and its name; that of the pictures goes first.

    Raises:
        ValueError: statistics of another space, or of another number of features.
    """
    from noiseweave.engine.features import spaces

    own = space is not None
    for name, found in statistics.items():
        if space is None:
            space = dict(found.space or PYTORCH_FID)
        elif found.space is None:
            if space["name"] != "inception":
                raise ValueError(
                    f"{name}={found.given!r}: statistics that do not say their feature space are taken for "
                    f"pytorch-fid's; this run's is {spaces.label(space)}"
                )
        elif dict(found.space) != space:
            what = _differs(dict(found.space), space)
            raise ValueError(f"{name}={found.given!r}: statistics of another feature space: {what}")
    assert space is not None
    lengths = {n: len(s.gaussian.mean_D) for n, s in statistics.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(
            f"input and reference: statistics of {lengths['input']} and {lengths['reference']} features"
        )
    if own and space["name"] == "inception" and set(lengths.values()) - {2048}:
        name, length = next(iter(lengths.items()))
        given = statistics[name].given
        raise ValueError(
            f"{name}={given!r}: statistics of another feature space: {length} features, not 2048"
        )
    return space, spaces.label(space)


def _differs(theirs: JsonMapping, ours: JsonMapping) -> str:
    names = [n for n in sorted(theirs.keys() | ours.keys()) if theirs.get(n) != ours.get(n)]
    return ", ".join(f"its {n} is {theirs.get(n)}, this run's {ours.get(n)}" for n in names)


def write(path: str, side: Side, space: JsonMapping) -> None:
    """A set's statistics, for a later run's --reference or for pytorch-fid."""
    gaussian, buffer = side.moments().gaussian(), io.BytesIO()
    np.savez_compressed(
        buffer,
        mu=gaussian.mean_D,
        sigma=gaussian.covariance_DD,
        n=np.array(side.n),
        space=np.array(json.dumps(dict(space), sort_keys=True)),
    )
    storage.write(storage.absolute(path), buffer.getvalue())
