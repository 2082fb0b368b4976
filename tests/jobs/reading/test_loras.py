"""A model's LoRA files in inpaint: what is painted, what is written down, what is refused. And in the other jobs."""

import hashlib
import io
import json

import numpy as np
import pytest
from flows import error_line
from inpaints import drawn, folders_of, hole, lora, noise, pair, refused, report, started, stored
from PIL import Image
from sampling import lines, read

from noiseweave.cluster import shards, storage
from noiseweave.engine.pictures import images
from noiseweave.jobs import arguments as jobs_arguments
from noiseweave.jobs import cli
from noiseweave.jobs.reading import loras

FAST = ["--steps", 2, "--inpaint.resample", 1, "--seed", 3]


@pytest.fixture
def picture(tmp_path):
    pair(tmp_path, "a.png", noise("RGB", (32, 32)), hole((32, 32)))
    return folders_of(tmp_path)


def lineage(output):
    return json.loads((output / "lineage/a.json").read_text())


def test_it_paints_otherwise_and_is_written_down(kl_folder, picture, tmp_path, capsys):
    (tmp_path / "a.safetensors").write_bytes(lora())
    arguments = [*picture, "--model", kl_folder, *FAST]
    files = ["--lora", tmp_path / "a.safetensors"]
    assert drawn(tmp_path / "without", *arguments) == 0
    assert drawn(tmp_path / "o", *arguments, *files) == 0
    where = hole((32, 32))
    other = stored(tmp_path / "o/restored/a.png") != stored(tmp_path / "without/restored/a.png")
    assert other[where].mean() > 0.5
    assert not other[~where].any()
    sha256 = hashlib.sha256(lora()).hexdigest()
    told = [{"file": "a.safetensors", "sha256": sha256, "weight": 1.0}]
    assert lineage(tmp_path / "o")["lora"] == report(tmp_path / "o")["lora"] == told
    assert lineage(tmp_path / "without")["lora"] == []

    said = refused(capsys, tmp_path / "o", *arguments, *files, "--lora_weight", 0.5)
    assert "model.lora_weight [1.0] -> [0.5]" in said
    assert "model.lora_sha256 [" in refused(capsys, tmp_path / "o", *arguments)
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    assert drawn(tmp_path / "o", *arguments, "--lora", tmp_path / "b.safetensors") == 0, "the same file"
    (tmp_path / "b.safetensors").write_bytes(lora(1))
    changed = refused(capsys, tmp_path / "o", *arguments, "--lora", tmp_path / "b.safetensors")
    assert "model.lora_sha256 [" in changed
    assert sha256[:8] in changed


def test_several_with_a_weight_each(kl_folder, picture, tmp_path):
    """A file, a folder as diffusers writes it and a URL; in weights of 0 the model itself."""
    arguments = [*picture, "--model", kl_folder, *FAST]
    (tmp_path / "a.safetensors").write_bytes(lora())
    (tmp_path / "b").mkdir()
    (tmp_path / "b/pytorch_lora_weights.safetensors").write_bytes(lora(1))
    (tmp_path / "b/other.safetensors").write_bytes(b"")
    storage.write("memory://loras/c.safetensors", lora(1))
    a, b, c = str(tmp_path / "a.safetensors"), str(tmp_path / "b"), "memory://loras/c.safetensors"
    runs = {
        "none": [],
        "zero": ["--lora", json.dumps([a, b]), "--lora_weight", "[0, 0]"],
        "b": ["--lora", b, "--lora_weight", "-1"],
        "c": ["--lora", json.dumps([c, a]), "--lora_weight", "[-1, 0]"],
        "both": ["--lora", json.dumps([a, c]), "--lora_weight", -1],
    }
    made = {}
    for name, more in runs.items():
        assert drawn(tmp_path / name, *arguments, *more) == 0
        made[name] = stored(tmp_path / name / "restored/a.png")
    assert (made["zero"] == made["none"]).all()
    assert (made["b"] == made["c"]).all()
    assert (made["b"] != made["none"]).any()
    assert (made["both"] != made["b"]).any()
    assert [f["weight"] for f in lineage(tmp_path / "both")["lora"]] == [-1, -1]


def test_what_half_precision_cannot_hold_is_done_again_with_the_lora(kl_folder, picture, tmp_path):
    """Weights of some 1e6 are infinite in float16, and not in float32."""
    (tmp_path / "a.safetensors").write_bytes(lora(scale=1e6))
    arguments = [*picture, "--model", kl_folder, *FAST, "--lora", tmp_path / "a.safetensors"]
    for precision in ("fp16", "fp32"):
        assert drawn(tmp_path / precision, *arguments, "--model.precision", precision) == 0
        assert lineage(tmp_path / precision)["precision"] == "fp32"
    half, full = (stored(tmp_path / p / "restored/a.png") for p in ("fp16", "fp32"))
    assert (half == full).all()


