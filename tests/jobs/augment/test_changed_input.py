"""Input that changes, between runs or during one, is never joined to what was made of it before."""

import json
from pathlib import Path

import pytest
from augments import BASE, digits, write_shard
from flows import inline

from noiseweave.cluster import shards, storage
from noiseweave.engine.pictures import images
from noiseweave.jobs import cli
from noiseweave.jobs.augment import dataset


@pytest.fixture
def source(tmp_path):
    """30 digits in 2 shards, every file of one size, so that a tar in another order has the same size."""
    pictures, labels = digits()
    rows = [
        (f"d{i:02d}", {"png": images.encode(p), "cls": str(y).encode()})
        for i, (p, y) in enumerate(zip(pictures[:30], labels[:30], strict=True))
    ]
    for k in range(2):
        write_shard(tmp_path / "in" / f"s-{k}.tar", rows[15 * k : 15 * k + 15])
    return tmp_path / "in"


def backwards(path: Path):
    """The shard's samples in the reverse order: the same names, the same size."""
    size = path.stat().st_size
    rows = [
        (e.key, {x: storage.read(str(path), m.offset, m.size) for x, m in e.members.items()})
        for e in shards.index(str(path))[0]
    ]
    write_shard(path, rows[::-1])
    assert path.stat().st_size == size


def words(source, output):
    return [*BASE, "--input", source, "--output", output]


def test_a_shard_in_another_order_is_another_input(source, tmp_path, capsys):
    assert inline("augment", *words(source, tmp_path / "o")) == 0
    backwards(source / "s-0.tar")
    with pytest.raises(SystemExit) as stop:
        cli.main(["augment", *map(str, words(source, tmp_path / "o")), "--address", "inline"])
    assert stop.value.code == 2
    assert "input.content" in capsys.readouterr().err


def cut(path: Path):
    path.write_bytes(path.read_bytes()[:2048])


@pytest.mark.parametrize("change", [backwards, cut, Path.unlink])
def test_input_that_changes_during_the_run_fails_it(change, source, tmp_path, monkeypatch):
    plan = dataset.plan_groups

    def then(task, book):
        plan(task, book)
        change(source / "s-0.tar")

    monkeypatch.setattr(dataset, "plan_groups", then)
    assert inline("augment", *words(source, tmp_path / "o")) == 1
    report = json.loads((tmp_path / "o/report.json").read_text())
    assert report["failed"]["generate"]
    if change is not Path.unlink:
        assert all("input changed during the run" in line for line in report["failed"]["generate"].values())
    used = {p["key"] for _, one in samples(tmp_path / "o") for p in json.loads(one["json"])["parents"]}
    assert not used & {f"d{i:02d}" for i in range(15)}, "nothing is made of what changed"


def samples(output):
    for path in sorted(output.glob("shards/*.tar")):
        for e in shards.index(str(path))[0]:
            yield e.key, {x: storage.read(str(path), m.offset, m.size) for x, m in e.members.items()}
