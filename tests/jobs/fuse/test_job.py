"""The fuse job: pictures on the line or in YAML, what it writes, and one line for each mistake."""

import hashlib
import json

import numpy as np
import pytest
import sampling
from flows import DIGITS
from fusing import QUICK, failed, fused, picture, png
from PIL import Image

from noiseweave.cluster import storage
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion import groups
from noiseweave.engine.fusion.recipes import MODES
from noiseweave.engine.networks import loading
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.jobs import arguments as jobs_arguments
from noiseweave.jobs import cli
from noiseweave.jobs.fuse import config as fuse_config
from noiseweave.jobs.fuse import job as fuse

MODEL = ModelConfig(name="digits-ddpm")


def test_what_it_writes(digits, capsys):
    fused("a.png", "b.png", "--output", "out", "--mode", "linear", "--ratio", "0.3")
    names = ["fuse.json", "fused.png", "input-0.png", "input-1.png", "report.html", "sheet.png"]
    assert storage.names_in("out") == names
    assert all(str(digits / "out" / name) in capsys.readouterr().out for name in names[:1])
    seen = [picture(f"out/input-{i}.png") for i in range(2)]
    assert all(image.shape == (16, 16) and image.dtype == np.uint8 for image in seen)
    lineage = json.loads((digits / "out/fuse.json").read_text())
    assert [i["weight"] for i in lineage["inputs"]] == [0.7, 0.3]
    assert lineage["inputs"][0]["sha256"] == hashlib.sha256((digits / "a.png").read_bytes()).hexdigest()
    assert min(i["psnr"] for i in lineage["inputs"]) > 100
    wanted = {"mode": "linear", "num_steps": 8, "skip": 1, "seed": 0, "noise": "independent"}
    assert wanted.items() <= lineage.items()
    assert lineage["model_hash"] == loading.fingerprint(loading.describe("digits-ddpm"))


def test_colour_photos_and_a_model_of_small_grey_ones_are_warned_of(photos, capsys):
    fused("a.png", "b.png", "--output", "out")
    assert "warning" in capsys.readouterr().err
    Image.fromarray(np.full((99, 120, 3), (200, 30, 30), np.uint8)).save("a.png")
    fused("a.png", "--output", "out", "--edit.name", "smooth")
    assert capsys.readouterr().err == (
        "warning: the pictures are 120x99 in colour, model digits-ddpm draws 16x16 in grey: they are made smaller and "
        "they lose their colour\n"
    )


def test_the_picture_is_the_engines(digits):
    fused("a.png", "b.png", "c.png", "--output", "out", "--weights", "[2, 3, 5]", "--seed", "4")
    model = loading.load(ModelConfig(name="digits-ddpm"))
    image_NHWC = np.stack([picture(f"out/input-{i}.png")[..., None] for i in range(3)])
    keys = [hashlib.sha256((digits / f"{n}.png").read_bytes()).hexdigest() for n in "abc"]
    s, maps = groups.invert_pictures(model, image_NHWC, keys, InversionRecipe(num_steps=8, skip=1), 4)
    x_BCHW = groups.fuse_pictures(
        model, groups.Inverted(path=s, maps=maps), [("cross_fade", [0.2, 0.3, 0.5])]
    )
    apart = picture("out/fused.png").astype(int) - model.decode(x_BCHW)[0, ..., 0].astype(int)
    assert np.abs(apart).max() <= 1


@pytest.mark.parametrize(("ratio", "parent"), [("0", 0), ("1", 1)])
def test_the_ends_of_ratio_are_the_pictures(digits, ratio, parent):
    fused("a.png", "b.png", "--output", "out", "--ratio", ratio)
    same = picture("out/fused.png").astype(int) - picture(f"out/input-{parent}.png").astype(int)
    assert np.abs(same).max() <= 1


def test_the_other_sampler(digits):
    line = ("a.png", "b.png", "--inversion.sampler", "sde-dpm-solver++")
    fused(*line, "--output", "out")
    fused(*line, "--output", "end", "--ratio", "1")
    lineage = json.loads((digits / "out/fuse.json").read_text())
    assert lineage["sampler"] == "sde-dpm-solver++"
    assert min(i["psnr"] for i in lineage["inputs"]) > 100
    assert np.abs(picture("end/fused.png").astype(int) - picture("end/input-1.png")).max() <= 1
    fused("a.png", "b.png", "--output", "ddim")
    assert (digits / "out/fused.png").read_bytes() != (digits / "ddim/fused.png").read_bytes()


def test_a_result_depends_on_bytes_and_seed_alone(digits):
    fused("a.png", "b.png", "--output", "one")
    (digits / "moved.png").write_bytes((digits / "a.png").read_bytes())
    fused("moved.png", "b.png", "--output", "two")
    fused("a.png", "b.png", "--output", "three", "--seed", "1")
    one, two, three = ((digits / n / "fused.png").read_bytes() for n in ("one", "two", "three"))
    assert one == two != three


