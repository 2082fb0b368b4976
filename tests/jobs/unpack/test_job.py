"""unpack: what two libraries read of it, hostile names, kills, and whose the folder is."""

import io
import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from flows import error_line, inline
from packing import picture

from noiseweave.cluster import shards, storage
from noiseweave.engine.pictures import images
from noiseweave.jobs import class_folders, cli
from noiseweave.jobs.unpack import copying
from noiseweave.jobs.unpack import output as unpack_output

MASK = images.encode(np.eye(9, 12, dtype=np.uint8)[..., None] * 255)
LINEAGE = {"parents": [{"shard": "a.tar", "key": "x"}], "ratio": 1}


def sample(n, label=None, kind="png", **more):
    files = {kind: picture(n, "JPEG" if kind == "jpg" else "PNG")}
    return files | ({} if label is None else {"cls": b"%d" % label}) | more


def shard(path, samples):
    storage.write(str(path), shards.pack(list(samples.items())))


def tar(path, members):
    """A tar as a stranger writes it: any names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as out:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


@pytest.fixture
def source(tmp_path):
    """Two shards of three classes, one sample without a label, one with another .json than the rest, one mask."""
    root = tmp_path / "in"
    one = {
        "a": sample(0, 2, json=json.dumps(LINEAGE).encode(), txt=b"a cat"),
        "b": sample(1, 0, kind="jpg", **{"mask.png": MASK}),
    }
    shard(root / "shards/s-0.tar", one)
    shard(root / "shards/s-1.tar", {"c": sample(2, 2), "d": sample(3, json=b'{"ratio": "half"}')})
    storage.write_json(str(root / "classes.json"), ["dog", "eel", "cat"])
    return root


def unpack(source, output, *more, code=0):
    assert inline("unpack", source, "--output", output, *more) == code
    return rows_of(output), json.loads((Path(output) / "report.json").read_text())


def rows_of(output):
    return {
        r["file_name"]: r for r in map(json.loads, (Path(output) / "metadata.jsonl").read_text().splitlines())
    }


def files(output):
    return {str(p.relative_to(output)): p.read_bytes() for p in sorted(output.rglob("*")) if p.is_file()}


def refused(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        inline("unpack", *arguments)
    assert stop.value.code == 2
    return error_line(capsys.readouterr().err)


def test_bytes_labels_names_and_lineage_come_through(source, tmp_path):
    output = tmp_path / "o"
    rows, report = unpack(source, output)
    assert (output / "cat/a.png").read_bytes() == picture(0)
    assert (output / "dog/b.jpg").read_bytes() == picture(1, "JPEG")
    assert (output / "unlabelled/d.png").read_bytes() == picture(3)
    assert not list(output.rglob("*mask*"))
    assert rows["cat/a.png"] == {
        "file_name": "cat/a.png",
        "label": 2,
        "class_name": "cat",
        "key": "a",
        "shard": "s-0.tar",
        "text": "a cat",
        "json": json.dumps(LINEAGE),
    }
    assert rows["unlabelled/d.png"]["label"] is None
    assert {frozenset(row) for row in rows.values()} == {frozenset(rows["cat/a.png"])}
    assert json.loads((output / "classes.json").read_text()) == ["dog", "eel", "cat"]
    assert report["classes"] == {"dog": 1, "cat": 2, "unlabelled": 1}
    assert report["left_out"] == {"mask.png": 1}
    assert sorted(p.name for p in output.iterdir() if p.is_dir()) == ["cat", "dog", "unlabelled"]


def test_torchvision_reads_it(source, tmp_path):
    from torchvision.datasets import ImageFolder

    unpack(source, tmp_path / "o")
    read = ImageFolder(str(tmp_path / "o"))
    assert read.classes == ["cat", "dog", "unlabelled"]
    assert Counter(read.classes[label] for _, label in read) == {"cat": 2, "dog": 1, "unlabelled": 1}


def test_hugging_face_datasets_reads_it(source, tmp_path):
    """Rows of several jobs' fields, more than one block of its reader, and labels that only come later."""
    datasets = pytest.importorskip("datasets")
    many = {
        f"m{i:04d}": sample(4, json=json.dumps({"long": "x" * 2000, "n": i}).encode()) for i in range(1200)
    }
    shard(source / "shards/r.tar", many)  # sorts before the others
    shard(
        source / "shards/t.tar", {"test_1": sample(5, 0), "val": sample(6, 1)}
    )  # words that it knows as splits
    unpack(source, tmp_path / "o")
    rows = datasets.load_dataset(
        "imagefolder",
        data_dir=str(tmp_path / "o"),
        data_files="**",
        split="train",
        cache_dir=str(tmp_path / "c"),
    )
    found = {row["key"]: row for row in rows}
    assert len(found) == 1206
    assert (found["a"]["label"], found["a"]["class_name"], found["a"]["text"]) == (2, "cat", "a cat")
    assert found["a"]["image"].size == (12, 9)
    assert json.loads(found["a"]["json"]) == LINEAGE


