"""Each job that makes noise of pictures, or fills holes, on a small flow and on linear mixing that train made."""

import json

import numpy as np
import pytest
from augments import BASE, digits, through
from flows import error_line, inline
from fusing import picture, png
from PIL import Image
from training import fresh

from noiseweave.cluster import bfloat16, shards, storage
from noiseweave.cluster.bfloat16 import Gpus
from noiseweave.engine.pictures.images import encode
from noiseweave.jobs import cli

TRAIN = """
steps: 60
batch: 16
log_every: 20
ema: 0.9
model: {classes: -1}
data: {size: 16, channels: 1}
unet: {channels: [8, 16], layers: 1, attention: [], head: 8, groups: 4}
optimizer: {lr: 5.0e-3, warmup: 5}
checkpoint: {every: 60, keep: 1}
preview: {every: 0}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """One shard of 60 labelled digits, 16 x 16."""
    return str(write(tmp_path_factory.mktemp("digits") / "digits.tar", slice(60)).parent)


def write(path, part, every=1):
    image, label = digits()
    rows = [
        (f"{i:02d}", {"png": encode(x[::every, ::every]), "cls": b"%d" % y})
        for i, (x, y) in enumerate(zip(image, label, strict=True))
    ]
    storage.write(str(path), shards.pack(rows[part]))
    return path


@pytest.fixture(scope="module", params=["flow", "linear_mixing"])
def model(request, source, tmp_path_factory):
    """The folder of a class-conditional model that ``train`` made."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "train.yaml").write_text(TRAIN)
    fresh()
    options = ("--config", folder / "train.yaml", "--model.kind", request.param)
    assert inline("train", "--input", source, "--output", folder / "out", *options) == 0
    return folder / "out"


@pytest.mark.parametrize(
    "more",
    [
        (
            "--fusion.variation",
            "0",
            "--prompt.guidance_target",
            "2",
            "--prompt.guidance_interval",
            "[0.2,0.8]",
        ),
        ("--inversion.sampler", "sde-dpm-solver++", "--features.name", "unet"),
        ("--inversion.eta", "0.5", "--pairing.scope", "window"),
    ],
)
def test_augment(model, source, tmp_path, more):
    report, made = through(tmp_path / "out", *BASE, "--model.name", model, "--input", source, *more)
    assert report["failed"] == {}
    assert len(made) == report["samples"] > 0
    for files in made.values():
        known = json.loads(files["json"])
        assert known["prompt"]["source"] == [p["label"] for p in known["parents"]], "each on its own class"
        assert known["eta"] == (0.5 if "0.5" in more else 1)


def test_the_workers_precision_is_in_each_lineage_and_stays_where_the_run_goes_on(
    model, source, tmp_path, monkeypatch, capsys
):
    """Few shifted steps, begun by workers with GPUs and gone on with by others."""
    given = (
        "--model.name",
        model,
        "--input",
        source,
        "--inversion.noise_shift",
        "1",
        "--inversion.num_steps",
        "4",
    )
    monkeypatch.setattr(bfloat16, "workers_gpus", lambda config: Gpus(any=True, bfloat16=True))
    _, made = through(tmp_path / "out", *BASE, *given)
    for files in made.values():
        known = json.loads(files["json"])
        assert (known["precision"], known["noise_shift"], known["num_steps"]) == ("bf16", 1, 4)
    monkeypatch.setattr(bfloat16, "workers_gpus", lambda config: Gpus(any=False, bfloat16=False))
    _, again = through(tmp_path / "out", *BASE, *given)
    assert again == made
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        through(tmp_path / "out", *BASE, *given, "--model.precision", "fp32")
    assert stop.value.code == 2
    assert "model.precision bf16 -> fp32" in error_line(capsys.readouterr().err)