def test_sweep_is_the_grid_of_one_inversion_each(digits, monkeypatch):
    calls = []
    invert = groups.invert_pictures
    monkeypatch.setattr(groups, "invert_pictures", lambda *a: calls.append(len(a[1])) or invert(*a))
    fused("a.png", "b.png", "--output", "out", "--sweep", "true", "--ratios", "[0, 1]")
    assert calls == [2]
    page = picture("out/sweep.png")
    fused("a.png", "b.png", "--output", "wide", "--sweep", "true", "--ratios", "[0, 0.2, 0.4, 0.6, 0.8, 1]")
    assert picture("wide/sweep.png").shape[1] > page.shape[1]
    lineage = json.loads((digits / "out/fuse.json").read_text())
    assert lineage["sweep"] == {"modes": list(MODES), "ratios": [0.0, 1.0]}
    assert "sweep.png" in lineage["files"]


def test_grid():
    config = fuse_config.Config(model=MODEL, images=("a", "b", "c"), output="o", ratios=(0.0, 0.5))
    cells = fuse.grid(config)
    assert [m for m, _ in cells] == [m for m in MODES for _ in range(2)]
    assert cells[0][1] == [1, 0, 0]
    assert cells[1][1] == [0.5, 0.25, 0.25]


def test_shares():
    def make(n, **more):
        return fuse_config.Config(model=MODEL, images=tuple("abcd"[:n]), output="o", **more).shares

    assert make(2) == [0.5, 0.5]
    assert make(2, fusion=fuse_config.FuseRecipe(ratio=0.25)) == [0.75, 0.25]
    assert make(4) == [0.25] * 4
    assert make(2, weights=(1.0, 3.0)) == [0.25, 0.75]


def test_the_pictures_and_the_seed_draw_one_of_several_modes(digits):
    config = fuse_config.Config(
        model=MODEL,
        images=("a", "b"),
        output="o",
        fusion=fuse_config.FuseRecipe(modes=("linear", "layer_selective")),
    )
    seen = [fuse_config.drawn(config, [str(i), "b"]).mode for i in range(40)]
    assert set(seen) == {"linear", "layer_selective"}
    assert seen == [fuse_config.drawn(config, [str(i), "b"]).mode for i in range(40)]
    fused("a.png", "b.png", "--output", "out", "--mode", "random", "--fusion.ratio", "0.3")
    mode = json.loads((digits / "out/fuse.json").read_text())["mode"]
    fused("a.png", "b.png", "--output", "again", "--fusion_mode", mode, "--fusion_ratio", "0.3")
    assert (digits / "out/fused.png").read_bytes() == (digits / "again/fused.png").read_bytes()


def test_pictures_from_yaml(digits):
    (digits / "list.yaml").write_text("images: [a.png, b.png, c.png]\nweights: [1, 1, 2]\noutput: out\n")
    fused("--config", "list.yaml")
    lineage = json.loads((digits / "out/fuse.json").read_text())
    assert [i["path"] for i in lineage["inputs"]] == ["a.png", "b.png", "c.png"]
    assert [i["weight"] for i in lineage["inputs"]] == [0.25, 0.25, 0.5]


def test_pictures_anywhere_on_the_line_go_before_yaml(digits, capsys):
    (digits / "list.yaml").write_text("images: [a.png, b.png, c.png]\noutput: out\n")
    line = [
        *DIGITS,
        "c.png",
        "--config",
        "list.yaml",
        "--mode=linear",
        "--seed",
        "-1",
        "a.png",
        *QUICK,
        "--",
        "b.png",
    ]
    assert cli.main(["fuse", *line]) == 0
    lineage = json.loads((digits / "out/fuse.json").read_text())
    assert [i["path"] for i in lineage["inputs"]] == ["c.png", "a.png", "b.png"]
    assert (lineage["mode"], lineage["seed"]) == ("linear", -1)


def test_print_config_has_the_pictures(digits, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["fuse", *DIGITS, "a.png", "b.png", "--output", "out", "--print_config"])
    assert stop.value.code == 0
    (digits / "list.yaml").write_text(capsys.readouterr().out)
    config = jobs_arguments.parse("fuse", ["--config", "list.yaml"])
    assert config == fuse_config.Config(model=MODEL, images=("a.png", "b.png"), output="out")


def test_urls(digits):
    for name in "ab":
        storage.write(f"memory://pictures/{name}.png", (digits / f"{name}.png").read_bytes())
    fused("memory://pictures/a.png", "memory://pictures/b.png", "--output", "memory://fused")
    assert "fused.png" in storage.names_in("memory://fused")


