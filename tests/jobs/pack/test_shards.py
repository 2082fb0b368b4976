"""Shards to shards: cut anew, resized, filtered; nothing else changes."""

import io
import json
import shutil

import numpy as np
import pytest
from packing import by_key, contents, fill, picture, quarantine, run
from PIL import Image

from noiseweave.cluster import shards, storage
from noiseweave.engine.pictures import images
from noiseweave.jobs import cli
from noiseweave.jobs.pack import config
from noiseweave.jobs.pack import job as pack


def sample(n: int, **more: bytes) -> tuple[str, dict[str, bytes]]:
    files = {
        "jpeg": picture(n, "JPEG"),
        "cls": f"{n % 3}\n".encode(),
        "txt": b"a picture",
        "json": b'{"a":  1}',
    }
    return f"d/s{n}", files | {name.replace("_", "."): data for name, data in more.items()}


def write(folder, *tars: list) -> str:
    for n, rows in enumerate(tars):
        storage.write(str(folder / f"{n:03d}.tar"), shards.pack(rows))
    return str(folder)


@pytest.fixture
def twelve(tmp_path) -> str:
    rows = [sample(n, mask_png=picture(n), seg_npy=b"\x00\x01" * n) for n in range(12)]
    storage.write_json(str(tmp_path / "in/classes.json"), ["x", "y", "z"])
    return write(tmp_path / "in/shards", rows[:5], rows[5:6], rows[6:])


def test_without_a_size_every_member_is_kept_bit_for_bit(twelve, tmp_path, capsys):
    before = by_key(tmp_path / "in/shards")
    assert len(before) == 12
    assert run(twelve, tmp_path / "out", shard_samples=7) == 0
    assert by_key(tmp_path / "out/shards") == before
    assert list(by_key(tmp_path / "out/shards")) == list(before)
    assert len(list((tmp_path / "out/shards").glob("*.tar"))) == 2
    assert "as 3 shards" in capsys.readouterr().out
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["classes"] == {"x": 4, "y": 4, "z": 4}
    assert run(tmp_path / "out/shards", tmp_path / "back", shard_samples=5) == 0  # and back again
    assert by_key(tmp_path / "back/shards") == before
    assert json.loads((tmp_path / "back/classes.json").read_text()) == ["x", "y", "z"]


@pytest.mark.parametrize(
    "pattern",
    ["{t}/in/shards", "{t}/in/shards/0*.tar", "{t}/in/shards/00{{0..2}}.tar", "file://{t}/in/shards"],
)
def test_patterns_and_urls_are_found_to_be_shards(pattern, twelve, tmp_path):
    assert run(pattern.format(t=tmp_path), tmp_path / "out") == 0
    assert len(by_key(tmp_path / "out/shards")) == 12
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["x", "y", "z"]


def test_labels_are_filtered_and_numbered_anew_on_request(twelve, tmp_path):
    before = by_key(tmp_path / "in/shards")
    assert run(twelve, tmp_path / "kept", keep_labels=(2, 0)) == 0
    kept = by_key(tmp_path / "kept/shards")
    assert kept == {k: s for k, s in before.items() if s["cls"] != b"1\n"}
    assert json.loads((tmp_path / "kept/classes.json").read_text()) == ["x", "y", "z"]
    assert json.loads((tmp_path / "kept/report.json").read_text())["left_out"] == 4
    assert run(twelve, tmp_path / "new", keep_labels=(2, 0), renumber=True) == 0
    new = by_key(tmp_path / "new/shards")
    assert {k: s["cls"] for k, s in new.items()} == {
        k: {b"2\n": b"0", b"0\n": b"1"}[s["cls"]] for k, s in kept.items()
    }
    assert json.loads((tmp_path / "new/classes.json").read_text()) == ["z", "x"]
    assert run(twelve, tmp_path / "none", labels="none") == 0
    assert all("cls" not in s for s in by_key(tmp_path / "none/shards").values())
    with pytest.raises(ValueError, match=r"keep_labels=\[5\]: the input's classes are 0 to 2"):
        run(twelve, tmp_path / "beyond", keep_labels=(5,))


def test_classes_are_kept_by_name_as_by_number(twelve, tmp_path):
    for name, keep in {"numbers": (2, 0), "names": ("z", "x"), "both": ("z", 0)}.items():
        assert run(twelve, tmp_path / name, keep_labels=keep, renumber=True) == 0
    kept = by_key(tmp_path / "numbers/shards")
    assert len(kept) == 8
    assert by_key(tmp_path / "names/shards") == by_key(tmp_path / "both/shards") == kept
    assert json.loads((tmp_path / "names/classes.json").read_text()) == ["z", "x"]
    assert json.loads((tmp_path / "names/report.json").read_text())["left_out"] == 4
    with pytest.raises(ValueError, match=r"keep_labels=\['z', 'w'\]: the input's classes are x, y, z"):
        run(twelve, tmp_path / "no", keep_labels=("z", "w"))
    with pytest.raises(ValueError, match="each once"):
        run(twelve, tmp_path / "no", keep_labels=("z", 2))


