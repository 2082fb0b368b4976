"""augment with a pool: unlabelled pictures get guessed labels, and are parents beside the labelled ones.

    <output>/_run/pool/_run/...   features of the pool, until they were guessed
    <output>/_run/guess/          what guesses
    <output>/_run/index, features the pictures that are taken in, in units that follow the input's

So pairs are drawn of both, and what is inverted are the ends of pairs alone, however large the pool is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from noiseweave.cluster import pipeline, stages, storage
from noiseweave.cluster.arrays import array, load_npy, npy, table
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.pipeline import Outcome
from noiseweave.cluster.session import Session
from noiseweave.cluster.stages import Committed, Phase
from noiseweave.cluster.units import Plan, Unit, UnitReport
from noiseweave.engine.records import Json, Location
from noiseweave.jobs.augment import index
from noiseweave.jobs.augment.task import Task
from noiseweave.jobs.reading import looks
from noiseweave.jobs.reading.class_names import shown

if TYPE_CHECKING:
    from noiseweave.engine.usefulness.guesses import Regression

EMBED = "embed_pool"  # what its first phase is called beside those of the run
LEARNT = 20_000  # most labelled pictures that the guesses are learnt from, spread evenly over a larger input
CHUNK = 1024  # pictures of the pool that are held against all labelled ones at a time
NAMED = 10  # classes that a line names


@dataclass(frozen=True, kw_only=True)
class Part:
    """Pictures of a shard of the pool.

    Attributes:
        places, f_ND, hash_N: as they were embedded.
    """

    places: list[Location]
    f_ND: np.ndarray
    hash_N: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What became of them.

    Attributes:
        part: those that are taken in, with their guesses.
        again: how many are pictures of the input again.
        unsure: how many have no guess that is sure enough.
        surest: the highest probability of these.
    """

    part: Part
    again: int
    unsure: int
    surest: float


def book_of(book: Ledger) -> Ledger:
    """The ledger of the pool's own features."""
    return Ledger(output=book.path("pool"))


def check(task: Task, book: Ledger, pictures: int) -> None:
    """Say what a user may not have meant.

    Args:
        pictures: of the pool, that open.

    Raises:
        ValueError: there is nothing to guess, or nothing to guess by.
    """
    given = task.config.pool
    if not pictures:
        raise ValueError(f"pool={given!r}: no picture in it opens")
    counts = Counter(index.numbers(book, "label", np.int64, own=True).tolist())
    labels = sorted(label for label in counts if label >= 0)
    if len(labels) < 2:
        have = shown(labels[0], task.classes) if labels else "none"
        raise ValueError(
            f"pool={given!r}: labels are guessed by the input's, which must be of two classes or more; it has {have}"
        )
    few = [shown(label, task.classes) for label in labels if counts[label] < 2]
    if few:
        rest = f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
        looks.warn(f"pool: one labelled picture alone to guess by in class {', '.join(few[:NAMED])}{rest}")


def run(task: Task, first: int, book: Ledger, s: Session) -> dict[str, Outcome]:
    """Learn to guess from the input, and take pictures of the pool in.

    Args:
        first: the number of the first of the units that the pool's pictures become.
    """
    learn = Phase(
        name="guess", fetch=stages.payload, make_compute=partial(_learner, book), commit=partial(_keep, book)
    )
    outcomes = {"guess": pipeline.run(Plan.of([None]), learn, book, s)}
    if outcomes["guess"].failed:
        return outcomes
    units = [unit for unit, _ in index.rows_of(book_of(book))]
    take = Phase(
        name=index.POOLED,
        fetch=partial(_fetch, task, book),
        make_compute=partial(_taker, task, book),
        commit=partial(_commit, book),
    )
    plan = Plan.of(units, [f"{first + int(unit):06d}" for unit in units])
    outcomes[index.POOLED] = pipeline.run(plan, take, book, s)
    if not outcomes[index.POOLED].failed:
        for name in ("index", "features"):
            storage.remove(book_of(book).path(name))
        _say(task, outcomes[index.POOLED])
    return outcomes


# what guesses


def _learner(book: Ledger) -> Callable[[None], Regression]:
    from noiseweave.engine.usefulness.guesses import Regression

    def compute(nothing: None) -> Regression:
        places = index.spread_places(book, LEARNT, own=True)
        f_ND = index.spread_features(book, LEARNT, own=True)
        known = np.array([p.label is not None for p in places])
        return Regression.of(f_ND[known], np.array([p.label for p in places if p.label is not None]))

    return compute


def _keep(book: Ledger, unit: Unit, fitted: Regression) -> Committed:
    for field in fields(fitted):
        storage.write(book.path("guess", f"{field.name}.npy"), npy(getattr(fitted, field.name)))
    return UnitReport(id=unit.id, produced=len(fitted.class_K)), []


def _regression(book: Ledger) -> Regression:
    from noiseweave.engine.usefulness.guesses import Regression

    read = {f.name: array(storage.read(book.path("guess", f"{f.name}.npy"))) for f in fields(Regression)}
    return Regression(**read)


# what is taken in


