"""augment of a folder of pictures: packed into the run's own folder, as if pack had been run before."""

import json
import shutil

import numpy as np
import pytest
from augments import BASE, digits, report, through, write_shard
from flows import error_line, inline

from noiseweave.cluster import shards, storage
from noiseweave.engine.pictures import images
from noiseweave.jobs import cli
from noiseweave.jobs.pack import job as pack


@pytest.fixture
def photos(tmp_path):
    """40 digits in a folder for each class, the first with a caption; and a file that is no picture."""
    root = tmp_path / "photos"
    for i, (picture, label) in enumerate(zip(*digits(), strict=True)):
        if i < 40:
            storage.write(str(root / f"n{label}" / f"d{i:02d}.png"), images.encode(picture))
    (root / "n0/d00.txt").write_text("a zero")
    (root / "n3/torn.png").write_bytes(b"torn")
    return root


def words(source, output, *more):
    return [*BASE, "--pairing.max_pairs", "6", "--input", source, "--output", output, *more]


def refused(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        inline("augment", *arguments)
    assert stop.value.code == 2
    return error_line(capsys.readouterr().err)


def test_it_is_what_pack_and_augment_make(photos, tmp_path, capsys):
    numbers, made = through(tmp_path / "one", *words(photos, tmp_path / "one"))
    assert "packed 40 pictures in 1 shards, 10 classes -> " in capsys.readouterr().out
    assert (numbers["images"], numbers["samples"], len(made)) == (40, 6, 6)
    assert numbers["quarantined"] == {"not_an_image": 1}
    (bad,) = map(json.loads, (tmp_path / "one/quarantine.jsonl").read_text().splitlines())
    assert (bad["phase"], bad["key"], bad["reason"]) == ("pack", "n3/torn.png", "not_an_image")
    assert cli.main(["pack", "--input", str(photos), "--output", str(tmp_path / "packed")]) == 0
    _, other = through(tmp_path / "two", *words(tmp_path / "packed/shards", tmp_path / "two"))
    assert made == other
    assert (tmp_path / "one/contact_sheet.png").exists()


def test_quarantined_and_ignored_files_are_named_on_the_screen(photos, tmp_path, capsys):
    for n in range(4):
        (photos / f"n1/notes{n}.txt").write_text("x")
    assert inline("augment", *words(photos, tmp_path / "out")) == 0
    lines = capsys.readouterr().out.splitlines()
    named = "quarantined: 1 not_an_image: n3/torn.png (not_an_image); see "
    assert named + str(tmp_path / "out/quarantine.jsonl") in lines
    assert named + str(tmp_path / "out/_run/packed/quarantine.jsonl") in lines
    assert "ignored: n1/notes0.txt, n1/notes1.txt, n1/notes2.txt and 1 more" in lines


def test_it_goes_on_without_packing_again_and_changed_input_is_refused(photos, tmp_path, capsys, monkeypatch):
    output = tmp_path / "o"
    assert inline("augment", *words(photos, output)) == 0
    before = {p: p.read_bytes() for p in output.rglob("*.tar")}
    shutil.rmtree(output / "_run/done/generate")
    monkeypatch.setattr(pack, "run", lambda config: pytest.fail("packed again"))
    assert inline("augment", *words(photos, output)) == 0
    assert before == {p: p.read_bytes() for p in output.rglob("*.tar")}
    caption = photos / "n0/d00.txt"
    caption.write_text("a nought")
    assert "input.content" in refused(capsys, *words(photos, output))
    caption.write_text("a zero")
    shutil.copy(photos / "n1/d01.png", photos / "n1/more.png")
    assert "input.pictures 41 -> 42" in refused(capsys, *words(photos, output))
    (photos / "n1/more.png").unlink()
    (photos / "n1").rename(photos / "n11")
    assert "input.content" in refused(capsys, *words(photos, output))
    assert before == {p: p.read_bytes() for p in output.rglob("*.tar")}


def test_killed_while_it_packs_it_ends_as_an_undisturbed_run(photos, tmp_path, monkeypatch):
    output = tmp_path / "o"
    wanted = through(tmp_path / "whole", *words(photos, tmp_path / "whole"))[1]
    finish = pack.pack_output.finish

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(pack.pack_output, "finish", stop)
    assert inline("augment", *words(photos, output)) == 130
    assert list((output / "_run/packed/shards").glob("*.tar"))
    monkeypatch.setattr(pack.pack_output, "finish", finish)
    assert through(output, *words(photos, output))[1] == wanted
    assert through(output, *words(photos, output, "--overwrite"))[1] == wanted


@pytest.mark.parametrize("scope", ["dataset", "window"])
def test_a_flat_folder_has_no_labels(photos, tmp_path, scope):
    more = ["--pairing.classes", "any", "--pairing.scope", scope]
    _, made = through(tmp_path / "o", *words(photos / "n3", tmp_path / "o", *more))
    assert made
    assert not any("cls" in files for files in made.values())


def test_what_is_no_folder_of_pictures_is_one_line(photos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/a.png").write_bytes(b"torn")
    (tmp_path / "table").mkdir()
    (tmp_path / "table/metadata.csv").write_text("file_name\n")
    write_shard(tmp_path / "run/shards/a.tar", [("a", {"png": images.encode(np.zeros((8, 8, 1), np.uint8))})])
    for folder, text in (
        ("empty", "no .tar shards there, and no .jpg, .jpeg, .png, .webp or .bmp in it or below it"),
        ("run", "the folder of a run; its shards are in"),
        ("table", "in the format imagefolder; noiseweave pack --input"),
        ("torn", "none of its 1 pictures opens"),
    ):
        assert text in refused(capsys, *words(tmp_path / folder, tmp_path / f"o-{folder}"))
    for output in (photos, photos / "out", tmp_path):
        assert "a folder apart from the input" in refused(capsys, *words(photos, output))
    assert not (photos / "_run").exists()
    assert len(list(photos.iterdir())) == 10


def test_another_jobs_output_is_not_packed_into(photos, tmp_path, capsys):
    storage.write_json(str(tmp_path / "o/_run/config.json"), {"job": "train"})
    assert "holds _run, which no augment run wrote" in refused(capsys, *words(photos, tmp_path / "o"))
    assert not (tmp_path / "o/_run/packed").exists()


def test_originals_of_a_folder(photos, tmp_path):
    assert report_of(tmp_path / "o", *words(photos, tmp_path / "o", "--samples.copy_original"))["phases"][
        "copy"
    ]
    found = [e for s in shards.find(str(tmp_path / "o/originals")) for e in shards.index(s)[0]]
    assert len(found) == 40


def report_of(output, *arguments):
    assert inline("augment", *arguments) == 0
    return report(output)