def test_a_file_that_changes_while_the_job_runs(kl_folder, picture, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(lora())
    task, _, _ = started(
        tmp_path / "o", *picture, "--model", kl_folder, *FAST, "--lora", tmp_path / "a.safetensors"
    )
    assert loras.adding(task.config.model).keywords["loras"][0].data == lora()
    (tmp_path / "a.safetensors").write_bytes(lora(1))
    with pytest.raises(ValueError, match="the file has changed since the run began"):
        loras.adding(task.config.model)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lora", "{d}/none"], "no such file or folder; one on the hub"),
        (["--lora", "none://a/b"], "cannot be read"),
        (["--lora", ""], "model.lora='': files or folders"),
        (["--lora", "{d}/imgs"], "a folder with 0 .safetensors files"),
        (["--lora", "{d}/two"], "a folder with 2 .safetensors files; give one file, such as a.safetensors"),
        (["--lora", "{d}/w.bin"], "w.bin is a pickle, which can run code and is never opened"),
        (["--lora", "{d}/old"], "pytorch_lora_weights.bin is a pickle"),
        (["--lora", "{d}/imgs/a.png"], "no safetensors file"),
        (
            ["--lora", "{d}/nine.safetensors"],
            "made for another base model: 1 of its 1 layers do not fit: "
            "lora_unet_conv_in (32x9x3x3, the model's is 32x4x3x3)",
        ),
        (
            ["--lora", '["{d}/two/a.safetensors", "{d}/nine.safetensors"]'],
            "nine.safetensors': made for another",
        ),
        (["--lora", "{d}/two/a.safetensors", "--model", "digits-ddpm"], "null: a base model takes none"),
        (["--lora", "{d}/two/a.safetensors", "--lora_weight", "[1, 2]"], "one for each of the 1 files"),
        (["--lora", "{d}/two/a.safetensors", "--lora_weight", ".nan"], "lora_weight=nan: finite numbers"),
        (["--lora_weight", "0.5"], "nothing, as no model.lora is given"),
        (
            ["--lora", "{d}/two/a.safetensors", "--model.lora_sha256", "[abc]"],
            "64 hex digits for each of the 1",
        ),
        (
            ["--lora", "{d}/two/a.safetensors", "--model.lora_sha256", f"[{'ab' * 32}]"],
            "which {d}/two/a.safetensors has",
        ),
    ],
)
def test_a_mistake_is_one_line(kl_folder, picture, tmp_path, capsys, arguments, words):
    for name, data in (
        ("two/a.safetensors", lora()),
        ("two/b.safetensors", lora()),
        ("nine.safetensors", lora(channels=9)),
        ("w.bin", b""),
        ("old/pytorch_lora_weights.bin", b""),
        ("old/config.json", b"{}"),
    ):
        storage.write(str(tmp_path / name), data)
    told = [a.format(d=tmp_path) for a in arguments]
    said = refused(capsys, tmp_path / "o", *picture, "--model", kl_folder, *FAST, *told)
    assert words.format(d=tmp_path) in said
    assert not (tmp_path / "o").exists()


def test_a_negative_weight_is_no_option():
    words = [
        "--model",
        "a",
        "--images",
        "i",
        "--masks",
        "m",
        "--output",
        "o",
        "--lora",
        "a",
        "--lora_weight=-0.5",
    ]
    assert jobs_arguments.parse("inpaint", words).model.lora_weights == (-0.5,)
    parsed = jobs_arguments.parse("inpaint", [*words[:-1], "--lora_weight", "-0.5"])
    assert np.isclose(parsed.model.lora_weights[0], -0.5)


# every other job with a model


def shards_of(folder):
    """Three smooth pictures of one class, in one shard."""
    rows = []
    for i in range(3):
        coarse = Image.fromarray(np.random.default_rng(i).integers(0, 255, (3, 3, 3), np.uint8))
        rows.append((f"k{i}", {"png": images.encode(np.asarray(coarse.resize((32, 32), 3))), "cls": b"0"}))
    storage.write(str(folder / "in/s-0.tar"), shards.pack(rows))
    storage.write(str(folder / "in2/s-0.tar"), shards.pack(rows[:2]))
    for i, (_, files) in enumerate(rows):
        storage.write(str(folder / f"{i}.png"), files["png"])
    return folder


CHAIN = ["--inversion.num_steps", 3, "--inversion.skip", 0]
PAIRS = [
    "--features.name",
    "pixels",
    "--pairing.threshold",
    -1,
    "--pairing.upper",
    1,
    "--pairing.hash",
    "null",
]
FD = ["--features.name", "unet", "--metrics", "fd", "--bootstrap", 0]
COMMANDS = {
    "sample": ["sample", "a cat", "--count", 2, "--text.steps", 2],
    "augment": ["augment", "{d}/in", *CHAIN, *PAIRS, "--fusion.modes", "linear", "--prompt.target", "a cat"],
    "fuse": ["fuse", "{d}/0.png", "{d}/1.png", "--prompt.target", "a cat", *CHAIN],
    "sets": ["evaluate", "--input", "{d}/in", "--reference", "{d}/in2", *FD],
    "reconstruction": ["evaluate", "--mode", "reconstruction", "--input", "{d}/in", *CHAIN],
}


