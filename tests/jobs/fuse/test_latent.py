"""The fuse job on latent models: text-guided editing of one picture, fusion of several, edits and regions."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fusing import QUICK, failed, fused, picture, png
from small_pipeline import flag_above, flag_everything, unsafety

from noiseweave.cluster import storage
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion import groups
from noiseweave.engine.networks import loading
from noiseweave.engine.networks.recipes import ModelConfig, PromptRecipe
from noiseweave.engine.seeding import seed_of
from noiseweave.jobs import cli


def engines(model, photos, names, prompts, weights):
    """The picture of the engine's own functions, for the recipe of ``fused``."""
    image_NHWC = np.stack([picture(photos / f"{n}.png") for n in names])
    keys = [hashlib.sha256((photos / f"{n}.png").read_bytes()).hexdigest() for n in names]
    recipe = InversionRecipe(num_steps=8, skip=1)
    s, maps = groups.invert_pictures(model, image_NHWC, keys, recipe, 0, prompts)
    return model.decode(
        groups.fuse_pictures(
            model, groups.Inverted(path=s, maps=maps, prompts=prompts), [("cross_fade", weights)]
        )
    )[0]


def test_one_picture_and_a_target_are_an_edit(photos, sd_folder, capsys):
    fused(
        "a.png",
        "--output",
        "out",
        "--model.name",
        str(sd_folder),
        "--prompt.source",
        "a cat",
        "--prompt.target",
        "a dog",
    )
    assert storage.names_in("out") == ["fuse.json", "fused.png", "input-0.png", "report.html", "sheet.png"]
    lineage = json.loads((photos / "out/fuse.json").read_text())
    assert lineage["prompt"] == {
        "source": ["a cat"],
        "target": ["a dog"],
        "guidance_source": 3.5,
        "guidance_target": 15.0,
        "guidance_interval": [0.0, 1.0],
    }
    assert [i["weight"] for i in lineage["inputs"]] == [1.0]
    assert lineage["inputs"][0]["psnr"] > 100
    assert "latents back at 1" in capsys.readouterr().out
    model = loading.load(ModelConfig(name=str(sd_folder)))
    told = PromptRecipe(source="a cat", target="a dog").of([None], [None])
    apart = picture("out/fused.png").astype(int) - engines(model, photos, "a", told, [1.0])
    assert np.abs(apart).max() <= 1
    assert (
        np.abs(
            picture("out/fused.png").astype(int) - model.decode(model.encode(picture("a.png")[None]))[0]
        ).max()
        > 20
    )


def test_pictures_told_each_its_own_are_fused_in_latent_space(photos, sd_folder):
    texts = '["a cat", "a dog", ""]'
    fused(
        "a.png", "b.png", "c.png", "--output", "out", "--model.name", str(sd_folder), "--prompt.source", texts
    )
    lineage = json.loads((photos / "out/fuse.json").read_text())
    assert lineage["prompt"]["source"] == lineage["prompt"]["target"] == ["a cat", "a dog", ""]
    assert lineage["prompt"]["guidance_target"] == 1
    model = loading.load(ModelConfig(name=str(sd_folder)))
    told = PromptRecipe(source=("a cat", "a dog", "")).of([None] * 3, [None] * 3)
    apart = picture("out/fused.png").astype(int) - engines(model, photos, "abc", told, [1, 1, 1])
    assert np.abs(apart).max() <= 1


def test_another_size_and_words_that_are_cut(photos, sd_folder, capsys):
    long = "very " * 76 + "old dog"
    fused(
        "a.png",
        "b.png",
        "--output",
        "out",
        "--model.name",
        str(sd_folder),
        "--size",
        "40",
        "--prompt.target",
        long,
        "--prompt.guidance_target",
        "2",
    )
    assert picture("out/fused.png").shape == (40, 40, 3)
    assert capsys.readouterr().err == "prompt truncated, the text encoder does not read: ...very old dog\n"


def test_mistakes_with_a_latent_model_are_one_line(photos, sd_folder, capsys):
    of = ("a.png", "b.png", "--output", "out", "--model.name", str(sd_folder))
    assert "size=36: for model" in failed(capsys, *of, "--size", "36")
    assert "one for each of the 2 pictures" in failed(capsys, *of, "--prompt.source", '["a", "b", "c"]')
    assert not (photos / "out").exists()


