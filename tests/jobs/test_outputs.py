"""What all jobs leave in their output folders: one writer of the quarantine, one form of shards' names."""

import json

import pytest

from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.units import UnitReport
from noiseweave.engine.records import Quarantined
from noiseweave.jobs import outputs
from noiseweave.jobs.outputs import ShardName


def test_the_quarantine_is_a_line_a_sample_whatever_its_name_holds(tmp_path):
    rows = [{"key": "a\udcff", "reason": "too_large"}, {"key": "雪", "reason": "too_large"}]
    assert outputs.write_quarantine(str(tmp_path), rows) == {"too_large": 2}
    data = (tmp_path / "quarantine.jsonl").read_bytes()
    assert [json.loads(line)["key"] for line in data.splitlines()] == ["a\udcff", "雪"]
    assert outputs.write_quarantine(str(tmp_path), []) == {}
    assert (tmp_path / "quarantine.jsonl").read_bytes() == b""


def test_the_screen_names_some_of_what_is_quarantined_and_where_all_are(tmp_path, capsys):
    outputs.write_quarantine(str(tmp_path), [])
    outputs.say_quarantined(str(tmp_path))
    assert capsys.readouterr().out == ""
    rows = [
        {"shard": "s3://b/in/s-0.tar", "key": "k", "reason": "too_large"},
        {"source": "roses/a b.jpg", "reason": "not_an_image"},
        {"key": "x\x1b[2J" + "y" * 200, "reason": "not_an_image"},
        {"key": "fourth", "reason": "bad_mask"},
    ]
    outputs.write_quarantine(str(tmp_path), rows)
    outputs.say_quarantined(str(tmp_path))
    (line,) = capsys.readouterr().out.splitlines()
    long = "x\\x1b[2J" + "y" * 94 + "…"
    assert line == (
        "quarantined: 1 bad_mask, 2 not_an_image, 1 too_large: s-0.tar#k (too_large), roses/a b.jpg (not_an_image), "
        f"{long} (not_an_image) and 1 more; see {tmp_path}/quarantine.jsonl"
    )


def test_what_units_quarantined_comes_from_their_markers(tmp_path):
    book = Ledger(output=str(tmp_path))
    book.mark("p", UnitReport(id="0", produced=0), [Quarantined(shard="s", key="k", reason="r")])
    assert list(outputs.quarantined(book, "p")) == [{"shard": "s", "key": "k", "reason": "r", "detail": ""}]


@pytest.mark.parametrize(
    ("path", "name", "phase"),
    [
        ("a/augmented-000003.tar", ShardName(kind="augmented", unit="000003"), "generate"),
        ("augmented-000003-012.tar", ShardName(kind="augmented", unit="000003", group="012"), "window"),
        ("rejected-000003.tar", ShardName(kind="rejected", unit="000003"), "generate"),
        ("original-000001.tar", ShardName(kind="original", unit="000001"), "copy"),
        ("inpainted-000001.tar", ShardName(kind="inpainted", unit="000001"), "inpaint"),
        ("sample-000001.tar", ShardName(kind="sample", unit="000001"), "sample"),
    ],
)
def test_a_shards_name_says_which_unit_of_which_phase_wrote_it(path, name, phase):
    assert ShardName.of(path) == name
    assert name.phase == phase
    assert str(name) == path.rpartition("/")[2]


@pytest.mark.parametrize(
    "path", ["shard-000001.tar", "augmented-1.txt", "augmented-x.tar", "theirs-000001.tar"]
)
def test_other_names_are_none_of_ours(path):
    assert ShardName.of(path) is None