def test_all_members_are_written_beside_and_pack_reads_them_again(source, tmp_path):
    output = tmp_path / "o"
    _, report = unpack(source, output, "--members", "all")
    assert (output / "dog/b.mask.png").read_bytes() == MASK
    assert (output / "cat/a.txt").read_bytes() == b"a cat"
    assert report["left_out"] == {}
    words = ["pack", "--format", "folder", "--input", str(output), "--output", str(tmp_path / "p")]
    assert cli.main(words) == 0
    (packed,) = (shards.index(str(p))[0] for p in (tmp_path / "p/shards").iterdir())
    assert {"mask.png", "jpg"} <= next(set(e.members) for e in packed if e.key.startswith("dog"))


HOSTILE = {
    "../../evil": None,
    "/abs": None,
    "a/b": "a-b",
    "Straße": "Straße",
    "q?*:<x>|y": "q____x__y",
    ".hidden/x": "hidden-x",
    "CON": "--",
    "n" * 200: "n" * 150 + "--",
    "ends-ok--0123456789abcdef": "ends-ok--0123456789abcdef--",
}
"""A key -> its file's stem, or how that begins where a hash follows; None where the tar's reader quarantines it."""


def test_no_name_becomes_a_path_unchecked(tmp_path):
    tar(
        tmp_path / "in/a.tar",
        {f"{key}.png": picture(n) for n, key in enumerate(HOSTILE)} | {"nul\0x.png": b""},
    )
    output = tmp_path / "deep/er/o"
    rows, report = unpack(tmp_path / "in", output)
    stems = {row["key"]: Path(name).stem for name, row in rows.items()}
    for key, wanted in HOSTILE.items():
        if wanted is None:
            assert key not in stems
        elif wanted.endswith("--"):
            assert stems[key].startswith(wanted.removesuffix("--"))
            assert class_folders.MARKED.search(stems[key])
        else:
            assert stems[key] == wanted
    assert report["quarantined"]["unsafe_key"] == 2
    assert report["renamed"] == {"long": 1, "plain": 5}
    outside = [p for p in tmp_path.rglob("*.png") if output not in p.parents]
    assert outside == []
    assert all((output / name).is_file() for name in rows)


