"""Inline and Ray do the same: a job's files are equal, a run begun by one is ended by the other, kills change nothing.
Every job refuses a second driver, and says in one line where its storage failed.

A subprocess does all jobs inline, once for this file; it also shows that none of them imports Ray.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
import time

import numpy as np
import pytest
import safetensors.torch
import torch
import training
from evaluating import noise
from flows import CPU, DIGITS, inline, on_ray
from fusing import png
from inpaints import block_pairs
from loras import make
from sampling import tiny
from sklearn.datasets import load_digits

from noiseweave.cluster import lock, shards, storage
from noiseweave.engine.pictures import images
from noiseweave.jobs import cli

FAST = (*DIGITS, "--inversion.num_steps", 3, "--inversion.skip", 1)
PAIRS = (
    *FAST,
    "--pairing.threshold",
    0.5,
    "--pairing.upper",
    1,
    "--pairing.max_pairs",
    8,
    "--pairing.group_images",
    5,
)
GATE = (
    "--gate",
    "true",
    "--quality.classifier.steps",
    8,
    "--quality.classifier.width",
    8,
    "--quality.drift",
    0.5,
)
LORA = (
    "--size",
    32,
    "--rank",
    2,
    "--steps",
    4,
    "--batch",
    2,
    "--accum",
    1,
    "--lr",
    "1e-2",
    "--log_every",
    1,
    "--validation.share",
    0.2,
    "--validation.every",
    2,
)
USEFUL = """
{per_class: [3], subsets: 1, seeds: 1, size: 8, classifiers: {small: {steps: 6, batch: 8, width: 4}}, guess: {rounds: 1},
 generator: {steps: 2, tuning_steps: 2, batch: 8, unet: {channels: [8, 16], attention: [], head: 8, groups: 4}},
 methods: {real: {}, blend: {made: blend, count: 4}, fused: {made: fusion, count: 2, inversion: {num_steps: 2, skip: 1}}}}
"""  # noqa: E501
TRAIN = ("train", "--config", "{d}/small.yaml", "--steps", 8)
JOBS = {
    "augment": ("augment", "--input", "{d}/in", *PAIRS, *GATE, "--samples.copy_original", "true"),
    "windows": (
        "augment",
        "--input",
        "{d}/in",
        *PAIRS,
        "--pairing.scope",
        "window",
        "--pairing.window",
        1,
        "--pairing.overlap",
        0,
        "--fusion.region.source",
        "saliency",
    ),
    "inpaint": (
        "inpaint",
        *DIGITS,
        "--images",
        "{d}/imgs",
        "--masks",
        "{d}/masks",
        "--steps",
        2,
        "--inpaint.resample",
        1,
        "--seed",
        3,
        "--rows",
        2,
        "--unit_pictures",
        2,
    ),
    "sample": (
        "sample",
        "--model.name",
        "{d}/told",
        "--count",
        7,
        "--shard_samples",
        2,
        "--sampler.name",
        "ddpm",
        "--sampler.steps",
        3,
        "--trajectory",
        2,
    ),
    "sets": (
        "evaluate",
        "--input",
        "{d}/in/a.tar",
        "--reference",
        "{d}/in/b.tar",
        "--features.name",
        "pixels",
        "--features.size",
        4,
        "--bootstrap",
        20,
    ),
    "pairs": (
        "evaluate",
        "--mode",
        "pairs",
        "--input",
        "{d}/one",
        "--reference",
        "{d}/two",
        "--unit_pictures",
        2,
    ),
    "reconstruction": ("evaluate", "--mode", "reconstruction", "--input", "{d}/in/b.tar", *FAST),
    "samples": (
        "evaluate",
        "--mode",
        "samples",
        "--input",
        "{d}/in/a.tar",
        "--reference",
        "{d}/in/b.tar",
        "--quality.judge",
        "centroid",
    ),
    "usefulness": (
        "evaluate usefulness",
        "--config",
        "{d}/useful.yaml",
        "--input",
        "{d}/few",
        "--test",
        "{d}/in/b.tar",
    ),
    "train": (*TRAIN, "--input", "{d}/squares", "--preview.every", 4),
    "latents": (
        *TRAIN,
        "--input",
        "{d}/squares",
        "--data.channels",
        3,
        "--data.size",
        16,
        "--model.vae",
        "{d}/kl/vae",
    ),
    "unpack": ("unpack", "--input", "{d}/in"),
    "lora": ("lora", "--data_root", "{d}/pictures", "--model", "{d}/kl", *LORA),
}
QUICK = (
    "sample",
    "sets",
    "unpack",
)  # the others are slow through Ray: a worker with torch and diffusers each
TIMES = {  # what two runs do not share
    "seconds",
    "hours",
    "gain_per_hour",
    "seconds_per_step",
    "samples_per_second",
    "workers",
    "cluster",
    "output",
}


def words_of(name, folder, output):
    return [str(word).format(d=folder) for word in JOBS[name]] + ["--output", str(output)]


@pytest.fixture(scope="module")
def place(hole_folder, tmp_path_factory):
    """What the commands read."""
    folder = tmp_path_factory.mktemp("place")
    data = load_digits(n_class=3)
    grey = np.rint(data.images[:30] * 255 / 16).astype(np.uint8)[..., None]
    rows = [
        (f"p{i:02d}", {"png": images.encode(p), "cls": b"%d" % y})
        for i, (p, y) in enumerate(zip(grey, data.target, strict=False))
    ]
    rows[4][1]["png"] = b"no picture"
    storage.write(str(folder / "in/a.tar"), shards.pack(rows[:15]))
    storage.write(str(folder / "in/b.tar"), shards.pack(rows[15:]))
    storage.write(str(folder / "few/a.tar"), shards.pack(rows[:15]))
    block_pairs(folder, 5)
    tiny(folder / "told", "ddpm", classes=3)
    for name, seed in (("one", 0), ("two", 1)):
        for key, picture in noise(3, seed=seed).items():
            storage.write(str(folder / name / f"{key}.png"), png(picture))
    (folder / "useful.yaml").write_text(USEFUL)
    (folder / "small.yaml").write_text(training.SMALL)
    training.make_shards(folder / "squares", spoil={3})
    make(folder / "pictures")
    shutil.copytree(hole_folder, folder / "kl")
    return folder


ALL = """
    import json, sys
    from noiseweave.jobs import cli
    for words in json.loads(sys.argv[1]):
        code = cli.main([*words[0].split(), *words[1:], "--cluster.address", "inline"])
        ray = sorted(m for m in sys.modules if m.split(".")[0] == "ray")
        print(json.dumps({"code": code, "ray": ray[:3]}), file=sys.stderr)
