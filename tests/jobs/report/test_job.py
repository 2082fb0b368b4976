"""The page's content: figures over all samples, pictures of some, and nothing that a stranger wrote as markup."""

import base64
import hashlib
import io
import json
import re
import threading
import urllib.error
import urllib.request

import fsspec
import inpaints
import numpy as np
import pytest
import reports
from PIL import Image
from reports import Scripts, data_of

from noiseweave.cluster import storage
from noiseweave.engine.pictures import images
from noiseweave.jobs import arguments, cli
from noiseweave.jobs.report import data as report_data
from noiseweave.jobs.report import job as report
from noiseweave.jobs.report import page as report_page
from noiseweave.jobs.report import pictures, samples


def pixels(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def gathered(folder, places=100, source=None, **options):
    return report_data.gather(reports.build(folder, **options), places, source)


# what is counted, and what is shown


def test_figures_are_of_all_kept_samples_and_pictures_of_some(tmp_path):
    made = gathered(tmp_path, places=16, count=140, rejected=7)
    gallery = made["gallery"]
    assert (gallery["total"], len(gallery["cards"]), gallery["absent"]) == (140, 16, 0)
    shown = [c["verdict"] for c in gallery["cards"]]
    assert shown.count("copy") == 2, "an eighth of the places is theirs"
    assert dict(next(c["rows"] for c in made["counts"] if c["title"] == "Verdict")) == {
        "kept": 133,
        "copy": 7,
    }
    assert next(c["rows"] for c in made["counts"] if c["title"] == "Class") == [
        ("0", 45),
        ("1", 44),
        ("2", 44),
    ]
    every = [(i % 100) / 100 for i in range(133)]
    bins = made["similarity"]["bins"]
    assert len(bins) <= 40
    for low, high, n in ((b["from"], b["to"], b["n"]) for b in bins):
        assert n == sum(low <= s < high for s in every)
    # each of 10 parents is one of 26 to 28 of the 133; the report knows of 2 images more
    uses = [(b["from"], b["n"]) for b in made["uses"]["bins"] if b["n"]]
    assert uses == [(0, 2), (26, 6), (27, 2), (28, 2)]


def test_the_same_samples_are_picked_in_any_order():
    found = [samples.Found(key=f"k{i}", picture=samples.Source(url="u")) for i in range(500)]
    picked = []
    for order in (found, found[::-1]):
        picker = samples.Picker(50)
        for one in order:
            picker.add(one)
        picked.append([one.key for one in picker.picked()])
    assert picked[0] == picked[1][::-1]
    places = [int(key[1:]) for key in picked[0]]
    assert places == sorted(places)
    assert all(2 <= sum(p // 100 == part for p in places) <= 20 for part in range(5))


def test_pairs_per_image_of_very_many_images_come_from_a_part_of_them(monkeypatch):
    monkeypatch.setattr(samples, "IMAGES", 500)
    uses = samples.Uses()
    for n in range(20_000):
        uses.add(f"image {n // 2 if n < 10_000 else n}")  # 5,000 in two pairs, 10,000 in one
    assert len(uses.counts) <= 500
    assert len(uses.counts) / uses.part == pytest.approx(15_000, rel=0.2)
    twice = sum(n == 2 for n in uses.counts.values())
    assert set(uses.counts.values()) == {1, 2}
    assert twice / len(uses.counts) == pytest.approx(1 / 3, abs=0.1)


def test_cards_hold_the_parents_and_each_picture_once(tmp_path):
    made = gathered(tmp_path, count=30, parents=4)
    gallery = made["gallery"]
    assert len(gallery["pictures"]) == 30 + 4
    assert gallery["roles"][gallery["main"]] == "fused"
    for i, card in enumerate(gallery["cards"]):
        first, fused, second = (pixels(gallery["pictures"][n]) for n in card["pictures"])
        assert card["lineage"]["pair_seed"] == 2**62 + i
        assert np.array_equal(first, reports.picture(i % 4))
        assert np.array_equal(fused, reports.picture(10_000 + i))
        assert np.array_equal(second, reports.picture((i + 1) % 4))


def test_an_input_that_moved(tmp_path):
    output = reports.build(tmp_path, count=6)
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    gone = report_data.gather(output, 10, None)["gallery"]
    assert gone["absent"] == 6
    assert all(c["pictures"][1] is not None and c["pictures"][::2] == [None, None] for c in gone["cards"])
    there = report_data.gather(output, 10, str(tmp_path / "elsewhere"))["gallery"]
    assert there["absent"] == 0


def test_large_pictures_are_small_and_square_parents_are_cut_as_the_model_cuts(tmp_path):
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 255
    url = storage.join(str(tmp_path), "wide.png")
    storage.write(url, images.encode(image))
    source = samples.Source(url=url)
    assert pixels(pictures.embedded([[source]], "augment")[source]).min() > 240
    as_is = pixels(pictures.embedded([[source]], "inpaint")[source])
    assert as_is.shape[:2] == (43, 128)


def test_time_of_stages_and_workers_and_of_markers_that_do_not_tell(tmp_path):
    output = reports.build(tmp_path, count=2)
    old = tmp_path / "out/_run/done/embed/000000.json"
    marker = {
        "id": "000000",
        "produced": 7,
        "seconds": 4.0,
        "quarantined": {},
        "extra": {},
        "tallies": {},
        "bad": [],
    }
    storage.write_json(str(old), marker)
    made = report_data.gather(output, 0, None)
    embed, generate = made["stages"]
    assert (embed["name"], embed["seconds"], embed["spent"]) == ("embed", 4.0, {})
    assert (generate["units"], generate["produced"], generate["wall"]) == (3, 30, 9)
    assert generate["spent"] == {"fetch": 3.0, "compute": 6.0, "commit": 1.5}
    assert [(w["worker"], w["units"], w["produced"], w["compute"]) for w in made["workers"]] == [
        ("blue/2", 1, 10, 2.0),
        ("red/1", 2, 20, 4.0),
    ]
    assert made["quarantine"]["reasons"] == [("no_picture", 3)]


def test_what_a_stranger_wrote_into_a_lineage_breaks_nothing(tmp_path):
    png = images.encode(reports.picture(1))
    odd = [
        {"similarity": "much", "mode": ["x"], "parents": "none", "check": 7, "soft_label": 3},
        {"similarity": True, "parents": [{"shard": 1}, 5, {"shard": "../../etc", "key": "passwd"}]},
        {"check": {"verdict": {"a": 1}}, "long": "x" * 100_000, **{f"n{i}": i for i in range(500)}},
    ]
    rows = [(f"odd{i}", {"png": png, "json": json.dumps(value).encode()}) for i, value in enumerate(odd)]
    rows += [
        ("broken", {"png": png, "json": b"{"}),
        ("nan", {"png": b"no picture", "json": b'{"ratio": NaN}'}),
    ]
    made = gathered(tmp_path, count=3, extra=rows)
    assert made["gallery"]["total"] == 8
    assert sum(b["n"] for b in made["similarity"]["bins"]) == 3
    assert len(report_page.html(made)) < 120_000


# inpaint and sample: other layouts


def test_original_hole_and_restored(damaged, tmp_path, capsys):
    assert inpaints.drawn(tmp_path / "out", *inpaints.folders_of(damaged), *inpaints.FAST, "--rows", "2") == 0
    assert f"page: {tmp_path}/out/report.html" in capsys.readouterr().out
    made = report_data.gather(str(tmp_path / "out"), 100, None)
    cards = {c["key"]: c for c in made["gallery"]["cards"]}
    assert set(cards) == {f"{k}{v}" for k in ("d0", "d1", "d2", "sub/d3", "sub/d4") for v in ("", "_2")}
    original, hole, restored = (pixels(made["gallery"]["pictures"][n]) for n in cards["sub/d3_2"]["pictures"])
    where = inpaints.block((16, 16), 6, 4, 6, 7)
    stored = np.asarray(Image.open(damaged / "imgs/sub/d3.png").convert("RGB"))
    assert np.array_equal(original, stored)
    assert (hole[where] == 255).all()
    assert np.array_equal(hole[~where], stored[~where])
    assert np.array_equal(
        restored, np.asarray(Image.open(tmp_path / "out/restored/sub/d3_2.png").convert("RGB"))
    )
    assert cards["sub/d3_2"]["lineage"]["seeds"] == [4]


def test_a_folder_of_drawn_pictures_on_a_remote_store():
    root = "memory://report-sample/out"
    storage.write_json(f"{root}/_run/config.json", {"job": "sample", "seed": 1})
    for i in range(4):
        storage.write(f"{root}/images/{i % 2:04d}/sample-{i:08d}.png", images.encode(reports.picture(i)))
    report.write(root, 3)
    made = data_of(storage.read(f"{root}/report.html").decode())
    fsspec.filesystem("memory").rm("/report-sample", recursive=True)
    assert not made["ended"]
    assert [c["classes"] for c in made["gallery"]["cards"]] in (
        list(x) for x in ([["0"], ["0"], ["1"]], [["0"], ["1"], ["1"]])
    )
    assert made["gallery"]["total"] == 4


# the page


HOSTILE = (
    "</script><script>alert(1)</script><!--<script>\u2028\u2029@data@\ud800'\"&<img src=x onerror=alert(1)>"
)


def test_hostile_text_stays_data(tmp_path):
    made = gathered(tmp_path, count=3)
    made["gallery"]["cards"][0]["key"] = made["name"] = HOSTILE.replace("\ud800", "")
    made["gallery"]["cards"][0]["caption"] = HOSTILE
    page = report_page.html(made).decode()
    seen, plain = Scripts(page), Scripts(report_page.html(gathered(tmp_path / "b", count=3)).decode())
    assert seen.tags == plain.tags
    data = json.loads(seen.inside[1])
    assert data["gallery"]["cards"][0]["caption"] == HOSTILE
    assert data["parameters"]["seed"] == str(2**62), "a script would round it"
    block = page.partition('id="data">')[2].partition("</script>")[0]
    assert block.isascii()
    assert not set("<>&") & set(block)


def test_the_policy_names_the_pages_own_style_and_script_alone(tmp_path):
    page = Scripts(report_page.html(gathered(tmp_path, count=1)).decode())
    style, _, script = page.inside
    digests = [base64.b64encode(hashlib.sha256(x.encode()).digest()).decode() for x in (style, script)]
    assert page.policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert not re.search(
        r"innerHTML|insertAdjacentHTML|document\.write|eval\(|https?://(?!www\.w3\.org/2000/svg)", script
    )


# the command


def test_serve_shows_the_page_and_nothing_else(tmp_path):
    server = report.server_of(b"<p>page</p>", "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    base = f"http://127.0.0.1:{server.server_address[1]}"

    def asked(path, **headers):
        try:
            with urllib.request.urlopen(
                urllib.request.Request(base + path, headers=headers), timeout=10
            ) as r:
                return r.status, r.read()
        except urllib.error.HTTPError as e:
            return e.code, b""

    try:
        assert asked("/") == asked("/report.html?x=1") == (200, b"<p>page</p>")
        for path in ("/report.json", "/../report.json", "/_run/config.json", "//etc/passwd"):
            assert asked(path)[0] == 404
        for name in ("evil.example:80", "localhost:evil", "localhost.evil.example", "127.0.0.1:80:evil", ""):
            assert asked("/", Host=name)[0] == 403
        assert asked("/", Host="localhost")[0] == 200
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_command(tmp_path, capsys):
    output = reports.build(tmp_path, count=4)
    assert cli.main(["report", output, "--pictures", "2"]) == 0
    assert capsys.readouterr().out == f"page: {output}/report.html\n"
    assert len(data_of((tmp_path / "out/report.html").read_text())["gallery"]["cards"]) == 2
    config = arguments.parse("report", ["--serve", output, "--port=0"])
    assert (config.folder, config.serve, config.port) == (output, True, 0)
    for words, error in (
        ([output, "b"], "folder: one is needed, 2 given"),
        ([str(tmp_path / "in")], "nothing of such a job lies there"),
        ([output, "--pictures", "-1"], "pictures=-1: 0 to 100000"),
    ):
        with pytest.raises(SystemExit) as stop:
            cli.main(["report", *words])
        assert stop.value.code == 2
        assert error in capsys.readouterr().err


def test_a_page_that_cannot_be_built_fails_no_job(tmp_path, capsys):
    report.finish_page(str(tmp_path))
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("report.html was not built (ValueError: folder ")
    assert error.count("\n") == 1