def test_fuse_gives_pictures_back_and_mixes_and_edits_them(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, number in (("a", 3), ("b", 13)):
        (tmp_path / f"{name}.png").write_bytes(encode(digits()[0][number]))
    quick = ("--model.name", str(model), "--inversion.num_steps", "8", "--inversion.skip", "1")
    for ratio, name in (("0", "a"), ("1", "b"), ("0.5", None)):
        assert cli.main(["fuse", "a.png", "b.png", "--ratio", ratio, "--output", f"o{ratio}", *quick]) == 0
        known = json.loads((tmp_path / f"o{ratio}/fuse.json").read_text())
        assert min(row["psnr"] for row in known["inputs"]) > 100
        if name:
            apart = picture(tmp_path / f"o{ratio}/fused.png").astype(int) - picture(tmp_path / f"{name}.png")
            assert np.abs(apart).max() <= 1
    edit = ("--edit.name", "variation", "--edit.strength", "1", "--cache", "maps")
    for _ in range(2):  # the second time from the cache
        assert cli.main(["fuse", "a.png", "--output", "edited", *edit, *quick]) == 0
    assert not np.array_equal(picture(tmp_path / "edited/fused.png"), picture(tmp_path / "a.png"))


def test_inpaint(model, tmp_path):
    hole = np.zeros((16, 16), bool)
    hole[4:12, 5:11] = True
    (tmp_path / "mask.png").write_bytes(png(np.uint8(255) * ~hole))
    (tmp_path / "a.png").write_bytes(encode(digits()[0][3]))
    options = ("--model.name", model, "--image", tmp_path / "a.png", "--mask", tmp_path / "mask.png")
    repaint = ("--steps", "6", "--inpaint.jump_length", "2", "--inpaint.resample", "2", "--feather", "0")
    assert inline("inpaint", "--output", tmp_path / "out", *options, *repaint, "--seed", 1) == 0
    restored = np.asarray(Image.open(next((tmp_path / "out/restored").iterdir())))
    before = np.asarray(Image.open(tmp_path / "a.png"))
    assert np.array_equal(restored[~hole], before[~hole])
    assert (restored[hole] != before[hole]).mean() > 0.5


def test_evaluate_reconstruction(model, source, tmp_path):
    options = ("--input", source, "--model.name", model, "--inversion.num_steps", 6, "--inversion.skip", 1)
    several = ("--compare_samplers", "[ddim,sde-dpm-solver++]")
    output = ("--output", tmp_path / "out")
    assert inline("evaluate", "--mode", "reconstruction", *output, *options, *several) == 0
    figures = json.loads((tmp_path / "out/report.json").read_text())["figures"]
    for sampler in ("ddim", "sde-dpm-solver++"):
        assert figures[f"{sampler} 6 steps, skip 1: model space"]["value"] > 100
    eta = ("--inversion.eta", 0.5, "--output", tmp_path / "eta")
    assert inline("evaluate", "--mode", "reconstruction", *options, *eta) == 0
    figures = json.loads((tmp_path / "eta/report.json").read_text())["figures"]
    assert figures["ddim 6 steps, skip 1, eta 0.5: model space"]["value"] > 100


@pytest.mark.parametrize("kind", ["flow", "linear_mixing"])
def test_evaluate_usefulness(kind, tmp_path):
    write(tmp_path / "input/a.tar", slice(60), 2)
    write(tmp_path / "test/a.tar", slice(60, None), 2)
    (tmp_path / "small.yaml").write_text(f"""
size: 8
per_class: [3]
seeds: 1
classifiers: {{small: {{steps: 5, batch: 8, width: 4}}}}
generator:
  {{kind: {kind}, steps: 3, tuning_steps: 3, batch: 8, unet: {{channels: [8, 16], attention: [], head: 8, groups: 4}}}}
guess: {{sure: 0.2}}
methods:
  real: {{}}
  fused: {{made: fusion, count: 4, inversion: {{num_steps: 3, skip: 1}}}}
  drawn: {{made: samples, count: 4, inversion: {{num_steps: 3, skip: 0}}}}
""")
    sides = ("--input", f"{tmp_path}/input", "--test", f"{tmp_path}/test", "--output", f"{tmp_path}/out")
    assert inline("evaluate usefulness", "--config", tmp_path / "small.yaml", *sides) == 0
    table = json.loads((tmp_path / "out/usefulness.json").read_text())["tables"]["small"]["3"]
    assert {row["method"]: row["added"] for row in table} == {"real": 0, "fused": 4, "drawn": 4}


REFUSED = [
    (("--inversion.num_steps", 1001), "inversion.num_steps=1001"),
    (("--inversion.num_steps", 5, "--inversion.skip", 5), "inversion.skip=5: 0 to num_steps - 1"),
    (("--inversion.eta", 2), "inversion.eta=2.0: 0 to 1"),
    (
        ("--inversion.num_steps", 4, "--inversion.skip", 3, "--inversion.noise_shift", 1),
        "inversion.noise_shift=1.0: below 1, for num_steps - skip is 1 step",
    ),
    (("--prompt.guidance_interval", "[0.8,0.2]"), "prompt.guidance_interval=(0.8, 0.2): 0 to 1"),
    (("--prompt.target", "a rose"), "prompt.target='a rose': model"),
]


@pytest.mark.parametrize(("options", "words"), REFUSED)
def test_what_a_flow_has_not_is_one_clear_line(model, source, tmp_path, capsys, options, words):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        inline("augment", "--model.name", model, "--input", source, "--output", tmp_path / "out", *options)
    assert stop.value.code == 2
    assert words in error_line(capsys.readouterr().err)


def test_what_belongs_to_a_noise_schedule_is_refused_of_a_flow(model, tmp_path, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit):
        inline("sample", "--model.name", model, "--sampler.name", "ddim", "--output", tmp_path / "out")
    assert "it is one of auto, euler" in error_line(capsys.readouterr().err)