def test_keys_that_a_disk_may_take_for_one_all_keep_their_pictures(tmp_path):
    """Over shards, in other cases, and whatever order the shards come in; in another class they are no clash."""
    first = {"x": sample(0, 0), "y": sample(1, 0), "z": sample(2, 1)}
    second = {"X": sample(3, 0), "y": sample(4, 0), "w/1": sample(5, 0), "w-1": sample(6, 0)}
    shard(tmp_path / "in/a.tar", first)
    shard(tmp_path / "in/b.tar", second | {"v": sample(7, 1), "x": sample(8, 1)})
    rows, report = unpack(tmp_path / "in", tmp_path / "o")
    assert len(rows) == 9
    assert len({name.casefold() for name in rows}) == 9
    for name, row in rows.items():
        own = (first if row["shard"] == "a.tar" else second | {"v": sample(7, 1), "x": sample(8, 1)})[
            row["key"]
        ]
        assert (tmp_path / "o" / name).read_bytes() == own["png"]
    assert {"1/x.png", "1/v.png", "1/z.png"} <= set(rows)
    assert report["renamed"] == {"twice": 6}
    (tmp_path / "in/a.tar").rename(tmp_path / "in/c.tar")
    again, _ = unpack(tmp_path / "in", tmp_path / "again")
    assert len(again) == 9


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["../up", "a/b"], ["up", "a-b"]),
        (["Cat", "cat"], ["Cat--", "cat--"]),
        (["unlabelled", "ok"], ["unlabelled--", "ok"]),
        (["aux", "x" * 300], ["--", "x" * 150 + "--"]),
        (["_run", "1"], ["run", "1"]),
    ],
)
def test_class_names_become_safe_folders(tmp_path, names, folders, capsys):
    shard(tmp_path / "in/a.tar", {"a": sample(0, 0), "b": sample(1, 1), "c": sample(2)})
    storage.write_json(str(tmp_path / "in/classes.json"), names)
    rows, report = unpack(tmp_path / "in", tmp_path / "o")
    by_key = {row["key"]: row for row in rows.values()}
    for key, name, wanted in zip("ab", names, folders, strict=True):
        folder = by_key[key]["file_name"].rpartition("/")[0]
        assert by_key[key]["class_name"] == name
        assert folder == wanted or (wanted.endswith("--") and folder.startswith(wanted.removesuffix("--")))
        assert report["renamed_classes"].get(folder, folder) == name
    assert by_key["c"]["file_name"] == "unlabelled/c.png"
    assert len({name.partition("/")[0].casefold() for name in rows}) == 3


def test_a_number_without_a_name_keeps_off_a_class_of_that_name(tmp_path):
    shard(tmp_path / "in/a.tar", {"a": sample(0, 0), "b": sample(1, 7)})
    storage.write_json(str(tmp_path / "in/classes.json"), ["7"])
    rows, _ = unpack(tmp_path / "in", tmp_path / "o")
    assert len({name.partition("/")[0] for name in rows}) == 2


def test_bad_input_is_named_and_the_rest_goes_on(tmp_path):
    good = {"a": sample(0, 0), "b": sample(1, 0, kind="jpg"), "e": {"cls": b"0", "png": b"text"}}
    shard(tmp_path / "in/a.tar", good | {"f": {"npy": b"1"}, "g": sample(2, json=b"{")})
    (tmp_path / "in/b.tar").write_bytes(b"no tar")
    rows, report = unpack(tmp_path / "in", tmp_path / "o")
    assert set(rows) == {"0/a.png", "0/b.jpg"}
    assert report["quarantined"] == {"bad_json": 1, "no_picture": 1, "not_an_image": 1, "unreadable_tar": 1}
    lines = [json.loads(x) for x in (tmp_path / "o/quarantine.jsonl").read_text().splitlines()]
    assert {(x["shard"], x["key"]) for x in lines} == {("a.tar", k) for k in "efg"} | {("b.tar", "")}


def test_no_picture_at_all_is_exit_code_1(tmp_path):
    shard(tmp_path / "in/a.tar", {"f": {"npy": b"1"}})
    unpack(tmp_path / "in", tmp_path / "o", code=1)


def test_a_killed_run_ends_as_an_undisturbed_one(source, tmp_path, monkeypatch, capsys):
    unpack(source, tmp_path / "whole")
    wanted = files(tmp_path / "whole")
    rows = copying.class_folders.write_rows

    def stop_at_the_second(path, lines):
        if path.endswith("000001.jsonl"):
            raise KeyboardInterrupt
        rows(path, lines)

    monkeypatch.setattr(copying.class_folders, "write_rows", stop_at_the_second)
    output = tmp_path / "o"
    assert inline("unpack", source, "--output", output) == 130
    assert (output / "cat/a.png").exists()
    monkeypatch.undo()
    shard(source / "shards/s-1.tar", {"c": sample(7, 2)})
    assert "input.content" in refused(capsys, source, "--output", output)
    shutil.copytree(source, tmp_path / "back")
    shard(source / "shards/s-1.tar", {"c": sample(2, 2), "d": sample(3, json=b'{"ratio": "half"}')})
    done = output / "_run/done/copy/000000.json"
    before = done.stat().st_mtime_ns
    monkeypatch.setattr(unpack_output, "close", lambda *_: None)
    assert inline("unpack", source, "--output", output) == 0
    assert done.stat().st_mtime_ns == before
    monkeypatch.undo()
    unpack(source, output)
    assert files(output) == wanted


