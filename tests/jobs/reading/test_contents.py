"""A run over folders of files is one of their contents: what changes is refused, what moves or is touched is not."""

import json
import os
import shutil

import pytest
from flows import error_line, inline
from inpaints import FAST, block, mask, noise, pair, saved

from noiseweave.cluster import storage
from noiseweave.jobs import cli
from noiseweave.jobs.reading import contents as reading_contents
from noiseweave.jobs.reading.contents import Contents
from noiseweave.jobs.reading.places import Place
from noiseweave.jobs.reading.shard_pictures import InputChanged

HOLE = block((16, 16), 3, 4, 8, 9)


@pytest.fixture
def source(tmp_path):
    """imgs/ and masks/ of four bitmaps: every file of a folder has the same size."""
    for i in range(4):
        pair(tmp_path / "in", f"p{i}.bmp", noise("RGB", (16, 16), i), HOLE)
    for path in (tmp_path / "in/masks").glob("*.png"):
        path.with_suffix(".bmp").write_bytes(saved(mask(HOLE), "BMP"))
        path.unlink()
    return tmp_path / "in"


def commands(folder, output):
    images, masks = folder / "imgs", folder / "masks"
    two = ["--reference", folder / "same", "--output", output, "--unit_pictures", 1]
    shutil.copytree(images, folder / "same", dirs_exist_ok=True)
    return {
        "inpaint": ["--images", images, "--masks", masks, "--output", output, "--model.name", "digits-ddpm", *FAST,
                    "--unit_pictures", 1],
        "evaluate sets": ["--input", images, "--features.size", 4, "--metrics", "[fd]", *two],
        "evaluate pairs": ["--mode", "pairs", "--input", images, "--masks", masks, *two],
        "evaluate reconstruction": ["--mode", "reconstruction", "--input", images, "--output", output,
                                    "--model.name", "digits-ddpm", "--inversion.num_steps", 3, "--inversion.skip", 1],
    }  # fmt: skip


def killed(output):
    """A run that was killed before its last unit was done."""
    last = sorted(output.glob("_run/done/*/*.json"))[-1]
    last.unlink()
    (output / "report.json").unlink()


def other(path):
    """Another picture of the same size in a file's place, with its times."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[-100:] = bytes(b ^ 1 for b in data[-100:])
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


JOBS = ("inpaint", "evaluate sets", "evaluate pairs", "evaluate reconstruction")


@pytest.mark.parametrize("job", JOBS)
def test_a_file_replaced_by_one_of_its_size_between_a_kill_and_the_resume(job, source, tmp_path, capsys):
    words = commands(source, tmp_path / "out")[job]
    assert inline(job.split()[0], *words) == 0
    killed(tmp_path / "out")
    assert inline(job.split()[0], *words) == 0
    killed(tmp_path / "out")
    other(source / "imgs" / "p1.bmp")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main([job.split()[0], *map(str, words), "--cluster.address", "inline"])
    assert stop.value.code == 2
    assert "input.content" in error_line("".join(
        line for line in capsys.readouterr().err.splitlines(True) if "RePaint" not in line
    ))  # fmt: skip


def test_a_mask_or_words_that_changed(source, tmp_path):
    (source / "imgs" / "p0.txt").write_text("clay")
    words = commands(source, tmp_path / "out")["inpaint"]
    assert inline("inpaint", *words) == 0
    for path in (source / "masks" / "p2.bmp", source / "imgs" / "p0.txt"):
        before = path.read_bytes()
        other(path)
        with pytest.raises(SystemExit):
            inline("inpaint", *words)
        path.write_bytes(before)
    assert inline("inpaint", *words) == 0


def test_a_folder_that_moved_or_was_touched_is_the_same(source, tmp_path):
    words = commands(source, tmp_path / "out")["inpaint"]
    assert inline("inpaint", *words) == 0
    os.utime(source / "imgs" / "p1.bmp")
    shutil.copytree(source, tmp_path / "elsewhere")
    moved = [str(w).replace(str(source), str(tmp_path / "elsewhere")) for w in words]
    assert inline("inpaint", *moved) == 0


def test_a_file_that_changes_while_the_run_goes_on_fails_its_unit(source, tmp_path, monkeypatch):
    from noiseweave.jobs.inpaint import draw

    run = draw.run

    def then(*arguments):
        other(source / "imgs" / "p1.bmp")
        return run(*arguments)

    monkeypatch.setattr(draw, "run", then)
    assert inline("inpaint", *commands(source, tmp_path / "out")["inpaint"]) == 1
    failed = json.loads((tmp_path / "out/report.json").read_text())["failed"]
    assert list(failed) == ["000001"]
    assert "input changed during the run: p1.bmp" in failed["000001"]
    assert not (tmp_path / "out/restored/p1.bmp").exists()


def aged(monkeypatch):
    """Files that were written long ago."""
    monkeypatch.setattr(reading_contents, "SETTLED", -1.0)


def places(folder):
    return [Place(root=str(folder / "imgs"), path=f"p{i}.bmp") for i in range(4)]


def test_going_on_reads_no_file_again_that_did_not_change(source, tmp_path, monkeypatch):
    aged(monkeypatch)
    first = Contents(str(tmp_path / "out"))
    marked = first.marked(places(source))
    first.keep()
    other(source / "imgs" / "p2.bmp")
    read = []
    monkeypatch.setattr(Place, "_read", lambda self, limit: read.append(self.path) or b"new")
    second = Contents(str(tmp_path / "out")).marked(places(source))
    assert read == ["p2.bmp"]
    assert [a.digest == b.digest for a, b in zip(marked, second, strict=True)] == [True, True, False, True]


def test_what_changed_a_moment_ago_is_read_again(source, tmp_path):
    first = Contents(str(tmp_path / "out"))
    first.marked(places(source))
    assert first.kept == {}, "their times might not show the next change"


@pytest.mark.parametrize("kept", [b"{", b"[]", b'{"x": 1}', b'{"x": ["a", 1]}'])
def test_a_damaged_file_of_digests_is_not_believed(kept, source, tmp_path):
    storage.write(str(tmp_path / "out/_run/files.json"), kept)
    marked = Contents(str(tmp_path / "out")).marked(places(source))
    assert len({place.digest for place in marked}) == 4


def test_what_cannot_be_read_has_no_digest_and_what_changed_is_not_given(source):
    (source / "imgs" / "p0.bmp").unlink()
    os.mkfifo(source / "imgs" / "p0.bmp")
    marked = Contents().marked(places(source))
    assert marked[0].digest is None
    assert marked[1].read() == (source / "imgs" / "p1.bmp").read_bytes()
    other(source / "imgs" / "p1.bmp")
    with pytest.raises(InputChanged, match="p1"):
        marked[1].read()