def test_an_existing_folder_keeps_its_other_files(digits):
    (digits / "out").mkdir()
    for name in ("mine.txt", "input-7.png", "fused.png"):
        (digits / "out" / name).write_text("mine")
    fused("a.png", "b.png", "--output", "out")
    assert (digits / "out/mine.txt").read_text() == (digits / "out/input-7.png").read_text() == "mine"
    assert picture("out/fused.png").shape == (16, 16)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "images=[]: two or more pictures"),
        (["a.png"], "images=['a.png']: two or more pictures, or one and prompt.target"),
        (["--prompt.target", "a cat"], "images=[]: two or more pictures, or one and prompt.target"),
        (["a.png", "--prompt.target", "a cat"], "prompt.target='a cat': model 'digits-ddpm' reads no words"),
        (["a.png", "b.png", "--prompt.source", "x"], "prompt.source='x': model 'digits-ddpm' reads no words"),
        (["a.png", "b.png", "--prompt.template", "a {label}"], "prompt.template='a {label}': null for fuse"),
        (["a.png", "--prompt.target", "a {label}"], "prompt.target='a {label}': a plain text for fuse"),
        (["a.png", "--prompt.target", "x", "--sweep"], "images=['a.png']: two, for fusion.ratio or sweep"),
        (["a.png", "b.png", "--prompt.guidance_target", "0"], "prompt.guidance_target=0.0: 1 (off) to 100"),
        (["a.png", "b.png", "--size", "32"], "size=32: model 'digits-ddpm' works on pixels"),
        (["a.png", "b.png", "--ratio", "1.5"], "fusion.ratio=1.5: 0 to 1"),
        (["a.png", "b.png", "--ratio", "nan"], "ratio"),
        (["a.png", "b.png", "--ratio", "1", "--weights", "[1, 1]"], "either fusion.ratio or weights"),
        (["a.png", "b.png", "--weights", "[1, 1, 1]"], "[1.0, 1.0, 1.0]: one for each of the 2 pictures"),
        (["a.png", "b.png", "--weights", "[0, 0]"], "weights=[0.0, 0.0]"),
        (["a.png", "b.png", "--weights", "[-1, 2]"], "weights=[-1.0, 2.0]"),
        (["a.png", "b.png", "--ratios", "[]"], "ratios=[]"),
        (["a.png", "b.png", "--ratios", "[2]"], "ratios=[2.0]"),
        (["a.png", "b.png", "--mode", "dissolve"], "dissolve"),
        (["a.png", "gone.png"], "picture 'gone.png': no such file"),
        (["a.png", "broken.png"], "picture 'broken.png': truncated_image"),
        (["a.png", "note.txt"], "picture 'note.txt': not_an_image"),
        (["a.png", "folder"], "picture 'folder': "),
        (["a.png", "b.png", "--model.name", "no-such-model"], "model 'no-such-model'"),
        (["a.png", "b.png", "--inversion.num_steps", "1001"], "inversion.num_steps=1001"),
        (["a.png", "b.png", "--inversion.sampler", "euler"], "euler"),
        (["a.png", "b.png", "--edit.name", "smooth"], "images=['a.png', 'b.png']: one for an edit"),
        (["a.png", "b.png", "--cache", "note.txt/maps"], "note.txt/maps' cannot be written"),
        (["a.png", "--edit.strength", "1.5"], "edit.strength=1.5: 0 to 1"),
        (
            ["a.png", "b.png", "--edit.name", "style", "--ratio", "1"],
            "edit.name='style': without fusion.ratio",
        ),
        (["a.png", "b.png", "--fusion.region.source", "file"], "fusion.region.mask=None: a picture"),
        (
            ["a.png", "b.png", "--fusion.region.mask", "a.png"],
            "region.mask='a.png': a picture, with fusion.region",
        ),
        (
            ["a.png", "b.png", "a.png", "--fusion.region.source", "saliency"],
            "region.source='saliency': everywhere",
        ),
        (
            ["a.png", "b.png", "--fusion.region.source", "file", "--fusion.region.mask", "gone.png"],
            "picture 'gone.png'",
        ),
        (
            ["a.png", "b.png", "--fusion.region.source", "file", "--fusion.region.mask", "dim.png"],
            "fusion.region.mask 'dim.png': bad_mask: its two values are 0 and 100 of 255, both dark",
        ),
        (
            ["a.png", "b.png", "--fusion.region.source", "file", "--fusion.region.mask", "wide.png"],
            "fusion.region.mask 'wide.png': mask_does_not_fit: it is 32x16",
        ),
        (
            ["a.png", "b.png", "--inversion.sampler", "sde-dpm-solver++", "--inversion.num_steps", "1000"],
            "inversion.num_steps=1000: too many for sde-dpm-solver++",
        ),
    ],
)
def test_a_mistake_is_one_line(digits, capsys, monkeypatch, arguments, words):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (digits / "broken.png").write_bytes((digits / "a.png").read_bytes()[:70])
    (digits / "note.txt").write_text("no picture")
    for name, shape in (("dim", (16, 16)), ("wide", (16, 32))):
        mask = np.zeros(shape, np.uint8)
        mask[:, 8:] = 100 if name == "dim" else 255
        (digits / f"{name}.png").write_bytes(png(mask))
    (digits / "folder").mkdir()
    assert words in failed(capsys, *arguments, "--output", "out")
    assert not (digits / "out").exists()


