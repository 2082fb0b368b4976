"""A shard that can never be read costs its own samples, where that was asked for, and is named."""

import errno
import json

import pytest
from augments import BASE, digits, report, write_shard
from flows import inline

from noiseweave.cluster import storage
from noiseweave.engine.pairing import nearest
from noiseweave.engine.pictures import images
from noiseweave.jobs.augment import originals, reading

WINDOW = ("--pairing.scope", "window", "--pairing.window", 1, "--pairing.overlap", 0)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    pictures, labels = digits()
    rows = [
        (f"d{i:02d}", {"png": images.encode(p), "cls": str(y).encode()})
        for i, (p, y) in enumerate(zip(pictures, labels, strict=True))
    ]
    for k, name in enumerate("abc"):
        write_shard(folder / f"{name}.tar", rows[30 * k : 30 * k + 30])
    return folder


@pytest.fixture
def unreadable(monkeypatch):
    """The shard b.tar, which is there and cannot be read."""
    opened = storage._opened

    def broken(name):
        if name.endswith("/b.tar"):
            raise OSError(errno.EIO, "Input/output error", name)
        return opened(name)

    monkeypatch.setattr(storage, "_opened", broken)


def run(source, output, *more):
    model = ("--model.name", "digits-ddpm", "--features.name", "pixels")
    return inline("augment", *BASE, *model, "--input", source, "--output", output, *more)


def quarantined(output):
    lines = [json.loads(line) for line in (output / "quarantine.jsonl").read_text().splitlines()]
    return [(x["phase"], x["shard"], x["reason"]) for x in lines]


@pytest.mark.parametrize("scope", [(), WINDOW])
def test_a_shard_that_cannot_be_read_is_left_out_and_named(scope, source, tmp_path, unreadable, capsys):
    output = tmp_path / "out"
    assert run(source, output, "--skip_failed", "--samples.copy_original", not scope, *scope) == 0
    said = capsys.readouterr().out
    phase = "window" if scope else "embed"
    assert f"left out: shard b.tar: {phase} 000001: " in said
    assert "Input/output error" in said
    assert quarantined(output) == [(phase, "b.tar", "failed_unit")]
    about = report(output)
    assert about["failed"] == {}
    assert about["quarantined"] == {"failed_unit": 1}
    assert about["images"] == 60
    assert about["samples"] > 0
    assert run(source, output, "--skip_failed", "--samples.copy_original", not scope, *scope) == 0
    assert "left out: shard b.tar" in capsys.readouterr().out  # and said again


def test_without_the_option_the_job_stops_and_names_it(source, tmp_path, unreadable, capsys):
    with pytest.raises(SystemExit) as stop:
        run(source, tmp_path / "out")
    assert stop.value.code == 2
    assert "b.tar" in capsys.readouterr().err


def test_a_group_and_a_copy_name_the_shards_that_they_read(source, tmp_path, monkeypatch):
    group, copy = reading.read_group, originals._fetch_original
    monkeypatch.setattr(
        reading, "read_group", lambda task, g, s: fails() if g.id == "000000" else group(task, g, s)
    )
    monkeypatch.setattr(
        originals, "_fetch_original", lambda t, b, u: fails() if u.id == "000002" else copy(t, b, u)
    )
    output = tmp_path / "out"
    assert run(source, output, "--skip_failed", "--samples.copy_original", "true") == 0
    found = quarantined(output)
    assert {phase for phase, _, _ in found} == {"generate", "copy"}
    assert {shard for phase, shard, _ in found if phase == "copy"} == {"c.tar"}
    assert {shard for phase, shard, _ in found if phase == "generate"} <= {"a.tar", "b.tar", "c.tar"}


def fails():
    raise OSError(errno.EIO, "Input/output error")


def test_where_all_fails_nothing_is_left_out(source, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "read_shard", lambda *_: fails())
    assert run(source, tmp_path / "out", "--skip_failed") == 1
    assert len(report(tmp_path / "out")["failed"]["embed"]) == 3
    assert quarantined(tmp_path / "out") == []


def test_a_block_of_rows_names_the_shards_that_they_are_of(source, tmp_path, monkeypatch):
    search = nearest.nearest
    monkeypatch.setattr(nearest, "nearest", lambda first, *a: fails() if first == 40 else search(first, *a))
    assert run(source, tmp_path / "out", "--skip_failed", "--pairing.block", 20) == 0  # rows 40 to 59
    assert quarantined(tmp_path / "out") == [("pair", "b.tar", "failed_unit")]
