"""The outputs below a folder: how far they are by their markers, what went wrong, and which report may be served."""

import json
import os

import pytest

from noiseweave.cluster import lock
from noiseweave.cluster.ledger import Ledger
from noiseweave.cluster.units import UnitReport
from noiseweave.engine.records import Quarantined
from noiseweave.jobs.studio import listing
from noiseweave.jobs.studio.listing import LOG, Listing, said


def run(root, name, job="augment", **config):
    path = root / name
    (path / "_run").mkdir(parents=True)
    (path / "_run/config.json").write_text(json.dumps({"job": job, **config}))
    return path


def mark(path, phase, unit, produced, quarantined=()):
    counts = dict.fromkeys(quarantined, 1)
    bad = [Quarantined(shard="s", key="k", reason=reason) for reason in quarantined]
    Ledger(output=str(path)).mark(phase, UnitReport(id=unit, produced=produced, quarantined=counts), bad)


def only(found):
    (output,) = found.all()
    return output


def test_how_far_a_run_is(tmp_path):
    path = run(tmp_path, "deep/er/a", **{"fusion.per_pair": 2})
    found = Listing(str(tmp_path))
    assert (only(found).name, only(found).state, only(found).pictures) == ("deep/er/a", "stopped", 0)
    mark(path, "embed", "000000", 90, ["not_an_image", "too_large"])
    (path / "_run/groups.json").write_text('{"groups": 3, "pairs": 20}')
    with lock.held(str(path)):
        assert only(found).state == "running"
        assert only(found).planned == 40
        mark(path, "generate", "000000", 16)
        mark(path, "generate", "000001", 15, ["not_finite"])
        output = only(found)
        assert (output.pictures, output.quarantined) == (31, 3)
        assert [(p.name, p.units, p.planned) for p in output.phases] == [
            ("embed", 1, None),
            ("generate", 2, 3),
        ]
    (path / "report.json").write_text('{"failed": {}, "quarantined": {"not_an_image": 2}}')
    assert (only(found).state, only(found).quarantined) == ("done", 2)
    (path / "report.json").write_text('{"failed": {"generate": {"000002": "odd <b>"}}}')
    assert (only(found).state, only(found).errors) == ("failed", ("generate 000002: odd <b>",))


def test_a_marker_is_read_once_and_a_run_begun_anew_counts_anew(tmp_path, monkeypatch):
    path, reads = run(tmp_path, "a"), []
    real = listing.objects
    monkeypatch.setattr(listing, "objects", lambda p, d: reads.append(p) or real(p, d))
    found = Listing(str(tmp_path))
    for i in range(5):
        mark(path, "sample", f"{i:06d}", 1)
        assert only(found).pictures == i + 1
    assert sum("/done/" in p for p in reads) == 5
    for i in range(5):
        os.remove(path / f"_run/done/sample/{i:06d}.json")
    mark(path, "sample", "000009", 7)
    assert only(found).pictures == 7


def test_what_anybody_may_have_written_is_no_fault(tmp_path):
    path = run(tmp_path, "a", job=["x"])
    (path / "_run/done/embed").mkdir(parents=True)
    (path / "_run/done/embed/0.json").write_text('{"produced": "many", "quarantined": [1]}')
    (path / "_run/groups.json").write_text('{"groups": -1, "pairs": "x"}')
    (path / "report.json").write_text("[")
    (path / lock.NAME).write_text("{")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / LOG).write_bytes(b"$ noiseweave augment\n\x1b[31mred\x1b[0m\n\xff\n")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/fuse.json").write_text("{}")
    found = {output.name: output for output in Listing(str(tmp_path)).all()}
    assert (found["a"].pictures, found["a"].planned, found["a"].job) == (0, None, "['x']")
    assert (found["b"].job, found["b"].last, found["b"].state) == ("augment", ("red", "\ufffd"), "stopped")
    assert (found["c"].job, found["c"].state, found["c"].pictures) == ("fuse", "done", 1)
    assert Listing(str(tmp_path / "nothing")).all() == []


def test_links_hidden_folders_and_the_inside_of_runs_are_not_looked_into(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    run(tmp_path, "outside")
    run(run(inside, "a"), "inner")
    run(inside, ".hidden/b")
    run(inside, "1/2/3/4")
    (inside / "link").symlink_to(tmp_path / "outside")
    assert set(Listing(str(inside)).names()) == {"a"}


def test_the_latest_are_shown_and_no_more_than_so_many(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "MOST", 3)
    for i in range(6):
        os.utime(run(tmp_path, str(i)) / "_run/config.json", (i, i))
    assert [output.name for output in Listing(str(tmp_path)).all()] == ["5", "4", "3"]


@pytest.mark.parametrize("name", ["..", "../secret", "a/../../secret", "/etc", "", ".", "a/", "b", "a\0"])
def test_no_report_but_that_of_a_known_output_is_served(tmp_path, name):
    root = tmp_path / "root"
    for path in (run(root, "a"), tmp_path / "secret", root, root / "b"):
        path.mkdir(exist_ok=True)
        (path / "report.html").write_text("x")
    found = Listing(str(root))
    assert found.page("a") == str(root / "a/report.html")
    assert found.page(name) is None


def test_a_report_that_is_a_link_is_not_served(tmp_path):
    (tmp_path / "secret").write_text("x")
    (run(tmp_path, "a") / "report.html").symlink_to(tmp_path / "secret")
    assert Listing(str(tmp_path)).page("a") is None


def test_the_last_lines_of_a_long_log(tmp_path):
    (tmp_path / LOG).write_text("$ noiseweave x\n" + "".join(f"line {i}\r" for i in range(10_000)))
    command, last = said(str(tmp_path / LOG))
    assert command == "noiseweave x"
    assert last == tuple(f"line {i}" for i in range(10_000 - listing.LINES, 10_000))
