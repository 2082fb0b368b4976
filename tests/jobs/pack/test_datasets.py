"""Image folders, read as Hugging Face datasets reads them, without a hub."""

import io
import json
import socket
import sys

import pytest
from packing import by_key, fill, packed, picture, quarantine, run
from PIL import Image

from noiseweave.jobs import cli

datasets = pytest.importorskip("datasets")


@pytest.fixture
def captioned(tmp_path):
    rows = [
        {"file_name": f"{n}.png", "text": f"picture {n}", "label": n % 3, "tags": [7, n]} for n in (2, 0, 1)
    ]
    table = "".join(json.dumps(row) + "\n" for row in rows)
    files = {f"train/{n}.png": picture(n) for n in range(4)} | {"train/metadata.jsonl": table.encode()}
    return fill(tmp_path / "captioned", files)


def test_metadata_give_captions_labels_and_the_rest(captioned, tmp_path, capsys):
    samples, bad, report = packed(captioned, tmp_path / "out")
    assert "as a Hugging Face image folder, split train" in capsys.readouterr().out
    assert list(samples) == ["train/2.png", "train/0.png", "train/1.png"]  # 3.png is in no row
    assert (bad, report["classes"]) == ({"train/3.png": "no_row"}, {"0": 1, "1": 1, "2": 1})
    sample = samples["train/2.png"]
    assert (sample["__key__"], sample["txt"], sample["cls"]) == ("train-2", b"picture 2", b"2")
    assert json.loads(sample["json"]) == {"tags": [7, 2], "source": "train/2.png"}
    theirs = datasets.load_dataset("imagefolder", data_dir=str(captioned), streaming=True)["train"]
    for row, ours in zip(theirs, samples.values(), strict=True):
        assert (row["text"].encode(), str(row["label"]).encode()) == (ours["txt"], ours["cls"])


def test_class_folders_of_one_split(tmp_path):
    files = {f"{s}/{c}/{n}.png": picture(n) for s in ("train", "test") for c in "ba" for n in range(2)}
    root = fill(tmp_path / "in", files)
    samples, _, report = packed(root, tmp_path / "out", format="imagefolder")
    assert set(samples) == {f"train/{c}/{n}.png" for c in "ab" for n in range(2)}
    assert report["classes"] == {"a": 2, "b": 2}
    assert all(s["cls"] == (b"0" if "/a/" in name else b"1") for name, s in samples.items())
    assert all(s["png"] == files[name] for name, s in samples.items())
    samples, _, report = packed(
        root, tmp_path / "test", format="imagefolder", split="test", keep_labels=(1,), renumber=True
    )
    assert set(samples) == {"test/b/0.png", "test/b/1.png"}
    assert (report["classes"], report["left_out"]) == ({"b": 2}, 2)
    with pytest.raises(ValueError, match=r"split='dev': the image folder has train, test"):
        run(root, tmp_path / "dev", format="imagefolder", split="dev")


def test_csv_with_names_as_labels_and_a_second_picture(tmp_path):
    table = (
        b"file_name,mask_file_name,label,caption\n0.png,0.png,rose,a\n1.png,1.png,daisy,\n0.png,0.png,,b\n"
    )
    root = fill(tmp_path / "in", {"0.png": picture(0), "1.png": picture(1), "metadata.csv": table})
    assert run(root, tmp_path / "out") == 0
    found = by_key(tmp_path / "out/shards")
    assert json.loads((tmp_path / "out/classes.json").read_text()) == ["daisy", "rose"]
    assert {k: (s.get("cls"), s.get("txt")) for k, s in found.items()} == {
        "0": (b"1", b"a"),
        "1": (b"0", None),
        "0--2": (None, b"b"),
    }
    assert json.loads((tmp_path / "out/report.json").read_text())["ignored"] == {"picture column mask": 1}


def test_broken_pictures_do_not_end_the_stream(captioned, tmp_path):
    (captioned / "train/0.png").write_bytes(picture(0, size=(200, 200))[:300])
    (captioned / "train/1.png").unlink()
    (captioned / "train/1.png").symlink_to(tmp_path / "secret.png")
    fill(tmp_path, {"secret.png": picture(9)})
    assert run(captioned, tmp_path / "out") == 0
    assert list(by_key(tmp_path / "out/shards")) == ["train-2"]
    assert quarantine(tmp_path / "out") == {
        "train/0.png": "truncated_image",
        "train/1.png": "outside_link",
        "train/3.png": "no_row",
    }
    (captioned / "train/0.png").unlink()
    run(captioned, tmp_path / "out")
    assert quarantine(tmp_path / "out")["train/0.png"] == "unreadable"