def test_an_output_that_cannot_be_written(digits, capsys):
    (digits / "file").write_text("x")
    assert "output" in failed(capsys, "a.png", "b.png", "--output", "file/out")


def test_a_used_folder_is_left_as_a_new_one_would_be(digits):
    """What an earlier fuse of more pictures and a sweep left does not stand beside the new ones."""
    fused("a.png", "b.png", "c.png", "--output", "out", "--sweep", "true")
    (digits / "out/input-7.png").write_text("mine")
    fused("b.png", "a.png", "--output", "out")
    fused("b.png", "a.png", "--output", "new")
    assert set(storage.names_in("out")) == {*storage.names_in("new"), "input-7.png"}
    for name in ("fused.png", "input-0.png"):
        assert (digits / "out" / name).read_bytes() == (digits / "new" / name).read_bytes()


def test_a_lineage_that_was_written_by_others_deletes_no_file_of_theirs(digits):
    (digits / "out").mkdir()
    (digits / "out/fuse.json").write_text('{"files": ["../a.png", "mine.txt", 7]}')
    (digits / "out/mine.txt").write_text("mine")
    fused("a.png", "b.png", "--output", "out")
    assert (digits / "out/mine.txt").exists()
    assert (digits / "a.png").exists()


def test_a_folder_of_another_run_is_refused_and_a_picture_is_never_written_over(digits, capsys):
    storage.write_json(str(digits / "run/_run/config.json"), {"job": "augment"})
    assert "holds a run of augment" in failed(capsys, "a.png", "b.png", "--output", "run")
    fused("a.png", "b.png", "--output", "out")
    before = (digits / "out/input-1.png").read_bytes()
    line = failed(capsys, "out/fused.png", "out/input-1.png", "--output", "out")
    assert "fuse would write over 'out/fused.png'" in line
    assert (digits / "out/input-1.png").read_bytes() == before


def test_fresh_noise_is_said_and_drawn_from_the_seed(digits):
    line = ("a.png", "b.png", "--ratio", "0.5", "--fusion.variation", "0.6")
    for name, seed in (("one", "0"), ("same", "0"), ("other", "1")):
        fused(*line, "--output", name, "--seed", seed)
    fused("a.png", "b.png", "--ratio", "0.5", "--output", "none")
    one, same, other, none = (picture(f"{name}/fused.png") for name in ("one", "same", "other", "none"))
    assert (one == same).all()
    assert (one != other).any()
    assert (one != none).any()
    assert json.loads((digits / "one/fuse.json").read_text())["variation"] == 0.6


def test_fresh_noise_outside_of_its_range_is_one_line(digits, capsys):
    error = failed(capsys, "a.png", "b.png", "--output", "out", "--fusion.variation", "1.5")
    assert "fusion.variation=1.5: 0 to 1" in error


def test_a_class_conditional_model_is_told_the_pictures_classes(digits, tmp_path, capsys):
    name = sampling.tiny(tmp_path / "model", "flow", classes=3)
    storage.write_json(f"{name}/classes.json", ["oak", "rose", "tulip"])
    two = ("a.png", "b.png", "--model.name", name, "--prompt.guidance_target", "5")
    made = {}
    for labels in ("rose", "1", "1,rose", "rose,tulip", None):
        more = ("--labels", labels) if labels else ()
        fused(*two, "--output", "out", *more)
        told = json.loads((digits / "out/fuse.json").read_text()).get("prompt", {}).get("source")
        made[labels] = told, (digits / "out/fused.png").read_bytes()
    assert made["rose"] == made["1"] == made["1,rose"]
    assert [told for told, _ in made.values()] == [[1, 1], [1, 1], [1, 1], [1, 2], None]
    assert len({raw for _, raw in made.values()}) == 3
    capsys.readouterr()
    wrong = {
        "elm": "labels='elm': a class of the model: oak, rose, tulip, or a number below 3",
        "3": "labels='3': a class of the model",
        "0,1,2": "labels='0,1,2': one class, or one for each of the 2 pictures",
    }
    for labels, words in wrong.items():
        assert words in failed(capsys, *two, "--output", "out2", "--labels", labels)
    digits_model = ("a.png", "b.png", "--output", "out2", "--labels", "3")
    assert "labels='3': null: model 'digits-ddpm' is conditioned on no class" in failed(capsys, *digits_model)