def test_names_of_classes_on_the_command_line(twelve, tmp_path):
    for n, words in enumerate(("z,x", '["z", "x"]', "[z,x]", "2,0", "2,x")):
        out = tmp_path / str(n)
        assert cli.main(["pack", "--input", str(twelve), "--keep_labels", words, "--output", str(out)]) == 0
        assert len(by_key(out / "shards")) == 8
    one = tmp_path / "one"
    assert cli.main(["pack", "--input", str(twelve), "--keep_labels", "y", "--output", str(one)]) == 0
    assert len(by_key(one / "shards")) == 4


def labelled(*rows) -> list:
    """Samples of (key, .cls, label in the .json), either of which may be None."""
    return [
        (
            key,
            {"png": picture(n)}
            | ({} if cls is None else {"cls": cls})
            | ({} if label is None else {"json": json.dumps({"label": label}).encode()}),
        )
        for n, (key, cls, label) in enumerate(rows)
    ]


def test_names_are_numbered_by_the_alphabet_whatever_shard_they_are_in(tmp_path):
    first = labelled(("a", b"dog", None), ("b", None, "cat"), ("c", b" ant\n", "dog"))
    second = labelled(("d", "Äpfel".encode(), None), ("e", b"cat", None), ("f", None, None))
    for n, order in enumerate(([first, second], [second, first])):
        assert run(write(tmp_path / f"in{n}", *order), tmp_path / f"out{n}") == 0
        found = by_key(tmp_path / f"out{n}/shards")
        assert {k: s.get("cls") for k, s in found.items()} == dict(
            zip("abcdef", [b"2", b"1", b"0", b"3", b"1", None], strict=True)
        )
        assert json.loads((tmp_path / f"out{n}/classes.json").read_text()) == ["ant", "cat", "dog", "Äpfel"]
        report = json.loads((tmp_path / f"out{n}/report.json").read_text())
        assert report["classes"] == {"ant": 1, "cat": 2, "dog": 1, "Äpfel": 1}
    assert json.loads(found["b"]["json"]) == {"label": "cat"}
    assert run(tmp_path / "in0", tmp_path / "kept", keep_labels=(2, 1), renumber=True) == 0
    kept = by_key(tmp_path / "kept/shards")
    assert {k: s["cls"] for k, s in kept.items()} == {"a": b"0", "b": b"1", "e": b"1"}


def test_whole_floats_are_numbers(tmp_path):
    rows = labelled(("a", b"2.0", None), ("b", None, 1.0), ("c", b"0\n", None), ("d", None, 3))
    assert run(write(tmp_path / "in", rows), tmp_path / "out") == 0
    found = by_key(tmp_path / "out/shards")
    assert [found[k].get("cls") for k in "abcd"] == [b"2", None, b"0\n", None]
    located, _ = shards.locate(str(tmp_path / "out/shards/shard-000000.tar"))
    assert [x.label for x in located] == [2, 1, 0, 3]
    assert json.loads((tmp_path / "out/classes.json").read_text()) == []


def test_in_a_mix_the_rarer_kind_is_named(tmp_path):
    names = labelled(("a", b"cat", None), ("b", b"3", None), ("c", b"dog", None), ("d", b"-1", None))
    assert run(write(tmp_path / "in", names), tmp_path / "out") == 0
    assert quarantine(tmp_path / "out") == {"b": "bad_label", "d": "bad_label"}
    numbers = labelled(("a", b"cat", None), ("b", b"3", None), ("c", b"2", None))
    assert run(write(tmp_path / "in2", numbers), tmp_path / "out2") == 0
    assert quarantine(tmp_path / "out2") == {"a": "bad_label"}
    assert "the labels here are numbers" in (tmp_path / "out2/quarantine.jsonl").read_text()


def test_names_are_looked_up_in_the_classes_that_come_along(tmp_path):
    storage.write_json(str(tmp_path / "in/classes.json"), ["zebra", "ant"])
    rows = labelled(("a", b"ant", None), ("b", b"0", None), ("c", b"cat", None))
    assert run(write(tmp_path / "in/shards", rows), tmp_path / "out") == 0
    assert {k: s["cls"] for k, s in by_key(tmp_path / "out/shards").items()} == {"a": b"1", "b": b"0"}
    assert quarantine(tmp_path / "out") == {"c": "bad_label"}


