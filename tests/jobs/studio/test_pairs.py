"""The tab Pairs: its pairs are those that the augment job makes of the same input with the YAML that it shows."""

import json
import re

import numpy as np
import pytest
from flows import inline
from studios import FUSE, table_of
from studios import PAIRS as CONTROLS

from noiseweave.cluster import storage
from noiseweave.cluster.ledger import Ledger
from noiseweave.engine.features.recipes import FeatureRecipe
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.pairing.recipes import PairingRecipe
from noiseweave.jobs.studio import batches, commands, pairs
from noiseweave.jobs.studio.config import Config
from noiseweave.jobs.studio.features import Features, Table
from noiseweave.jobs.studio.pairs import Pairing, recipe_of

CASES = {
    "as it is": {},
    "few uses, a quota, the most similar": {"max_uses": 1, "quota": "number", "per_class": 3, "draw": "top"},
    "no bounds, any class": {
        "max_uses": 0,
        "quota": "none",
        "pair_classes": "any",
        "max_pairs": 40,
        "top_k": 2,
    },
}


def pairs_of_run(output):
    """(keys, similarity) of every pair that a run has planned; which one is the first is drawn."""
    book, found = Ledger(output=str(output)), set()
    for name in storage.names_in(book.path("groups")):
        for line in storage.read(book.path("groups", name)).splitlines():
            group = json.loads(line)
            keys = [place["key"] for place in group["images"]]
            found |= {(frozenset((keys[p["a"]], keys[p["b"]])), p["similarity"]) for p in group["pairs"]}
    return found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_pairs_are_those_of_augment_with_the_yaml_of_the_page(folder, tmp_path, case):
    page = Config(input=str(folder), output="out", model=ModelConfig(name="digits-ddpm"))
    table = table_of(Features(page, None, lambda work: work()))
    config = batches.config_of(page, FUSE, "out/augment-001", recipe_of(CONTROLS | case), table.space)
    chosen = Pairing(table).choose(config.pairing, config.seed)
    (tmp_path / "page.yaml").write_text(commands.yaml_of(config), encoding="utf-8")
    assert inline("augment", "--config", tmp_path / "page.yaml") == 0
    s = chosen.selected
    shown = {
        (frozenset((table.names[a], table.names[b])), similarity)
        for a, b, similarity in zip(s.a.tolist(), s.b.tolist(), s.similarity.tolist(), strict=True)
    }
    assert pairs_of_run("out/augment-001") == shown
    report = json.loads((tmp_path / "out/augment-001/report.json").read_text())
    assert (report["pairs"], report["most_uses"]) == (chosen.count, chosen.about.most_uses)
    assert report["pairs_per_class"] == chosen.about.pairs
    assert report["pictures_used"] == len(table) - chosen.unused
    assert chosen.count > 5


@pytest.mark.slow
def test_of_photographs_the_candidates_are_those_of_augment(tmp_path, monkeypatch):
    from pathlib import Path

    from noiseweave.jobs.studio.features import EFFICIENTNET

    monkeypatch.chdir(tmp_path)
    flowers = Path(__file__).parents[3] / "examples/flowers"
    page = Config(input=str(flowers), output="out", model=ModelConfig(name="flowers-flow"))
    table = table_of(Features(page, None, lambda work: work()))
    recipe = PairingRecipe(threshold=0.5, max_pairs=1)
    found = Pairing(table)._found(recipe, 0)
    words = (
        "--pairing.threshold",
        0.5,
        "--pairing.max_pairs",
        1,
        "--inversion.num_steps",
        2,
        "--inversion.skip",
        1,
    )
    run = ("augment", flowers, "--model.name", "flowers-flow", *words, "--gate", "false")
    assert inline(*run, "--output", "out/augment") == 0
    book = Ledger(output="out/augment")
    planned = np.concatenate([np.load(book.path("pairs", n)) for n in storage.names_in(book.path("pairs"))])
    assert table.space.name == EFFICIENTNET
    assert [tuple(row) for row in planned.tolist()] == list(
        zip(*(part.tolist() for part in found), strict=True)
    )


