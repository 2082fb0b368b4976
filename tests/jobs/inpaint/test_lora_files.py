"""The inpaint job with LoRA weights: what is painted, what is written down, what is refused."""

import hashlib
import json

import numpy as np
import pytest
import torch
from inpaints import drawn, folders_of, hole, noise, pair, refused, report, started, stored
from safetensors.torch import save

from noiseweave.cluster import storage
from noiseweave.jobs import arguments as jobs_arguments

FAST = ["--steps", 2, "--inpaint.resample", 1, "--seed", 3]


@pytest.fixture
def picture(tmp_path):
    pair(tmp_path, "a.png", noise("RGB", (32, 32)), hole((32, 32)))
    return folders_of(tmp_path)


def lora(seed=0, channels=4, scale=1.0) -> bytes:
    """A file of kohya's for the first convolution of the small pipeline."""
    g = torch.Generator().manual_seed(seed)
    down, up = torch.randn(2, channels, 3, 3, generator=g), torch.randn(32, 2, 1, 1, generator=g)
    key = "lora_unet_conv_in"
    return save({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": scale * up})


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
    assert "lora_weight [1.0] -> [0.5]" in said
    assert "lora [" in refused(capsys, tmp_path / "o", *arguments)
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    assert drawn(tmp_path / "o", *arguments, "--lora", tmp_path / "b.safetensors") == 0, "the same file"
    (tmp_path / "b.safetensors").write_bytes(lora(1))
    changed = refused(capsys, tmp_path / "o", *arguments, "--lora", tmp_path / "b.safetensors")
    assert f"lora ['{sha256[:16]}'] -> [" in changed


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
    assert task.loras[0].read().data == lora()
    (tmp_path / "a.safetensors").write_bytes(lora(1))
    with pytest.raises(ValueError, match="the file has changed since the run began"):
        task.loras[0].read()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lora", "{d}/none"], "no such file or folder; one on the hub"),
        (["--lora", "none://a/b"], "cannot be read"),
        (["--lora", ""], "lora='': files or folders"),
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
        (["--lora_weight", "0.5"], "nothing, as no --lora is given"),
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
    assert words in refused(capsys, tmp_path / "o", *picture, "--model", kl_folder, *FAST, *told)
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
    assert jobs_arguments.parse("inpaint", words).weights == (-0.5,)
    assert np.isclose(
        jobs_arguments.parse("inpaint", [*words[:-1], "--lora_weight", "-0.5"]).weights[0], -0.5
    )