"""


@pytest.fixture(autouse=True)
def one_thread_a_worker(monkeypatch):
    """Of Ray's workers, as OMP_NUM_THREADS has it inline: sums in another order would differ in their last bits."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


@pytest.fixture(scope="module")
def here(place, tmp_path_factory):
    """(folder with each job's output, made inline by another process; what of Ray each job had imported)."""
    folder = tmp_path_factory.mktemp("inline")
    commands = [[*words_of(name, place, folder / name), *CPU] for name in JOBS]
    key = ["forget", "--key", "p20", "--input", str(folder / "forget"), *CPU]
    commands.insert(1, [*words_of("augment", place, folder / "forget"), *CPU])
    code = textwrap.dedent(ALL)
    arguments = json.dumps([*commands, key])
    done = subprocess.run([sys.executable, "-c", code, arguments], capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith('{"code"')]
    assert len(lines) == len(commands) + 1, done.stderr[-3000:]
    return folder, [(words[0], line) for words, line in zip([*commands, key], lines, strict=True)]


def test_no_job_imports_ray_inline_and_each_ends_well(here):
    _, told = here
    assert [line for line in told if line[1] != {"code": 0, "ray": []}] == []
    jobs = {job for job, _ in told}
    assert jobs == {
        "augment",
        "inpaint",
        "sample",
        "evaluate",
        "evaluate usefulness",
        "train",
        "unpack",
        "lora",
        "forget",
    }


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in JOBS]
)
def test_ray_writes_what_inline_writes(name, here, place, tmp_path, ray_session):
    """Bytes for bytes, but for times; weights to 1e-6."""
    assert on_ray(*words_of(name, place, tmp_path / name)) == 0
    assert_same(tmp_path / name, here[0] / name)


@pytest.mark.slow
def test_ray_forgets_what_inline_forgets(here, tmp_path, ray_session):
    """In the same place: what forget keeps of a request are hashes of paths."""
    place = here[0] / "forget"
    theirs = shutil.move(place, tmp_path / "theirs")
    shutil.copytree(here[0] / "augment", place)
    assert on_ray("forget", "--key", "p20", "--input", place) == 0
    assert_same(place, theirs)
    assert not (place / "_forget").exists()


def assert_same(ours, theirs):
    a, b = contents(ours), contents(theirs)
    assert a.keys() == b.keys()
    assert a, "nothing was written"
    for name, content in a.items():
        if name.endswith(".safetensors"):
            assert content.keys() == b[name].keys()
            for key, tensor in content.items():
                torch.testing.assert_close(tensor, b[name][key], atol=1e-6, rtol=0, msg=f"{name}: {key}")
        else:
            assert content == b[name], name


def contents(output):
    """Path -> what a user reads there: bytes of members of shards and of pictures, weights, figures without times.

    Of the run's memory: the ids that are done, the losses, what was made for training. The HTML page and the table of
    usefulness have times in their text; what they show is in the files that are compared.
    """
    found = {}
    for path in sorted(p for p in output.rglob("*") if p.is_file()):
        name = str(path.relative_to(output))
        if "checkpoints" in path.parts or "tensorboard" in path.parts or path.name == "config.json":
            continue
        if "done" in path.parts:
            found[name] = "done"
        elif path.suffix == ".tar":
            with tarfile.open(path) as tar:
                found |= {f"{name}#{m.name}": tar.extractfile(m).read() for m in tar if m.isfile()}
        elif path.suffix == ".safetensors":
            found[name] = safetensors.torch.load_file(path)
        elif path.suffix == ".json":
            found[name] = timeless(json.loads(path.read_text()))
        elif path.name == "log.jsonl":
            found[name] = [
                json.loads(line)["loss"] for line in path.read_text().splitlines() if '"loss"' in line
            ]
        elif (
            path.suffix in (".png", ".webp", ".jsonl", ".npy", ".txt", ".yaml")
            and path.name != "usefulness.png"
        ):
            found[name] = path.read_bytes()
    return found