def table(n=40, classes=2):
    rng = np.random.default_rng(0)
    f_ND = rng.normal(size=(n, 8)).astype(np.float32) + 1
    return Table(
        space=FeatureRecipe(),
        f_ND=f_ND / np.linalg.norm(f_ND, axis=1, keepdims=True),
        label_N=np.arange(n) % classes,
        hash_N=rng.integers(0, 1 << 63, n).astype(np.uint64),
        names=[str(i) for i in range(n)],
        thumbs=[b""] * n,
        total=n,
    )


def test_candidates_are_computed_anew_only_where_they_depend_on_a_control(monkeypatch):
    from noiseweave.engine.pairing import nearest

    calls, real = [], nearest.nearest
    monkeypatch.setattr(nearest, "nearest", lambda *a: calls.append(1) or real(*a))
    pairing = Pairing(table())
    for uses in (1, 2, 3):
        pairing.choose(PairingRecipe(threshold=0.2, max_uses=uses), 0)
    pairing.choose(PairingRecipe(threshold=0.2, per_class=3), 0)
    assert len(calls) == 1
    pairing.choose(PairingRecipe(threshold=0.3), 0)
    pairing.choose(PairingRecipe(threshold=0.3), 1)
    assert len(calls) == 3
    for i in range(20):
        pairing.choose(PairingRecipe(threshold=0.01 * i), 0)
    assert len(pairing._candidates) == pairs.KEPT


def test_uses_ends_and_classes_are_counted():
    chosen = Pairing(table()).choose(PairingRecipe(threshold=0.2, top_k=2), 0)
    s = chosen.selected
    assert chosen.uses_N.sum() == 2 * chosen.count
    assert chosen.unused == 40 - len({*s.a.tolist(), *s.b.tolist()})
    low, high = chosen.ends(3)
    assert s.similarity[low].tolist() == sorted(s.similarity.tolist())[:3]
    assert s.similarity[high].tolist() == sorted(s.similarity.tolist(), reverse=True)[:3]
    all_low, all_high = chosen.ends(10_000)
    assert (len(all_low), all_high) == (chosen.count, [])
    assert sum(n for _, n in pairs.uses(chosen.uses_N)) == 40
    assert pairs.uses(np.array([0, 1, 30]), most=3) == [(0, 1), (1, 1), (2, 0), (3, 1)]
    rows = pairs.by_class(chosen, ("cat", "dog"))
    assert {name for name, *_ in rows} == {"cat", "dog"}
    assert sum(n for _, n, *_ in rows) == chosen.count
    ((_, first, *_), (rest, second, *_)) = pairs.by_class(chosen, ("cat", "dog"), most=1)
    assert (rest, first + second) == ("", chosen.count)


@pytest.mark.parametrize("classes", ["same_class", "any"])
def test_the_histogram_has_every_pair_once(classes, monkeypatch):
    monkeypatch.setattr(pairs, "ROWS", 7)
    one = table()
    counts = Pairing(one).histogram(classes)
    i, j = np.triu_indices(40, 1)
    keep = (one.label_N[i] == one.label_N[j]) | (classes == "any")
    s = np.sum(one.f_ND[i] * one.f_ND[j], axis=1)[keep]
    assert counts.sum() == keep.sum()
    assert np.abs(counts - pairs.binned(s)).sum() <= 2  # on an edge the last bit decides


@pytest.mark.parametrize(
    ("controls", "said"),
    [
        ({"threshold": 2}, "pairing.threshold=2.0: -1 to 1"),
        ({"threshold": 0.9, "upper": 0.5}, "pairing.upper=0.5: threshold to 1"),
        ({"top_k": 0}, "pairing.top_k=0: 1 or more"),
        ({"top_k": 1.5}, "top_k=1.5: a whole number"),
        ({"quota": "x"}, "quota='x': one of balanced, none, number"),
        ({"draw": ["top"]}, "draw="),
        ({"pair_classes": None}, "pair_classes=None"),
        ({"max_uses": -1}, "pairing.max_uses=-1"),
    ],
)
def test_what_no_control_sends_is_one_line(controls, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        recipe_of(CONTROLS | controls)


def test_zero_and_none_set_no_bound():
    free = recipe_of(CONTROLS | {"max_uses": 0, "max_pairs": 0, "quota": "none"})
    assert (free.max_uses, free.max_pairs, free.per_class) == (None, None, None)
    assert recipe_of(CONTROLS | {"quota": "number", "per_class": 9}).per_class == 9