def test_labels_none_never_looks_at_labels(tmp_path):
    rows = labelled(("a", b"-1", None), ("b", b"cat", None), ("c", b"\xff", None), ("d", b"x" * 500, None))
    assert run(write(tmp_path / "in", rows), tmp_path / "out", labels="none") == 0
    assert {k: [*s] for k, s in by_key(tmp_path / "out/shards").items()} == {k: ["png"] for k in "abcd"}
    assert quarantine(tmp_path / "out") == {}


def test_captions_become_utf_8_and_others_are_named(tmp_path):
    texts = {
        "a": "Straße".encode("utf-16"),
        "b": b"\xef\xbb\xbfx",
        "c": "Straße".encode("latin-1"),
        "d": b"y \n",
    }
    rows = [(key, {"png": picture(), "txt": text}) for key, text in texts.items()]
    assert run(write(tmp_path / "in", rows), tmp_path / "out") == 0
    found = by_key(tmp_path / "out/shards")
    assert {k: s["txt"] for k, s in found.items()} == {"a": "Straße".encode(), "b": b"x", "d": b"y \n"}
    assert quarantine(tmp_path / "out") == {"c": "bad_txt"}


def test_size_fits_the_picture_and_cuts_its_mask_alike(tmp_path):
    numbers_HW = np.zeros((20, 40), np.uint8)
    numbers_HW[:, 20:] = 7
    noise_HWC = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
    mask = Image.fromarray(numbers_HW, "P")
    mask.putpalette([n for n in range(256) for _ in "rgb"])
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    rows = [("a", {"webp": images.encode(noise_HWC, "webp"), "seg.png": buffer.getvalue(), "npy": b"\x01"})]
    assert run(write(tmp_path / "in", rows), tmp_path / "out", size=8) == 0
    files = by_key(tmp_path / "out/shards")["a"]
    assert set(files) == {"png", "seg.png", "npy"}
    assert files["npy"] == b"\x01"
    assert np.array_equal(images.decode(files["png"]), images.fit(noise_HWC, 8))
    seg = Image.open(io.BytesIO(files["seg.png"]))
    assert (seg.mode, seg.size) == ("P", (8, 8))
    assert np.array_equal(np.asarray(seg), np.where(np.arange(8) < 4, 0, 7)[None].repeat(8, 0))


def test_keys_that_meet_are_made_distinct(tmp_path):
    first, second = [sample(n) for n in (0, 1)], [("d/s0--2", {"png": picture(5)}), sample(0)]
    assert run(write(tmp_path / "in", first, second, [sample(0), sample(2)]), tmp_path / "out") == 0
    found = by_key(tmp_path / "out/shards")
    assert list(found) == ["d/s0", "d/s1", "d/s0--2", "d/s0--3", "d/s0--4", "d/s2"]
    assert found["d/s0"] == found["d/s0--3"] == found["d/s0--4"]
    for seed in range(20):  # wherever the first goes, the others go too
        run(tmp_path / "in", tmp_path / "split", validation=0.5, seed=seed, overwrite=True)
        held = set(by_key(tmp_path / "split/validation")) & {"d/s0", "d/s0--2", "d/s0--3", "d/s0--4"}
        assert len(held) in (0, 4)


