"""augment --files folder: the samples of the shards, as pictures in class folders with their lineage."""

import json
import shutil
from collections import Counter

import pytest
from augments import BASE, digits, through, write_shard
from flows import inline
from forgetting import holding

from noiseweave.cluster import storage
from noiseweave.engine.pictures import images
from noiseweave.jobs.report import samples

NAMES = [f"number {i}" for i in range(10)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """60 digits in two shards that share a key, with class names."""
    folder = tmp_path_factory.mktemp("digits")
    rows = [
        (f"d{i % 59:02d}", {"png": images.encode(p), "cls": b"%d" % y})
        for i, (p, y) in enumerate(zip(*digits(), strict=True))
        if i < 60
    ]
    write_shard(folder / "in/s-0.tar", rows[:30])
    write_shard(folder / "in/s-1.tar", rows[30:])
    storage.write_json(str(folder / "in/classes.json"), NAMES)
    return folder / "in"


def words(source, output, *more):
    return [
        *BASE,
        "--pairing.max_pairs",
        12,
        "--files",
        "folder",
        "--input",
        source,
        "--output",
        output,
        *more,
    ]


def lines(folder):
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("scope", ["dataset", "window"])
def test_the_folder_has_what_the_shards_have(source, tmp_path, scope):
    more = ["--pairing.scope", scope, "--pairing.window", 1, "--pairing.overlap", 0]
    _, shards = through(tmp_path / "s", *words(source, tmp_path / "s", *more, "--files", "shards"))
    assert inline("augment", *words(source, tmp_path / "f", *more)) == 0
    pictures = tmp_path / "f/pictures"
    rows = lines(pictures)
    assert {row["key"] for row in rows} == set(shards)
    assert len(rows) == len(shards) > 5
    for row in rows:
        made = shards[row["key"]]
        assert (pictures / row["file_name"]).read_bytes() == made["png"]
        assert row["json"].encode() == made["json"]
        assert row["label"] == int(made["cls"])
        assert row["file_name"] == f"{NAMES[row['label']]}/{row['key']}.png"
    assert len(tree(pictures)) == len(rows) + 2
    assert json.loads((pictures / "classes.json").read_text()) == NAMES
    assert not (tmp_path / "f/shards").exists()
    sheets = [(tmp_path / x / "contact_sheet.png").read_bytes() for x in "sf"]
    assert sheets[0] == sheets[1]
    page = (tmp_path / "f/report.html").read_text()
    assert all(row["key"] in page for row in rows[:5])


def test_unpack_makes_the_same_folder_of_the_shards(source, tmp_path):
    assert inline("augment", *words(source, tmp_path / "f")) == 0
    assert inline("augment", *words(source, tmp_path / "s", "--files", "shards")) == 0
    assert inline("unpack", tmp_path / "s", "--output", tmp_path / "u") == 0
    ours, theirs = (
        {row["file_name"]: {**row, "shard": None} for row in lines(folder)}
        for folder in (tmp_path / "f/pictures", tmp_path / "u")
    )
    assert ours == theirs
    assert {(tmp_path / "u" / name).read_bytes() for name in ours} == {
        (tmp_path / "f/pictures" / name).read_bytes() for name in ours
    }


def test_torchvision_reads_it_and_the_originals(source, tmp_path):
    from torchvision.datasets import ImageFolder

    assert inline("augment", *words(source, tmp_path / "o", "--samples.copy_original", "true")) == 0
    for place, count in (("pictures", len(lines(tmp_path / "o/pictures"))), ("originals", 60)):
        read = ImageFolder(str(tmp_path / "o" / place))
        assert len(read) == count
        assert set(read.classes) <= set(NAMES)
    rows = lines(tmp_path / "o/originals")
    assert len({row["file_name"].casefold() for row in rows}) == 60
    assert {row["shard"] for row in rows} == {"s-0.tar", "s-1.tar"}


def test_a_class_without_a_picture_shifts_imagefolders_numbers_and_is_said(tmp_path, capsys):
    from torchvision.datasets import ImageFolder

    pictures, labels = digits()
    for name, digit in (("eight", 8), ("nine", 9), ("one", 1)):
        of = [i for i, y in enumerate(labels) if y == digit][: 1 if name == "nine" else 8]
        (tmp_path / "in" / name).mkdir(parents=True)
        for i in of:
            (tmp_path / "in" / name / f"{i}.png").write_bytes(images.encode(pictures[i]))
    assert inline("augment", *words(tmp_path / "in", tmp_path / "o")) == 0
    seen = capsys.readouterr()
    found = ImageFolder(str(tmp_path / "o/pictures")).class_to_idx
    ours = {row["class_name"]: row["label"] for row in lines(tmp_path / "o/pictures")}
    assert (found, ours) == ({"eight": 0, "one": 1}, {"eight": 0, "one": 2})
    assert "numbers the folders of" in seen.err
    assert "one as 1 where the input has 2 (no picture is of nine)" in seen.err
    report = json.loads((tmp_path / "o/report.json").read_text())
    each = {
        str(label): sum(row["label"] == label for row in lines(tmp_path / "o/pictures")) for label in (0, 2)
    }
    assert report["kept_per_class"] == each
    assert f"kept {report['samples']}: eight {each['0']}, one {each['2']}" in " ".join(seen.out.split())
    (path,) = [line for line in seen.out.splitlines() if line.startswith("contact sheet: ")]
    assert path == f"contact sheet: {tmp_path / 'o/contact_sheet.png'}", "whole, however narrow the screen"


def test_the_page_shows_kept_pictures_before_rejected_ones(tmp_path):
    more = ("--gate", "true", "--quality.copy", "0.95", "--quality.redraw", "0")
    folder = tmp_path / "o"
    pictures, labels = digits()
    write_shard(
        tmp_path / "in/s.tar",
        [(f"d{i}", {"png": images.encode(pictures[i]), "cls": b"%d" % labels[i]}) for i in range(60)],
    )
    assert inline("augment", *words(tmp_path / "in", folder, *more)) == 0
    verdicts = [one.verdict != "kept" for one in samples.found_in(str(folder), "augment", Counter())]
    assert {False, True} == set(verdicts)
    assert verdicts == sorted(verdicts)


def test_hugging_face_datasets_reads_it_with_every_lineage_as_it_was_written(source, tmp_path):
    """As text: of objects it would make one type, and each soft label, here of two classes, would have all of them."""
    datasets = pytest.importorskip("datasets")
    how = ("--pairing.classes", "any", "--fusion.region.source", "saliency")
    _, made = through(tmp_path / "s", *words(source, tmp_path / "s", *how, "--files", "shards"))
    assert inline("augment", *words(source, tmp_path / "f", *how)) == 0
    rows = datasets.load_dataset(
        "imagefolder",
        data_dir=str(tmp_path / "f/pictures"),
        data_files="**",
        split="train",
        cache_dir=str(tmp_path / "c"),
    )
    lineages = {row["key"]: json.loads(row["json"]) for row in rows}
    assert lineages == {key: json.loads(files["json"]) for key, files in made.items()}
    assert len({tuple(one["soft_label"]) for one in lineages.values() if "soft_label" in one}) > 1


def test_killed_while_it_writes_it_ends_as_an_undisturbed_run(source, tmp_path, monkeypatch):
    more = ["--pairing.group_images", 4]
    assert inline("augment", *words(source, tmp_path / "whole", *more)) == 0
    write = storage._write_local
    left = [8]

    def stop(path, data):
        if "/pictures/number" in path:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        write(path, data)

    monkeypatch.setattr(storage, "_write_local", stop)
    assert inline("augment", *words(source, tmp_path / "o", *more)) == 130
    assert not (tmp_path / "o/pictures/metadata.jsonl").exists()
    monkeypatch.undo()
    assert inline("augment", *words(source, tmp_path / "o", *more)) == 0
    assert tree(tmp_path / "o/pictures") == tree(tmp_path / "whole/pictures")


def test_shards_are_not_gone_on_with_as_a_folder(source, tmp_path, capsys):
    assert inline("augment", *words(source, tmp_path / "o", "--files", "shards")) == 0
    with pytest.raises(SystemExit):
        inline("augment", *words(source, tmp_path / "o"))
    assert "files shards -> folder" in capsys.readouterr().err
    assert inline("augment", *words(source, tmp_path / "o", "--overwrite")) == 0
    assert not (tmp_path / "o/shards").exists()
    assert (tmp_path / "o/pictures/metadata.jsonl").exists()


def test_forget_removes_the_files_and_their_lines(source, tmp_path):
    output = tmp_path / "o"
    assert inline("augment", *words(source, output, "--samples.copy_original", "true")) == 0
    before = lines(output / "pictures")
    key = next(p["key"] for p in json.loads(before[0]["json"])["parents"] if p["key"] != "d00")
    gone = {r["file_name"] for r in before if f'"key": "{key}"' in r["json"]}
    shutil.copytree(output, tmp_path / "dry")
    assert inline("forget", "--key", key, "--input", tmp_path / "dry", "--dry_run") == 0
    assert tree(tmp_path / "dry/pictures") == tree(output / "pictures")
    assert inline("forget", "--key", key, "--input", output) == 0
    after = lines(output / "pictures")
    assert {r["file_name"] for r in before} - {r["file_name"] for r in after} == gone
    assert not any((output / "pictures" / name).exists() for name in gone)
    assert all((output / "pictures" / row["file_name"]).is_file() for row in after)
    assert len(list((output / "pictures").rglob("*.png"))) == len(after)
    assert key not in {row["key"] for row in lines(output / "originals")}
    assert holding(output, f'"{key}"') | holding(output, f"/{key}.png") == set()
    report = json.loads((output / "report.json").read_text())
    assert (report["samples"], report["forgotten"]) == (len(after), len(gone))
    assert inline("augment", *words(source, output, "--samples.copy_original", "true")) == 0
    assert lines(output / "pictures") == after
