"""The fuse job: pictures on the line or in YAML, what it writes, and one line for each mistake."""

import hashlib
import io
import json

import numpy as np
import pytest
import small_pipeline
import torch
from PIL import Image
from sklearn.datasets import load_digits

from noiseweave.cluster import storage
from noiseweave.engine import augmentation, backbone, edits, regions, replay
from noiseweave.engine.recipes import MODES, InversionRecipe, ModelConfig, PromptRecipe
from noiseweave.jobs import cli, fuse

QUICK = ("--inversion.num_steps", "8", "--inversion.skip", "1")


def png(image) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def picture(path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """a.png, b.png and c.png in the current folder: 8x8 digits, to be fitted to 16x16."""
    monkeypatch.chdir(tmp_path)
    for name, image in zip("abc", load_digits().images[[3, 8, 5]], strict=True):
        (tmp_path / f"{name}.png").write_bytes(png((image * 255 / 16).round().astype(np.uint8)))
    return tmp_path


def fused(*arguments: str) -> None:
    assert cli.main(["fuse", *arguments, *QUICK]) == 0


def failed(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main(["fuse", *arguments])
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_what_it_writes(digits, capsys):
    fused("a.png", "b.png", "--output", "out", "--mode", "linear", "--ratio", "0.3")
    names = ["fuse.json", "fused.png", "input-0.png", "input-1.png", "sheet.png"]
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
    assert lineage["model_hash"] == backbone.fingerprint("digits-ddpm")


def test_the_picture_is_the_engines(digits):
    fused("a.png", "b.png", "c.png", "--output", "out", "--weights", "[2, 3, 5]", "--seed", "4")
    model = backbone.load(ModelConfig())
    image_NHWC = np.stack([picture(f"out/input-{i}.png")[..., None] for i in range(3)])
    keys = [hashlib.sha256((digits / f"{n}.png").read_bytes()).hexdigest() for n in "abc"]
    s, maps = augmentation.invert_pictures(model, image_NHWC, keys, InversionRecipe(num_steps=8, skip=1), 4)
    x_BCHW = augmentation.fuse_pictures(model, s, maps, [("cross_fade", [0.2, 0.3, 0.5])])
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
    invert = augmentation.invert_pictures
    monkeypatch.setattr(augmentation, "invert_pictures", lambda *a: calls.append(len(a[1])) or invert(*a))
    fused("a.png", "b.png", "--output", "out", "--sweep", "true", "--ratios", "[0, 1]")
    assert calls == [2]
    page = picture("out/sweep.png")
    fused("a.png", "b.png", "--output", "wide", "--sweep", "true", "--ratios", "[0, 0.2, 0.4, 0.6, 0.8, 1]")
    assert picture("wide/sweep.png").shape[1] > page.shape[1]
    lineage = json.loads((digits / "out/fuse.json").read_text())
    assert lineage["sweep"] == {"modes": list(MODES), "ratios": [0.0, 1.0]}
    assert "sweep.png" in lineage["files"]


def test_grid():
    config = fuse.Config(images=("a", "b", "c"), output="o", ratios=(0.0, 0.5))
    cells = fuse.grid(config)
    assert [m for m, _ in cells] == [m for m in MODES for _ in range(2)]
    assert cells[0][1] == [1, 0, 0]
    assert cells[1][1] == [0.5, 0.25, 0.25]


def test_shares():
    make = lambda n, **more: fuse.Config(images=tuple("abcd"[:n]), output="o", **more).shares  # noqa: E731
    assert make(2) == [0.5, 0.5]
    assert make(2, ratio=0.25) == [0.75, 0.25]
    assert make(4) == [0.25] * 4
    assert make(2, weights=(1.0, 3.0)) == [0.25, 0.75]


def test_pictures_from_yaml(digits):
    (digits / "list.yaml").write_text("images: [a.png, b.png, c.png]\nweights: [1, 1, 2]\noutput: out\n")
    fused("--config", "list.yaml")
    lineage = json.loads((digits / "out/fuse.json").read_text())
    assert [i["path"] for i in lineage["inputs"]] == ["a.png", "b.png", "c.png"]
    assert [i["weight"] for i in lineage["inputs"]] == [0.25, 0.25, 0.5]


def test_pictures_anywhere_on_the_line_go_before_yaml(digits, capsys):
    (digits / "list.yaml").write_text("images: [a.png, b.png, c.png]\noutput: out\n")
    line = ["c.png", "--config", "list.yaml", "--mode=linear", "--seed", "-1", "a.png", *QUICK, "--", "b.png"]
    assert cli.main(["fuse", *line]) == 0
    lineage = json.loads((digits / "out/fuse.json").read_text())
    assert [i["path"] for i in lineage["inputs"]] == ["c.png", "a.png", "b.png"]
    assert (lineage["mode"], lineage["seed"]) == ("linear", -1)


def test_print_config_has_the_pictures(digits, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["fuse", "a.png", "b.png", "--output", "out", "--print_config"])
    assert stop.value.code == 0
    (digits / "list.yaml").write_text(capsys.readouterr().out)
    _, config = cli.parse("fuse", ["--config", "list.yaml"])
    assert config == fuse.Config(images=("a.png", "b.png"), output="out")


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


@pytest.mark.parametrize("name", ["smooth", "contrast", "style", "variation"])
def test_an_edit_of_one_picture(digits, name):
    fused("a.png", "--output", "out", "--edit.name", name, "--edit.strength", "0.8")
    assert storage.names_in("out") == ["fuse.json", "fused.png", "input-0.png", "sheet.png"]
    lineage = json.loads((digits / "out/fuse.json").read_text())
    assert lineage["edit"] == {"name": name, "strength": 0.8}
    assert [i["weight"] for i in lineage["inputs"]] == [1.0]
    model, key = backbone.load(ModelConfig()), hashlib.sha256((digits / "a.png").read_bytes()).hexdigest()
    image = picture("out/input-0.png")
    recipe = InversionRecipe(num_steps=8, skip=1)
    s, (maps,) = augmentation.invert_pictures(model, image[None, ..., None], [key], recipe, 0)
    wanted = edits.edit(maps, s, name, 0.8, edits.fresh_noise(maps, 0, key))
    x_BCHW = replay.replay(model.epsilon, s, [wanted])
    apart = picture("out/fused.png").astype(int) - model.decode(x_BCHW)[0, ..., 0]
    assert np.abs(apart).max() <= 1
    assert np.abs(picture("out/fused.png").astype(int) - image).max() > 1


def test_an_edit_of_no_strength_is_the_picture_and_style_has_a_reference(digits):
    fused("a.png", "--output", "none", "--edit.name", "variation", "--edit.strength", "0")
    assert np.abs(picture("none/fused.png").astype(int) - picture("none/input-0.png")).max() <= 1
    fused("a.png", "--output", "drawn", "--edit.name", "style")
    fused("a.png", "b.png", "--output", "like", "--edit.name", "style")
    assert (digits / "drawn/fused.png").read_bytes() != (digits / "like/fused.png").read_bytes()
    lineage = json.loads((digits / "like/fuse.json").read_text())
    assert [i["weight"] for i in lineage["inputs"]] == [1.0, 0.0]


def test_a_second_command_takes_its_noise_maps_from_the_cache(digits, monkeypatch, capsys):
    calls = []
    invert = augmentation.invert_pictures
    monkeypatch.setattr(augmentation, "invert_pictures", lambda *a: calls.append(len(a[1])) or invert(*a))
    fused("a.png", "b.png", "--output", "one", "--cache", "maps")
    assert "noise maps: 0 of 2 from the cache" in capsys.readouterr().out
    more = ("--mode", "linear", "--ratio", "0.3")
    fused("b.png", "c.png", "a.png", "--output", "two", "--cache", "maps", *more)
    assert "noise maps: 2 of 3 from the cache" in capsys.readouterr().out
    fused("b.png", "a.png", "--output", "three", "--cache", "maps", *more)
    fused("b.png", "a.png", "--output", "plain", *more)
    assert calls == [2, 1, 2]
    apart = picture("three/fused.png").astype(int) - picture("plain/fused.png")
    assert np.abs(apart).max() <= 1
    for change in (
        ["--seed", "1"],
        ["--inversion.sampler", "sde-dpm-solver++"],
        ["--inversion.noise", "shared"],
    ):
        fused("a.png", "b.png", "--output", "other", "--cache", "maps", *change)
        assert "noise maps: 0 of 2 from the cache" in capsys.readouterr().out


@pytest.mark.parametrize(("grey", "parent"), [(0, 0), (255, 1)])
def test_a_mask_of_one_grey_is_a_parent(digits, grey, parent):
    (digits / "mask.png").write_bytes(png(np.full((8, 8), grey, np.uint8)))
    fused("a.png", "b.png", "--output", "out", "--region.source", "file", "--region.mask", "mask.png")
    assert np.abs(picture("out/fused.png").astype(int) - picture(f"out/input-{parent}.png")).max() <= 1
    region = json.loads((digits / "out/fuse.json").read_text())["region"]
    assert region["mask_sha256"] == hashlib.sha256((digits / "mask.png").read_bytes()).hexdigest()


def test_regions_are_the_engines(digits):
    half = np.zeros((16, 16), np.uint8)
    half[:, 8:] = 255
    (digits / "mask.png").write_bytes(png(half))
    fused("a.png", "b.png", "--output", "file", "--region.source", "file", "--region.mask", "mask.png")
    fused("a.png", "b.png", "--output", "own", "--region.source", "saliency", "--ratio", "0.7")
    model = backbone.load(ModelConfig())
    image_NHWC = np.stack([picture(f"own/input-{i}.png")[..., None] for i in range(2)])
    keys = [hashlib.sha256((digits / f"{n}.png").read_bytes()).hexdigest() for n in "ab"]
    s, maps = augmentation.invert_pictures(model, image_NHWC, keys, InversionRecipe(num_steps=8, skip=1), 0)
    wanted = [
        regions.blend(*maps, torch.from_numpy(half / 255)),
        regions.fuse_region(maps, [0.3, 0.7], "cross_fade", regions.saliency(maps[1])),
    ]
    for name, image in zip(
        ["file", "own"], model.decode(replay.replay(model.epsilon, s, wanted)), strict=True
    ):
        assert np.abs(picture(f"{name}/fused.png").astype(int) - image[..., 0]).max() <= 1


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
        (["a.png", "--prompt.target", "x", "--sweep"], "images=['a.png']: two, for ratio or sweep"),
        (["a.png", "b.png", "--prompt.guidance_target", "0"], "prompt.guidance_target=0.0: 1 (off) to 100"),
        (["a.png", "b.png", "--size", "32"], "size=32: model 'digits-ddpm' works on pixels"),
        (["a.png", "b.png", "--ratio", "1.5"], "ratio=1.5: 0 to 1"),
        (["a.png", "b.png", "--ratio", "nan"], "ratio"),
        (["a.png", "b.png", "--ratio", "1", "--weights", "[1, 1]"], "either ratio or weights"),
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
        (["a.png", "b.png", "--edit.name", "style", "--ratio", "1"], "edit.name='style': without ratio"),
        (["a.png", "b.png", "--region.source", "file"], "region.mask=None: a picture"),
        (["a.png", "b.png", "--region.mask", "a.png"], "region.mask='a.png': a picture, with region.source"),
        (["a.png", "b.png", "a.png", "--region.source", "saliency"], "region.source='saliency': everywhere"),
        (["a.png", "b.png", "--region.source", "file", "--region.mask", "gone.png"], "picture 'gone.png'"),
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
    (digits / "folder").mkdir()
    assert words in failed(capsys, *arguments, "--output", "out")
    assert not (digits / "out").exists()


def test_an_output_that_cannot_be_written(digits, capsys):
    (digits / "file").write_text("x")
    assert "output" in failed(capsys, "a.png", "b.png", "--output", "file/out")


# models that read words


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    return str(small_pipeline.build(tmp_path_factory.mktemp("sd") / "small", size=32))


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """a.png, b.png and c.png in the current folder: smooth colours, 32 x 32."""
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate("abc"):
        coarse = np.random.default_rng(i).integers(0, 255, (3, 3, 3), np.uint8)
        (tmp_path / f"{name}.png").write_bytes(png(np.asarray(Image.fromarray(coarse).resize((32, 32), 3))))
    return tmp_path


def engines(model, photos, names, prompts, weights):
    """The picture of the engine's own functions, for the recipe of ``fused``."""
    image_NHWC = np.stack([picture(photos / f"{n}.png") for n in names])
    keys = [hashlib.sha256((photos / f"{n}.png").read_bytes()).hexdigest() for n in names]
    recipe = InversionRecipe(num_steps=8, skip=1)
    s, maps = augmentation.invert_pictures(model, image_NHWC, keys, recipe, 0, prompts)
    return model.decode(
        augmentation.fuse_pictures(model, s, maps, [("cross_fade", weights)], prompts=prompts)
    )[0]


def test_one_picture_and_a_target_are_an_edit(photos, painter, capsys):
    fused(
        "a.png",
        "--output",
        "out",
        "--model.name",
        painter,
        "--prompt.source",
        "a cat",
        "--prompt.target",
        "a dog",
    )
    assert storage.names_in("out") == ["fuse.json", "fused.png", "input-0.png", "sheet.png"]
    lineage = json.loads((photos / "out/fuse.json").read_text())
    assert lineage["prompt"] == {
        "source": ["a cat"], "target": ["a dog"], "guidance_source": 3.5, "guidance_target": 15.0,
    }  # fmt: skip
    assert [i["weight"] for i in lineage["inputs"]] == [1.0]
    assert lineage["inputs"][0]["psnr"] > 100
    assert "latents back at 1" in capsys.readouterr().out
    model = backbone.load(ModelConfig(name=painter))
    told = PromptRecipe(source="a cat", target="a dog").of([None], [None])
    apart = picture("out/fused.png").astype(int) - engines(model, photos, "a", told, [1.0])
    assert np.abs(apart).max() <= 1
    assert (
        np.abs(
            picture("out/fused.png").astype(int) - model.decode(model.encode(picture("a.png")[None]))[0]
        ).max()
        > 20
    )


def test_pictures_told_each_its_own_are_fused_in_latent_space(photos, painter):
    texts = '["a cat", "a dog", ""]'
    fused("a.png", "b.png", "c.png", "--output", "out", "--model.name", painter, "--prompt.source", texts)
    lineage = json.loads((photos / "out/fuse.json").read_text())
    assert lineage["prompt"]["source"] == lineage["prompt"]["target"] == ["a cat", "a dog", ""]
    assert lineage["prompt"]["guidance_target"] == 1
    model = backbone.load(ModelConfig(name=painter))
    told = PromptRecipe(source=("a cat", "a dog", "")).of([None] * 3, [None] * 3)
    apart = picture("out/fused.png").astype(int) - engines(model, photos, "abc", told, [1, 1, 1])
    assert np.abs(apart).max() <= 1


def test_the_cache_tells_source_texts_and_guidance_apart(photos, painter, capsys):
    def hits(*more):
        fused("a.png", "b.png", "--output", "out", "--model.name", painter, "--cache", "maps", *more)
        return capsys.readouterr().out.split("noise maps: ")[1][:6]

    assert hits("--prompt.source", '["a cat", "a dog"]') == "0 of 2"
    assert hits("--prompt.source", '["a cat", "an owl"]', "--ratio", "0.2") == "1 of 2"
    assert hits("--prompt.source", "a cat", "--prompt.guidance_source", "2") == "0 of 2"


def test_another_size_and_words_that_are_cut(photos, painter, capsys):
    long = "very " * 76 + "old dog"
    fused(
        "a.png", "b.png", "--output", "out", "--model.name", painter, "--size", "40", "--prompt.target", long,
        "--prompt.guidance_target", "2",
    )  # fmt: skip
    assert picture("out/fused.png").shape == (40, 40, 3)
    assert capsys.readouterr().err == "longer than the text encoder reads, cut: ...very old dog\n"


def test_mistakes_with_a_latent_model_are_one_line(photos, painter, capsys):
    of = ("a.png", "b.png", "--output", "out", "--model.name", painter)
    assert "size=36: for model" in failed(capsys, *of, "--size", "36")
    assert "one for each of the 2 pictures" in failed(capsys, *of, "--prompt.source", '["a", "b", "c"]')
    assert not (photos / "out").exists()