def through_the_vae(folder, name):
    """What the VAE keeps of a picture: where invert and replay are exact, nothing else is lost."""
    model = loading.load(ModelConfig(name=str(folder)))
    return model.decode(model.encode(picture(name)[None]))[0].astype(int)


@pytest.mark.parametrize("sampler", ["ddim", "sde-dpm-solver++"])
def test_an_edit_of_no_strength_is_the_picture(photos, sd_folder, sampler):
    how = ("--model.name", str(sd_folder), "--inversion.sampler", sampler)
    fused("a.png", "--output", "out", *how, "--edit.name", "smooth", "--edit.strength", "0")
    assert np.abs(picture("out/fused.png") - through_the_vae(sd_folder, "a.png")).max() <= 1
    (known,) = json.loads((photos / "out/fuse.json").read_text())["inputs"]
    assert known["psnr"] > 100


def test_a_mask_is_fitted_to_latents(photos, sd_folder):
    right = np.zeros((32, 32), np.uint8)
    right[:, 16:] = 255
    (photos / "mask.png").write_bytes(png(right))
    region = ("--fusion.region.source", "file", "--fusion.region.mask", "mask.png")
    fused("a.png", "b.png", "--output", "out", "--model.name", str(sd_folder), *region)
    made = picture("out/fused.png")
    first, second = (np.abs(made - through_the_vae(sd_folder, f"{n}.png")).mean((0, 2)) for n in "ab")
    assert first[:8].mean() < second[:8].mean() / 2
    assert second[24:].mean() < first[24:].mean() / 2


def test_words_recolour_a_wall_and_its_own_give_it_back(tmp_path, monkeypatch, taught_folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wall.png").write_bytes(png(np.full((32, 32, 3), (220, 30, 30), np.uint8)))
    how = (
        "--model.name",
        str(taught_folder),
        "--prompt.source",
        "a red wall",
        "--prompt.guidance_source",
        "1",
    )
    for word in ("red", "blue"):
        target = ("--prompt.target", f"a {word} wall", "--prompt.guidance_target", "1")
        fused("wall.png", "--output", word, *how, *target)
    red, blue = (picture(f"{word}/fused.png").astype(int).mean((0, 1)) for word in ("red", "blue"))
    assert np.abs(red - through_the_vae(taught_folder, "wall.png").mean((0, 1))).max() <= 2
    assert blue[2] > blue[0] + 30 > red[2]


def test_the_config_of_an_edit_holds(photos, sd_folder):
    config = Path(__file__).parents[3] / "configs/edit-text.yaml"
    assert cli.main(["fuse", "a.png", "--config", str(config), "--model.name", str(sd_folder)]) == 0
    line = json.loads((photos / "out/edit-text/fuse.json").read_text())
    assert (line["num_steps"], line["skip"]) == (100, 36)
    assert (line["prompt"]["guidance_source"], line["prompt"]["guidance_target"]) == (3.5, 15)
    assert line["inputs"][0]["psnr"] > 100


def test_a_flagged_fusion_is_drawn_once_more_and_never_written_black(photos, sd_folder, capsys):
    sd_copy = shutil.copytree(sd_folder, photos / "model")
    two = ("a.png", "b.png", "--mode", "linear", "--model.name", str(sd_copy))
    fused(*two, "--output", "calm")
    flag_everything(sd_copy)
    code = cli.main(["fuse", *two, *QUICK, "--output", "none"])
    assert (code, "flagged: the model's safety checker" in capsys.readouterr().err) == (1, True)
    assert not (photos / "none/fused.png").exists()
    fused(*two, "--output", "told", "--model.safety_checker", "false")
    assert np.abs(picture("told/fused.png").astype(int) - picture("calm/fused.png")).max() <= 1
    keys = [hashlib.sha256((photos / f"{n}.png").read_bytes()).hexdigest() for n in "ab"]
    again = seed_of(0, "flagged", *keys)
    fused(*two, "--output", "again", "--seed", str(again), "--model.safety_checker", "false")
    both = [picture("calm/fused.png"), picture("again/fused.png")]
    scores = unsafety(sd_copy, np.stack(both))
    assert scores[0] > scores[1] + 1e-4
    flag_above(sd_copy, float(scores.mean()))
    fused(*two, "--output", "second")
    lineage = json.loads((photos / "second/fuse.json").read_text())
    assert (lineage["seed"], lineage["flagged"]) == (again, 0)
    assert np.abs(picture("second/fused.png").astype(int) - both[1]).max() <= 1