def test_bad_labels_are_quarantined(tmp_path):
    table = b"file_name,label\n0.png,-1\n1.png,1\n"
    root = fill(tmp_path / "in", {"0.png": picture(0), "1.png": picture(1), "metadata.csv": table})
    assert packed(root, tmp_path / "out")[1] == {"0.png": "bad_label"}


def test_files_without_a_row_are_named_and_counted(tmp_path):
    rows = {"train": "0.png,m/0.png,2.0\n1.png,m/1.png,\n", "test": "0.png,m/0.png,1.0\n"}
    files = {
        f"{split}/metadata.csv": f"file_name,mask_file_name,label\n{r}".encode() for split, r in rows.items()
    }
    files |= {f"{split}/{n}.png": picture(n) for split in rows for n in range(3)}
    files |= {f"{split}/m/{n}.png": picture(n) for split in rows for n in range(2)}
    files |= {"train/2.txt": b"x", "train/notes.md": b"x", "extra.gif": picture(1, "GIF")}
    samples, bad, report = packed(fill(tmp_path / "in", files), tmp_path / "out")
    assert {k: s.get("cls") for k, s in samples.items()} == {"train/0.png": b"2", "train/1.png": None}
    lost = ["extra.gif", "test/1.png", "test/2.png", "test/m/1.png", "train/2.png"]
    assert bad == dict.fromkeys(lost, "no_row")
    assert report["quarantined"] == {"no_row": 5}
    assert report["ignored"] == {"picture column mask": 1, ".md": 1, ".txt beside a picture": 1}


def test_text_that_is_numbers_is_no_name(tmp_path):
    table = b'{"file_name": "0.png", "label": "10"}\n{"file_name": "1.png", "label": "9"}\n'
    root = fill(tmp_path / "in", {"0.png": picture(0), "1.png": picture(1), "metadata.jsonl": table})
    samples, _, report = packed(root, tmp_path / "out")
    assert [s["cls"] for s in samples.values()] == [b"10", b"9"]
    assert report["classes"] == {"9": 1, "10": 1}


def test_labels_none_does_not_look_at_the_column(tmp_path):
    table = b"file_name,label\n0.png,-1\n1.png,2.5\n"
    root = fill(tmp_path / "in", {"0.png": picture(0), "1.png": picture(1), "metadata.csv": table})
    samples, bad, _ = packed(root, tmp_path / "out", labels="none")
    assert (len(samples), bad) == (2, {})


def test_no_hub_is_asked(captioned, tmp_path, monkeypatch):
    asked = []

    def refused(*where, **_):
        asked.append(where)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    assert run(captioned, tmp_path / "out") == 0
    assert asked == []
    assert datasets.config.HF_HUB_OFFLINE is False


def test_refusals(captioned, tmp_path, capsys, monkeypatch):
    outside = b'{"file_name": "../../secret.png"}\n'
    changing = b'{"file_name": "0.png"}\n{"file_name": 3}\n'
    broken = [(data, "metadata cannot be read") for data in (b"{", changing)]
    for data, words in ((outside, "file_name"), (b'{"name": "0.png"}\n', "file_name"), *broken):
        (captioned / "train/metadata.jsonl").write_bytes(data)
        with pytest.raises(SystemExit) as stop:
            cli.main(["pack", "--input", str(captioned), "--output", str(tmp_path / "out")])
        error = capsys.readouterr().err
        assert (stop.value.code, error.count("\n")) == (2, 1)
        assert words in error
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"datasets package is missing; pip install 'noiseweave\[sources\]'"):
        run(captioned, tmp_path / "out")


def test_a_mask_beside_its_picture_is_no_picture_here_either(tmp_path):
    files = {f"{c}/{n}.png": picture(n) for c in "ab" for n in range(2)}
    hole = Image.new("L", (12, 9), 255)
    hole.paste(0, (0, 0, 4, 4))
    buffer = io.BytesIO()
    hole.save(buffer, "PNG")
    root = fill(tmp_path / "in", files | {"a/1.mask.png": buffer.getvalue()})
    samples, bad, report = packed(root, tmp_path / "out", format="imagefolder")
    assert (bad, report["classes"]) == ({}, {"a": 2, "b": 2})
    assert samples["a/1.png"]["mask.png"] == buffer.getvalue()
    assert "mask.png" not in samples["a/0.png"]
