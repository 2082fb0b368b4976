"""A folder with damage in it still has its page; what is damaged is left out and counted, on it and in the summary."""

import json
import os
import re

import pytest
import reports
from flows import error_line

from noiseweave.cluster import storage
from noiseweave.jobs import cli
from noiseweave.jobs.report import data as report_data
from noiseweave.jobs.report import job as report


def spoilt(folder, path, change):
    """An output of augment with one JSON file changed."""
    output = reports.build(folder, 4)
    value = storage.read_json(f"{output}/{path}")
    storage.write_json(f"{output}/{path}", change(value))
    return output


def tile(made):
    return next((t for t in made["tiles"] if t["label"] == "Damaged, left out"), None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"id": "000001"}',
        b"\xff\xfe",
        b"[" * 5000,
        b'{"produced": %s}' % (b"1" * 5000),
        b'{"id": "000001", "produced": 1e999, "seconds": 1, "quarantined": {}, "extra": {}, "tallies": {}, "bad": []}',
        b'{"id": "000001", "produced": 1, "seconds": null, "quarantined": {}, "extra": {}, "tallies": {}, "bad": []}',
        b'{"id": "000001", "produced": 1, "seconds": 1, "quarantined": [], "extra": {}, "tallies": {}, "bad": []}',
    ],
)
def test_a_damaged_done_marker_is_left_out_and_counted(content, tmp_path, capsys):
    output = reports.build(tmp_path, 4)
    (tmp_path / "out/_run/done/generate/000001.json").write_bytes(content)
    made = report_data.gather(output, 10, None)
    assert [(s["name"], s["units"], s["produced"]) for s in made["stages"]] == [("generate", 2, 20)]
    assert tile(made) == {"label": "Damaged, left out", "value": 1, "note": "1 done-markers", "bad": True}
    report.write(output)
    assert capsys.readouterr().out.rstrip().endswith("; 1 damaged and left out (1 done-markers)")


def test_a_sound_folder_says_nothing_of_damage(tmp_path, capsys):
    output = reports.build(tmp_path, 4)
    assert tile(report_data.gather(output, 10, None)) is None
    report.write(output)
    assert capsys.readouterr().out.rstrip().endswith("report.html")


@pytest.mark.parametrize("similarity", ["1" + "0" * 400, "1e308", "-1e999", "NaN"])
def test_a_similarity_of_any_size(similarity, tmp_path):
    about = json.dumps(reports.lineage(0, 4)).replace('"similarity": 0.0', f'"similarity": {similarity}')
    assert similarity in about
    png = {"png": reports.sample(0, 4)[1]["png"], "json": about.encode()}
    made = report_data.gather(reports.build(tmp_path, 2, extra=[("odd", png)]), 10, None)
    assert made["gallery"]["total"] == 3
    assert b"<html" in report.write(str(tmp_path / "out"))


def test_broken_and_deep_lineages(tmp_path):
    png = reports.sample(0, 4)[1]["png"]
    deep = b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}"
    extra = [("broken", {"png": png, "json": b"{"}), ("list", {"png": png, "json": b"[]"})]
    made = report_data.gather(
        reports.build(tmp_path, 2, extra=[*extra, ("deep", {"png": png, "json": deep})]), 10, None
    )
    assert made["gallery"]["total"] == 5
    assert tile(made)["note"] == "2 lineages"
    assert b"nested deeper" in report.write(str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("images", "many"),
        ("images", -1),
        ("pair_ends", 2**70),
        ("quarantined", {"x": "y"}),
        ("quarantined", [1]),
        ("failed", 3),
        ("phases", {"generate": 3}),
        ("phases", {"generate": {"seconds": "x"}}),
        ("config", 1),
        ("config", {"input": 3}),
        ("read_from", {"root": 3}),
    ],
)
def test_a_field_of_the_report_that_is_of_another_kind(field, value, tmp_path):
    output = spoilt(tmp_path, "report.json", lambda known: known | {field: value})
    made = report_data.gather(output, 10, None)
    assert tile(made)["note"] == "1 fields of report.json"
    assert made["gallery"]["total"] == 4
    assert b"<html" in report.write(output)


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more", b"{}"])
def test_a_damaged_index_is_passed_over(content, tmp_path):
    output = reports.build(tmp_path, 4)
    storage.write(f"{output}/_run/index/000000.parquet", content)
    made = report_data.gather(output, 10, None)
    assert tile(made)["note"] == "1 index files"
    assert made["gallery"]["absent"] == 0, "its parents are found in their shard"


def test_damaged_lines_of_the_quarantine_and_a_damaged_shard(tmp_path):
    output = reports.build(tmp_path, 4)
    path = tmp_path / "out/quarantine.jsonl"
    path.write_bytes(path.read_bytes() + b'{"reason"\n[]\n{"key": "x"}\n\xff\n')
    shard = tmp_path / "out/shards/augmented-000000.tar"
    shard.write_bytes(shard.read_bytes()[:3000])
    made = report_data.gather(output, 10, None)
    assert made["quarantine"]["reasons"] == [("no_picture", 3)]
    assert tile(made)["note"] == "1 shards, 4 lines of quarantine.jsonl"


def test_a_report_or_a_fusion_that_is_no_json(tmp_path):
    output = reports.build(tmp_path, 4)
    storage.write(f"{output}/report.json", b"{")
    assert tile(report_data.gather(output, 10, None))["note"] == "1 report.json"
    for content in (b"", b"3", b'{"inputs": 3, "edit": {}}', b'{"inputs": [{"psnr": 1e999}], "mode": [[]]}'):
        storage.write(str(tmp_path / "fused" / "fuse.json"), content)
        assert b"<html" in report.write(str(tmp_path / "fused"))


def test_a_pipe_in_place_of_a_picture_is_not_waited_for(tmp_path):
    storage.write(str(tmp_path / "fuse.json"), b"{}")
    os.mkfifo(tmp_path / "fused.png")
    os.mkfifo(tmp_path / "sweep.png")
    assert b"<html" in report.write(str(tmp_path))


def test_a_damaged_config_is_one_line(tmp_path, capsys):
    output = reports.build(tmp_path, 2)
    storage.write(f"{output}/_run/config.json", b"{")
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", output])
    assert stop.value.code == 2
    assert re.search(r"_run/config.json: no JSON", error_line(capsys.readouterr().err))