def test_a_finished_folder_is_left_alone_refused_or_begun_anew(source, tmp_path, capsys):
    output = tmp_path / "o"
    unpack(source, output)
    before = {p: p.stat().st_mtime_ns for p in output.rglob("*.*") if p.is_file()}
    unpack(source, output)
    assert before == {p: p.stat().st_mtime_ns for p in output.rglob("*.*") if p.is_file()}
    assert "members picture -> all" in refused(capsys, source, "--output", output, "--members", "all")
    (output / "mine.txt").write_text("a person's")
    storage.write_json(str(source / "classes.json"), ["dog", "eel", "lion"])
    assert "class_names" in refused(capsys, source, "--output", output)
    rows, _ = unpack(source, output, "--overwrite")
    assert "lion/a.png" in rows
    assert not (output / "cat").exists()
    assert (output / "mine.txt").exists()


def test_an_overwriting_that_is_killed_goes_on_with_the_same_command(source, tmp_path, monkeypatch, capsys):
    output = tmp_path / "o"
    unpack(source, output)
    remove = storage.remove

    def stop(path):
        if path.endswith("/cat"):
            raise KeyboardInterrupt
        remove(path)

    monkeypatch.setattr(storage, "remove", stop)
    assert inline("unpack", source, "--output", output, "--overwrite", "--members", "all") == 130
    monkeypatch.undo()
    assert "thrown_away" in refused(capsys, source, "--output", output, "--members", "all")
    unpack(source, output, "--overwrite", "--members", "all")
    unpack(source, tmp_path / "whole", "--members", "all")
    assert files(output) == files(tmp_path / "whole")


def test_what_is_no_output_of_unpack_is_not_written_into(source, tmp_path, capsys):
    (tmp_path / "o/photos").mkdir(parents=True)
    assert "holds photos, which no unpack run wrote" in refused(capsys, source, "--output", tmp_path / "o")
    assert "holds" in refused(capsys, source, "--output", source, "--overwrite")
    storage.write_json(str(tmp_path / "t/_run/config.json"), {"job": "train"})
    for more in ((), ("--overwrite",)):
        assert "which no unpack run wrote" in refused(capsys, source, "--output", tmp_path / "t", *more)


def test_input_that_changes_during_the_run_fails_its_unit(source, tmp_path, monkeypatch, capsys):
    run = copying.run

    def late(*arguments):
        shard(source / "shards/s-1.tar", {"c": sample(8, 2)})
        return run(*arguments)

    monkeypatch.setattr(copying, "run", late)
    assert inline("unpack", source, "--output", tmp_path / "o") == 1
    assert "input changed during the run" in capsys.readouterr().out
    assert not (tmp_path / "o/metadata.jsonl").exists()


def test_the_output_may_be_on_an_object_store(source, tmp_path):
    url = "memory://unpacked/here"
    assert inline("unpack", source, "--output", url) == 0
    assert storage.folders_in(url) == ["cat", "dog", "unlabelled"]
    assert storage.read(f"{url}/cat/a.png") == picture(0)
    unpack(source, tmp_path / "o")
    assert storage.read(f"{url}/metadata.jsonl") == (tmp_path / "o/metadata.jsonl").read_bytes()
    assert inline("unpack", source, "--output", url) == 0
    storage.remove("memory://unpacked")


def test_an_input_that_is_none_is_one_line(source, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "no .tar shards there" in refused(capsys, tmp_path / "empty", "--output", tmp_path / "o")
    storage.write(str(tmp_path / "made/pictures/metadata.jsonl"), b"")
    text = refused(capsys, tmp_path / "made", "--output", tmp_path / "o")
    assert f"its pictures are files already, in {tmp_path / 'made/pictures'}" in text
    (source / "shards/loose.png").write_bytes(picture(0))
    text = refused(capsys, source / "shards", "--output", tmp_path / "o")
    assert "2 .tar beside 1 pictures" in text
    assert not (tmp_path / "o").exists()