def timeless(value):
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "last"), [(inline, on_ray), (on_ray, inline)], ids=["inline-ray", "ray-inline"]
)
def test_what_one_begins_the_other_ends(first, last, here, place, tmp_path, ray_session):
    output = tmp_path / "sample"
    assert first(*words_of("sample", place, output)) == 0
    marks = sorted((output / "_run/done/sample").iterdir())
    for mark in marks[1::2]:
        mark.unlink()
    for shard in sorted((output / "shards").iterdir())[1::2]:
        shard.unlink()
    kept = [mark.stat().st_mtime_ns for mark in marks[::2]]
    assert last(*words_of("sample", place, output)) == 0
    assert_same(output, here[0] / "sample")
    assert [mark.stat().st_mtime_ns for mark in marks[::2]] == kept, "what was done is not done again"


@pytest.mark.slow
def test_a_kill_of_an_inline_run_changes_nothing(here, place, tmp_path):
    more = ("--count", 40, "--shard_samples", 1, "--sampler.steps", 40)
    words = [*words_of("sample", place, tmp_path / "killed"), *map(str, more)]
    process = subprocess.Popen(
        [sys.executable, "-m", "noiseweave", *words, *CPU, "--cluster.address", "inline"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    marks, end = tmp_path / "killed/_run/done/sample", time.monotonic() + 300
    while len(list(marks.glob("*.json"))) < 3:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first = {p: p.stat().st_mtime_ns for p in marks.glob("*.json")}
    assert 3 <= len(first) < 40
    assert inline(*words) == 0
    assert inline(*words_of("sample", place, tmp_path / "whole"), *more) == 0
    assert_same(tmp_path / "killed", tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == when for path, when in first.items())
    assert not list(tmp_path.rglob("*.tmp"))


# one driver an output folder, and storage that fails: of every job


OTHERS = {
    "pack": ("pack", "--input", "{d}/one", "--size", 8),
    "fuse": ("fuse", "--images", '["{d}/in-0.png", "{d}/in-1.png"]', "--model.name", "digits-ddpm", *FAST),
}
SLOWER = ("usefulness", "latents", "lora", "samples", "windows", "reconstruction")
EVERY = [pytest.param(n, marks=pytest.mark.slow if n in SLOWER else []) for n in (*JOBS, *OTHERS)]


def command(name, place, output):
    """A job's command inline, as words."""
    if name in JOBS:
        return [
            *JOBS[name][0].split(),
            *words_of(name, place, output)[1:],
            "--cluster.address",
            "inline",
            *CPU,
        ]
    words = [str(word).replace("{d}", str(place)) for word in OTHERS[name]] + ["--output", str(output)]
    if name == "fuse":
        for i, picture in enumerate(noise(2).values()):
            (place / f"in-{i}.png").write_bytes(png(picture))
    return words


@pytest.mark.parametrize("name", EVERY)
def test_a_second_driver_is_refused(name, place, tmp_path, capsys):
    output = tmp_path / "out"
    with lock.held(str(output)):
        before = sorted(output.rglob("*"))
        with pytest.raises(SystemExit) as stop:
            cli.main(command(name, place, output))
        assert stop.value.code == 2
        assert sorted(output.rglob("*")) == before
    assert f"is being written by process {os.getpid()} on " in capsys.readouterr().err


@pytest.mark.parametrize("name", EVERY)
def test_a_full_disk_is_one_line(name, place, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    write = storage._write_local

    def full(path, data):
        small = os.path.basename(path).startswith(".") or path.endswith(("_run/config.json", "pack.json"))
        if path.startswith(str(output)) and not small:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(storage, "_write_local", full)
    assert cli.main(command(name, place, output)) == 1
    said = capsys.readouterr().err
    (line,) = (line for line in said.splitlines() if "error" in line.lower())
    assert line.startswith("error: ")
    assert "No space left on device" in line
    assert str(output) in line
    assert "Traceback" not in said
    assert not (output / lock.NAME).exists()


@pytest.mark.parametrize("name", EVERY)
def test_an_output_folder_that_goes_is_one_line(name, place, tmp_path, monkeypatch, capsys):
    output = tmp_path / "out"
    write, left = storage._write_local, [3]

    def gone(path, data):
        write(path, data)
        if path.startswith(str(output)) and not os.path.basename(path).startswith("."):
            left[0] -= 1
            if left[0] == 0:
                shutil.rmtree(output)

    monkeypatch.setattr(storage, "_write_local", gone)
    monkeypatch.setattr(lock, "BEAT", 600.0)  # its thread would end this process
    assert cli.main(command(name, place, output)) == 1
    said = capsys.readouterr().err
    assert f"error: output {str(output)!r} is gone" in said
    assert "Traceback" not in said