def run_of(job, folder, output, *more):
    """The exit code of a small run of a job."""
    name, *told = [str(a).format(d=folder) for a in COMMANDS[job]]
    here = [] if job == "fuse" else ["--cluster.address", "inline", "--cluster.gpus_per_worker", "0"]
    return cli.main([name, *told, "--output", str(output), *here, *map(str, more)])


def outcome(job, output):
    """What a run is for: the pixels that it made, or its figures."""
    if job in ("sets", "reconstruction"):
        return report(output)["figures"]
    if job == "fuse":
        return stored(output / "fused.png").tolist()
    return [stored(io.BytesIO(files["png"])).tolist() for files in read(output).values()]


def told_of(job, output):
    """What was written down of the LoRA files, beside the pictures or in the report."""
    if job == "fuse":
        return [json.loads((output / "fuse.json").read_text())["lora"]]
    beside = lines(output) if job in ("sample", "augment") else []
    return [report(output)["lora"], *(line["lora"] for line in beside)]


@pytest.mark.parametrize("job", COMMANDS)
def test_each_job_takes_loras(kl_folder, tmp_path, capsys, job):
    """Another output, in weight 0 the same; written down; another file or weight is another run, and refused."""
    shards_of(tmp_path)
    path = tmp_path / "a.safetensors"
    path.write_bytes(lora())
    model = ["--model.name", kl_folder]
    files = [*model, "--model.lora", path]
    made = {}
    for name, more in {"none": model, "one": files, "zero": [*files, "--model.lora_weight", 0]}.items():
        assert run_of(job, tmp_path, tmp_path / name, *more) == 0
        made[name] = outcome(job, tmp_path / name)
    assert made["zero"] == made["none"]
    if job != "reconstruction":  # exact with any weights
        assert made["one"] != made["none"]
    sha256 = hashlib.sha256(lora()).hexdigest()
    told = [{"file": "a.safetensors", "sha256": sha256, "weight": 1.0}]
    assert all(said == told for said in told_of(job, tmp_path / "one"))
    assert all(said == [] for said in told_of(job, tmp_path / "none"))
    if job == "fuse":  # which begins anew each time
        return
    assert run_of(job, tmp_path, tmp_path / "one", *files) == 0, "goes on"
    path.write_bytes(lora(1))
    for more in (files, model):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run_of(job, tmp_path, tmp_path / "one", *more)
        assert stop.value.code == 2
        assert "holds a run of another config" in error_line(capsys.readouterr().err)


def test_noise_maps_and_features_that_are_kept_are_of_one_lora(kl_folder, tmp_path, capsys):
    shards_of(tmp_path)
    path = tmp_path / "a.safetensors"
    path.write_bytes(lora())
    model = ["--model.name", kl_folder]
    maps, features = ["--cache", tmp_path / "maps"], ["--features.cache", tmp_path / "features"]
    changes = [[], ["--model.lora", path], ["--model.lora", path, "--model.lora_weight", 0.5]]
    for i, more in enumerate(changes):
        for taken in ("0 of 2", "2 of 2"):
            capsys.readouterr()
            assert run_of("fuse", tmp_path, tmp_path / "f", *model, *more, *maps) == 0
            assert f"noise maps: {taken} from the cache" in capsys.readouterr().out
        assert run_of("sets", tmp_path, tmp_path / f"s{i}", *model, *more, *features) == 0
        assert len(list((tmp_path / "features").iterdir())) == i + 1


@pytest.mark.parametrize("job", COMMANDS)
def test_a_model_that_takes_none_is_one_line_in_each_job(tmp_path, capsys, job):
    shards_of(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(lora())
    for name in ("digits-ddpm", "flowers-flow"):
        more = ["--model.name", name, "--model.lora", tmp_path / "a.safetensors"]
        with pytest.raises(SystemExit) as stop:
            run_of(job, tmp_path, tmp_path / "o", *more)
        assert stop.value.code == 2
        assert "null: a base model takes none" in error_line(capsys.readouterr().err)


def test_a_lora_where_no_model_is_used_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):  # its generator is trained by the job itself
        cli.main(["evaluate", "usefulness", "--model.lora", "a.safetensors"])
    assert "has no option --model.lora" in error_line(capsys.readouterr().err)
    with pytest.raises(SystemExit):
        run_of("sets", tmp_path, tmp_path / "o", "--features.name", "pixels", "--model.lora", "a.safetensors")
    assert "null, as no model is used here" in error_line(capsys.readouterr().err)
