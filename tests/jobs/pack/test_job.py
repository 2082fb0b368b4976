"""Whatever is packed: shards of bounded size, the same ones again, refusals in one line, digits."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from packing import contents, fill, packed, picture
from PIL import Image

from noiseweave.cluster import shards, storage
from noiseweave.engine.pictures import images
from noiseweave.jobs import cli
from noiseweave.jobs.pack import config
from noiseweave.jobs.pack import job as pack


@pytest.fixture
def flowers(tmp_path) -> Path:
    files = {f"rose/{n}.png": picture(n) for n in range(5)} | {f"daisy/{n}.png": picture(n) for n in range(4)}
    return fill(tmp_path / "flowers", files)


def test_shards_close_at_samples_or_megabytes(tmp_path, flowers):
    assert packed(flowers, tmp_path / "a", shard_samples=4)[2]["shards"] == 3
    big = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)  # 0.75 MB as PNG
    root = fill(tmp_path / "big", {f"{n}.png": images.encode(big) for n in range(5)})
    assert packed(root, tmp_path / "b", shard_mb=1)[2]["shards"] == 3
    assert sorted(os.listdir(tmp_path / "b/shards")) == [f"shard-{n:06d}.tar" for n in range(3)]


def test_digits_are_scikit_learns(tmp_path):
    from sklearn.datasets import load_digits

    samples, _, report = packed(None, tmp_path / "a", dataset="digits", shard_samples=1000)
    digits = load_digits()
    assert (report["samples"], report["shards"]) == (1797, 2)
    for n in (0, 5, 1796):
        sample = samples[f"digits/{n:04d}"]
        assert sample["__key__"] == f"digit-{n:04d}"
        assert int(sample["cls"]) == digits.target[n]
        array = np.asarray(Image.open(io.BytesIO(sample["png"])))
        assert np.abs(array / 255 * 16 - digits.images[n]).max() < 0.04
    assert pack.run(config.Config(dataset="digits", size=16, output=str(tmp_path / "b"))) == 0
    shard = str(tmp_path / "b/shards/shard-000000.tar")
    first = shards.locate(shard)[0][0]
    image = Image.open(io.BytesIO(storage.read(shard, first.offset, first.size)))
    assert (image.size, image.mode) == ((16, 16), "L")


def test_the_same_command_again_gives_the_same_files(flowers, tmp_path):
    out = tmp_path / "out"
    packed(flowers, out, shard_samples=2)
    before = contents(out)
    (out / "shards" / "shard-000001.tar").unlink()  # killed before it was written ...
    half = out / "shards" / f".shard-000001.tar.{'0' * 32}.tmp"  # ... or while it was, a while ago
    half.write_bytes(b"half")
    os.utime(half, (0, 0))
    (out / "report.json").unlink()
    packed(flowers, out, shard_samples=2)
    assert contents(out) == before
    for n in range(4):
        (flowers / f"rose/{n}.png").unlink()
    packed(flowers, out, shard_samples=2)
    assert len(os.listdir(out / "shards")) == 3  # no shard of the longer packing stays
    assert contents(out) == contents(repacked(flowers, tmp_path / "other"))


def repacked(folder: Path, output: Path) -> Path:
    packed(folder, output, shard_samples=2)
    return output


def test_killed_at_any_moment_and_run_again(tmp_path):
    root = fill(tmp_path / "in", {f"c/{n:03d}.png": picture(n, size=(300, 300)) for n in range(150)})
    out = tmp_path / "out"
    command = [sys.executable, "-m", "noiseweave", "pack", "--input", str(root), "--output", str(out)]
    command += ["--shard_samples", "5"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(out.glob("shards/*.tar")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(out.glob("shards/*.tar"))
    packed(root, out, shard_samples=5)
    packed(root, tmp_path / "calm", shard_samples=5)
    assert contents(out) == contents(tmp_path / "calm")


def test_another_packing_in_the_output_is_refused_and_named(flowers, tmp_path):
    out = tmp_path / "out"
    packed(flowers, out, shard_samples=2)
    before = contents(out)
    with pytest.raises(ValueError, match=r"shard_samples was 2, now 3; size was None, now 16") as error:
        packed(flowers, out, shard_samples=3, size=16)
    assert "labels" not in str(error.value)
    assert contents(out) == before
    packed(flowers, out, shard_samples=2, threads=2)  # what changes no byte is no other packing
    packed(flowers, out, shard_samples=3, size=16, overwrite=True)
    packed(flowers, tmp_path / "fresh", shard_samples=3, size=16)
    assert contents(out) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("name", ["train-000.tar", "shard-000000.tar"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_shards_of_somebody_else_are_never_touched(flowers, tmp_path, overwrite, name):
    out = fill(tmp_path / "out", {f"shards/{name}": b"precious"})
    with pytest.raises(ValueError, match="which no pack wrote"):
        packed(flowers, out, overwrite=overwrite)
    assert (out / "shards" / name).read_bytes() == b"precious"


def test_a_url_as_output(flowers):
    url = "memory://packing/out"
    assert pack.run(config.Config(input=str(flowers), output=url, shard_samples=4)) == 0
    found = shards.find(f"{url}/shards")
    assert sum(len(shards.locate(s)[0]) for s in found) == 9
    assert storage.read_json(f"{url}/report.json")["shards"] == len(found) == 3
    storage.remove("memory://packing")


def test_a_tar_beside_class_folders_is_not_guessed(flowers, tmp_path, capsys):
    storage.write(str(flowers / "old.tar"), shards.pack([("a", {"png": picture()})]))
    with pytest.raises(SystemExit) as stop:
        cli.main(["pack", "--input", str(flowers), "--output", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert (stop.value.code, error.count("\n")) == (2, 1)
    assert (
        "1 .tar beside 9 pictures (folders daisy, rose); choose with --format shards or --format folder"
        in error
    )
    assert not (tmp_path / "out").exists()
    samples, _, report = packed(flowers, tmp_path / "folder", format="folder")
    assert (len(samples), report["ignored"][".tar"]) == (9, 1)
    assert pack.run(config.Config(input=str(flowers), output=str(tmp_path / "shards"), format="shards")) == 0
    (flowers / "data.mdb").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"1 \.tar beside an LMDB; choose with --format lmdb or shards"):
        packed(flowers, tmp_path / "lmdb")


USAGE = {
    "neither": ([], "either input or dataset"),
    "both": (["--input", "{d}", "--dataset", "digits"], "either input or dataset"),
    "unknown dataset": (["--dataset", "mnist"], "dataset"),
    "missing folder": (["--input", "{d}/none"], "no such folder"),
    "a file": (["--input", "{d}/notes.md"], "no such folder"),
    "no picture": (["--input", "{d}"], "no .jpg"),
    "a url": (["--input", "s3://bucket/x", "--format", "folder"], "a local folder"),
    "blank": (["--input", " "], "a folder of pictures"),
    "size": (["--dataset", "digits", "--size", "0"], "size=0"),
    "format without size": (["--input", "{d}", "--image_format", "jpg"], "needs a size"),
    "samples": (["--dataset", "digits", "--shard_samples", "0"], "shard_samples=0"),
    "below a file": (["--dataset", "digits", "--output", "{d}/notes.md/out"], "cannot be written"),
}


@pytest.mark.parametrize("name", USAGE)
def test_wrong_usage_is_one_line_and_code_2(name, tmp_path, capsys):
    fill(tmp_path, {"notes.md": b"no picture"})
    flags, words = USAGE[name]
    arguments = ["pack", "--output", str(tmp_path / "out"), *(f.format(d=tmp_path) for f in flags)]
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert words in error
    assert not (tmp_path / "out").exists()


def test_the_input_is_not_the_output(flowers, capsys):
    with pytest.raises(SystemExit):
        cli.main(["pack", "--input", str(flowers), "--output", str(flowers)])
    assert "not the input folder itself" in capsys.readouterr().err


def test_the_shipped_configs_hold(tmp_path, monkeypatch, flowers, capsys):
    configs = Path(__file__).parents[3] / "configs"
    monkeypatch.chdir(tmp_path)
    assert cli.main(["pack", "--config", str(configs / "pack-digits.yaml")]) == 0
    assert json.loads(Path("out/digits/report.json").read_text())["samples"] == 1797
    assert cli.main(["pack", "--config", str(configs / "pack-folder.yaml"), "--input", str(flowers)]) == 0
    assert "packed 9 pictures in 1 shards, 2 classes" in capsys.readouterr().out


def test_the_configs_of_other_sources_hold(tmp_path, monkeypatch, flowers, capsys):
    configs = Path(__file__).parents[3] / "configs"
    monkeypatch.chdir(tmp_path)
    lmdb = pytest.importorskip("lmdb")
    pytest.importorskip("datasets")
    (tmp_path / "lsun/tower_train_lmdb").mkdir(parents=True)
    with lmdb.open("lsun/tower_train_lmdb") as env, env.begin(write=True) as transaction:
        transaction.put(b"0" * 40, picture(0, "WEBP"))
    assert cli.main(["pack", "--input", str(flowers), "--output", "out/pictures"]) == 0
    assert cli.main(["pack", "--config", str(configs / "pack-lmdb.yaml")]) == 0
    assert cli.main(["pack", "--config", str(configs / "pack-shards.yaml")]) == 0
    assert (
        cli.main(["pack", "--config", str(configs / "pack-imagefolder.yaml"), "--input", str(flowers)]) == 0
    )
    counts = [line.split(" ->")[0] for line in capsys.readouterr().out.splitlines() if "packed" in line]
    assert [c.split(" in ")[0] for c in counts] == [f"packed {n} pictures" for n in (9, 1, 9, 9)]