def _fetch(task: Task, book: Ledger, unit: Unit) -> Part:
    own, of = book_of(book), unit.payload
    rows = table(own.path("index", f"{of}.parquet"), index.INDEX).to_pylist()
    there = [i for i, row in enumerate(rows) if row["size"]]  # forget empties rows
    kept = [i for i in there if not task.reference.forgets(rows[i]["shard"], rows[i]["key"])]
    return _some(
        Part(
            places=[Location(**row) for row in rows],
            f_ND=np.asarray(load_npy(own.path("features", f"{of}.npy"))),
            hash_N=np.asarray(load_npy(own.path("features", f"{of}.hash.npy"))),
        ),
        kept,
    )


def _some(part: Part, rows: Sequence[int]) -> Part:
    places = [part.places[i] for i in rows]
    return Part(places=places, f_ND=part.f_ND[list(rows)], hash_N=part.hash_N[list(rows)])


def _taker(task: Task, book: Ledger) -> Callable[[Part], Taken]:
    fitted = _regression(book)
    hash_M = index.numbers(book, "hash", np.uint64, own=True)
    digests = {row["digest"] for row in index.whole(book, own=True).select(["digest"]).to_pylist()}
    return partial(take, task, fitted, hash_M, digests - {None})


def take(task: Task, fitted: Regression, hash_M: np.ndarray, digests: set[str], part: Part) -> Taken:
    """The pictures that are new and whose class is sure, with it as their label.

    Args:
        hash_M, digests: perceptual hashes of the input's pictures, and digests of their files.
    """
    close_N = near(part.hash_N, hash_M, task.config.pairing.hash)
    same = np.array([p.digest in digests for p in part.places], bool)
    new = _some(part, np.flatnonzero(~(close_N | same)).tolist())
    p_NK = fitted.chances(new.f_ND) if new.places else np.zeros((0, len(fitted.class_K)))
    best_N, p_N = p_NK.argmax(1), p_NK.max(1, initial=0)
    sure_N = p_N >= task.config.guess.confidence
    some = _some(new, np.flatnonzero(sure_N).tolist())
    guesses = zip(some.places, fitted.class_K[best_N[sure_N]].tolist(), p_N[sure_N].tolist(), strict=True)
    places = [replace(place, label=label, guess=round(p, 6)) for place, label, p in guesses]
    return Taken(
        part=replace(some, places=places),
        again=len(part.places) - len(new.places),
        unsure=int((~sure_N).sum()),
        surest=float(p_N[~sure_N].max(initial=0)),
    )


def near(hash_N: np.ndarray, hash_M: np.ndarray, bits: int | None) -> np.ndarray:
    """bool [N]: whether one of the hashes M differs in at most so many bits; None for nowhere."""
    out_N = np.zeros(len(hash_N), bool)
    for start in range(0, len(hash_N) if bits is not None and len(hash_M) else 0, CHUNK):
        rows = slice(start, start + CHUNK)
        out_N[rows] = (np.bitwise_count(hash_N[rows, None] ^ hash_M[None]) <= bits).any(1)
    return out_N


def _commit(book: Ledger, unit: Unit, result: Taken) -> Committed:
    part = result.part
    labels = np.array([p.label for p in part.places], np.int64)
    storage.write(book.path("index", f"{unit.id}.parquet"), index.parquet(part.places))
    storage.write(book.path("features", f"{unit.id}.label.npy"), npy(labels))
    storage.write(book.path("features", f"{unit.id}.hash.npy"), npy(part.hash_N))
    storage.write(book.path("features", f"{unit.id}.npy"), npy(part.f_ND))
    tallies: dict[str, dict[str, int]] = {
        "pool": {"again": result.again, "unsure": result.unsure},
        "guessed": dict(Counter(str(label) for label in labels.tolist())),
        "surest": {f"{int(result.surest * 1000) / 1000:.3f}": 1},  # rounded down: below the confidence
    }
    return UnitReport(id=unit.id, produced=len(part.places), tallies=tallies), []


# what is said


def _say(task: Task, outcome: Outcome) -> None:
    if outcome.produced:
        return
    if not outcome.tallies["pool"]["unsure"]:
        again = outcome.tallies["pool"]["again"]
        looks.warn(
            f"pool: all its {again} pictures are the input's again; the labelled ones alone are paired"
        )
    else:
        surest = max(outcome.tallies["surest"], default="0")
        looks.warn(
            f"pool: no picture of it is as sure as guess.confidence={task.config.guess.confidence} "
            f"(the surest {surest}); the labelled ones alone are paired"
        )


def report(outcome: Outcome) -> Json:
    """What report.json says of the pool."""
    again, unsure = outcome.tallies["pool"]["again"], outcome.tallies["pool"]["unsure"]
    return {
        "pictures": outcome.produced + again + unsure,
        "guessed": dict(sorted(outcome.tallies["guessed"].items())),
        "unsure": unsure,
        "again": again,
    }


def rows(known: Json, classes: Sequence[str]) -> list[tuple[str, str]]:
    """What the screen says of it."""
    of_class = ", ".join(f"{shown(label, classes)} {n}" for label, n in known["guessed"].items()) or "none"
    left = f"{known['unsure']} not sure enough, {known['again']} are pictures of the input again"
    return [("pool", f"{known['pictures']} pictures; {left}"), ("guessed", of_class)]