def test_broken_samples_are_named_with_their_shard(tmp_path):
    rows = [
        sample(0),
        ("cut", {"png": picture(1, size=(200, 200))[:300]}),
        ("none", {"cls": b"1"}),
        ("label", {"png": picture(1), "cls": b"x"}),
        ("json", {"png": picture(1), "json": b"{"}),
    ]
    folder = write(tmp_path / "in", rows, [sample(1), sample(2)])
    whole = (tmp_path / "in/001.tar").read_bytes()
    (tmp_path / "in/001.tar").write_bytes(whole[: whole.index(b"d/s2.cls") + 300])
    assert run(folder, tmp_path / "out") == 0
    assert list(by_key(tmp_path / "out/shards")) == ["d/s0", "d/s1"]
    assert quarantine(tmp_path / "out") == {
        "cut": "truncated_image",
        "none": "no_picture",
        "label": "bad_label",
        "json": "bad_json",
        "d/s2": "truncated_tar",
    }
    lines = [json.loads(s) for s in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert {e["shard"].rpartition("/")[2] for e in lines if e["source"] == "cut"} == {"000.tar"}


def test_two_plain_pictures_cannot_both_be_resized(tmp_path):
    folder = write(tmp_path / "in", [("a", {"jpg": picture(1, "JPEG"), "png": picture(2)}), sample(0)])
    assert run(folder, tmp_path / "out", size=8) == 0
    assert quarantine(tmp_path / "out") == {"a": "two_pictures"}
    assert run(folder, tmp_path / "whole") == 0
    assert set(by_key(tmp_path / "whole/shards")["a"]) == {"jpg", "png"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("named", ["{t}/shards", "{t}/link/shards/*.tar", "file://{t}/shards"])
def test_the_shards_that_are_read_are_never_written_over(named, overwrite, twelve, tmp_path):
    run(twelve, tmp_path)
    before = contents(tmp_path / "shards")
    (tmp_path / "link").symlink_to(".")
    with pytest.raises(ValueError, match="the input's shards lie in it"):
        run(named.format(t=tmp_path), tmp_path, shard_samples=2, overwrite=overwrite)
    assert contents(tmp_path / "shards") == before


def test_different_class_lists_are_refused(twelve, tmp_path):
    shutil.copytree(tmp_path / "in", tmp_path / "more")
    storage.write_json(str(tmp_path / "more/classes.json"), ["z", "y", "x"])
    with pytest.raises(ValueError, match="number their classes in different ways"):
        run(str(tmp_path / "{in,more}/shards/000.tar"), tmp_path / "out")


@pytest.mark.parametrize("content", [b"{", b"\xff", b'["a", 3]', b"[" * 5000])
def test_a_damaged_class_list_is_named(content, twelve, tmp_path):
    (tmp_path / "in/classes.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"classes\.json"):
        run(tmp_path / "in/shards", tmp_path / "out")


def test_what_an_input_is_taken_for(twelve, tmp_path, capsys):
    shutil.copy(tmp_path / "in/shards/000.tar", tmp_path / "one.tar")
    fill(tmp_path / "mixed", {"a.png": picture()})
    shutil.copy(tmp_path / "one.tar", tmp_path / "mixed")
    assert run(tmp_path / "one.tar", tmp_path / "a") == 0
    with pytest.raises(ValueError, match=r"1 \.tar beside 1 pictures; choose with"):
        run(tmp_path / "mixed", tmp_path / "b")
    assert run(tmp_path / "mixed", tmp_path / "b", format="shards") == 0
    assert by_key(tmp_path / "a/shards") == by_key(tmp_path / "b/shards")
    assert run(tmp_path / "mixed", tmp_path / "c", format="folder") == 0
    assert list(by_key(tmp_path / "c/shards")) == ["a"]
    assert "as a folder of pictures" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["pack", "--input", str(tmp_path / "none*.tar"), "--output", str(tmp_path / "d")])
    assert "no .tar shards there" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"split='train': not for shards"):
        run(twelve, tmp_path / "d", split="train")


def test_shards_of_an_object_store(tmp_path):
    rows = [sample(n, note_txt=b"") for n in range(4)]
    storage.write("memory://resharding/in/000.tar", shards.pack(rows))
    storage.write_json("memory://resharding/classes.json", ["x", "y", "z"])
    for pattern in ("memory://resharding/in", "memory://resharding/in/*.tar"):
        assert run(pattern, tmp_path / "out", overwrite=True) == 0
        assert by_key(tmp_path / "out/shards") == dict(rows)
        assert json.loads((tmp_path / "out/classes.json").read_text()) == ["x", "y", "z"]
    storage.write("memory://resharding/shards/000.tar", shards.pack(rows))
    with pytest.raises(ValueError, match="the input's shards lie in it"):
        pack.run(config.Config(input="memory://resharding/shards", output="memory://resharding"))
    storage.remove("memory://resharding")


def test_a_mask_that_does_not_fit_its_picture_is_refused_before_it_is_cut(tmp_path):
    hole = np.full((9, 12), 255, np.uint8)
    hole[:, 4:8] = 0
    square = np.full((12, 12), 255, np.uint8)
    square[:, 4:8] = 0
    cases = {
        "fits": ("mask.png", hole),
        "square": ("mask.png", square),
        "map": ("seg.png", square),
        "dim": ("mask.png", hole // 255 * 100),
    }
    rows = [
        (k, {"png": picture(n), m: images.encode(x[..., None])})
        for n, (k, (m, x)) in enumerate(cases.items())
    ]
    assert run(write(tmp_path / "in", rows), tmp_path / "out", size=6) == 0
    assert list(by_key(tmp_path / "out/shards")) == ["fits"]
    lines = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    assert [(x["source"], x["reason"]) for x in lines] == [(k, "bad_mask") for k in ("square", "map", "dim")]
