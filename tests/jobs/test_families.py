"""The jobs with small pipelines of the families whose network is a transformer: SD3, FLUX.1, Z-Image, Qwen-Image."""

import json
import shutil

import numpy as np
import pytest
import small_transformers
from augments import through
from flows import error_line, inline
from fusing import QUICK, picture
from PIL import Image
from sampling import drawn, lines, pixels, refused
from small_pipeline import change

from noiseweave.cluster import shards, storage
from noiseweave.engine.networks import loading
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.pictures import images
from noiseweave.jobs import cli

SMALL = ["--text.height", "32", "--text.width", "32", "--text.steps", "2"]
EDITS = {
    "sd3": (3.5, 13.5),
    "dev": (1.5, 5.5),
    "schnell": (1.0, 1.0),
    "z_image": (1.0, 1.0),
    "qwen_image": (1.0, 4.0),
}
USUAL = {
    "sd3": (28, 7.0),
    "dev": (28, 3.5),
    "schnell": (4, 1.0),
    "z_image": (9, 1.0),
    "qwen_image": (50, 4.0),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    flux = {name: small_transformers.flux(root / name, name) for name in ("dev", "schnell", "fill")}
    others = {
        name: getattr(small_transformers, name)(root / name) for name in ("sd3", "z_image", "qwen_image")
    }
    return others | flux


@pytest.fixture(params=list(EDITS))
def small(request, folders):
    """(name, folder) of a small pipeline. Not to be changed: copy it."""
    return request.param, str(folders[request.param])


def test_sample_draws_by_what_is_usual_for_the_family(small, tmp_path):
    name, folder = small
    said = ["a cat", "a dog", "--model.name", folder, *SMALL[:4], "--trajectory", "2"]
    assert drawn(tmp_path / "whole", *said) == 0
    line = lines(tmp_path / "whole")[1]
    assert (line["steps"], line["guidance"]) == USUAL[name]
    assert (line["sampler"], line["text"], line["network_evaluations"]) == (
        "pipeline",
        "a dog",
        line["steps"],
    )
    assert (tmp_path / "whole/trajectories/sample-00000001.webp").is_file()
    one_by_one = ["--shard_samples", "1", "--model.micro_batch", "1"]
    assert drawn(tmp_path / "parts", *said, *one_by_one) == 0
    whole, parts = (pixels(tmp_path / folder, 3) for folder in ("whole", "parts"))
    assert whole.shape == (2, 32, 32, 3)
    assert np.abs(whole - parts).max() <= 1
    assert np.abs(whole[0] - whole[1]).max() > 2


def test_fuse_edits_by_text_and_mixes_pictures(small, photos):
    name, folder = small
    model = ["--model.name", folder, "--size", "32", *QUICK]
    edit = ["--prompt.source", "a cat", "--prompt.target", "a dog in snow"]
    assert cli.main(["fuse", "a.png", *model, *edit, "--output", "edit"]) == 0
    told = json.loads((photos / "edit/fuse.json").read_text())
    assert (told["prompt"]["guidance_source"], told["prompt"]["guidance_target"]) == EDITS[name]
    assert told["inputs"][0]["psnr"] > 80
    other = ["--prompt.source", "a cat", "--prompt.target", "a cat", "--prompt.guidance_target", "1"]
    other += ["--prompt.guidance_source", "1"]
    assert cli.main(["fuse", "a.png", *model, *other, "--output", "same"]) == 0
    backbone = loading.load(ModelConfig(name=folder), size=32)
    through_vae = backbone.decode(backbone.encode(picture("a.png")[None]))[0].astype(int)
    assert np.abs(picture("same/fused.png") - through_vae).max() <= 1
    assert np.abs(picture("edit/fused.png") - through_vae).max() > 2
    assert cli.main(["fuse", "a.png", "b.png", *model, "--fusion.ratio", "0", "--output", "first"]) == 0
    assert np.abs(picture("first/fused.png") - through_vae).max() <= 1


@pytest.mark.parametrize("name", ["sd3", "dev", "z_image", "qwen_image"])
def test_augment_fuses_captioned_pictures(name, folders, tmp_path):
    rows = []
    for i, text in enumerate(("a red rose", "a tulip", "a daisy")):
        coarse = Image.fromarray(np.random.default_rng(i).integers(0, 255, (3, 3, 3), np.uint8))
        rows.append(
            (str(i), {"png": images.encode(np.asarray(coarse.resize((32, 32), 3))), "txt": text.encode()})
        )
    storage.write(str(tmp_path / "in/s-0.tar"), shards.pack(rows))
    said = [
        "--input",
        tmp_path / "in",
        "--model.name",
        folders[name],
        "--size",
        "32",
        "--features.name",
        "pixels",
    ]
    said += ["--pairing.threshold", "-1", "--pairing.upper", "1", *QUICK]
    report, made = through(tmp_path / "out", *said)
    assert len(made) == 3, report
    _, other = through(tmp_path / "again", *said, "--model.micro_batch", "1")
    assert made.keys() == other.keys()
    for key, files in made.items():
        apart = images.decode(files["png"], 3).astype(int) - images.decode(other[key]["png"], 3)
        assert np.abs(apart).max() <= 1


@pytest.mark.parametrize(("name", "guidance"), [("fill", 30.0), ("dev", 3.5), ("qwen_image", 4.0)])
def test_inpaint_fills_holes(name, guidance, folders, tmp_path, capsys):
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    hole = np.zeros((32, 48), np.uint8)
    hole[8:20, 10:30] = 255
    for kind, array in (("image", image), ("hole", hole)):
        Image.fromarray(array).save(tmp_path / f"{kind}.png")
    said = ["--image", tmp_path / "image.png", "--mask", tmp_path / "hole.png", "--mask_mode", "white"]
    said += ["--model.name", folders[name], "--prompt", "a cat", "--steps", "2", "--seed", "1"]
    assert inline("inpaint", *said, "--output", tmp_path / "o") == 0
    found = [json.loads(p.read_text()) for p in (tmp_path / "o").rglob("*.json")]
    assert f'"guidance": {guidance}' in json.dumps(found)


@pytest.mark.parametrize("name", ["z_image", "qwen_image"])
def test_prompts_of_unlike_lengths_are_mixed(name, folders, tmp_path):
    said = ["--interpolate", "a", "a very long dog", "--frames", "3", "--text.guidance", "3"]
    assert drawn(tmp_path / "o", *said, "--model.name", folders[name], *SMALL) == 0
    frames = pixels(tmp_path / "o", 3)
    assert len({frame.tobytes() for frame in frames}) == 3


REFUSED = {
    "sampler": (
        "sd3",
        ["--text.sampler", "ddim"],
        "text.sampler='ddim': euler or pipeline, as the model is a flow",
    ),
    "sides": ("sd3", ["--text.height", "40"], "text.height=40: a multiple of 16, at most 192"),
    "too large": ("sd3", ["--text.height", "208"], "text.height=208: a multiple of 16, at most 192"),
    "guidance": ("schnell", ["--text.guidance", "3"], "text.guidance=3.0: 1, as the model was distilled"),
    "one step": (
        "qwen_image",
        ["--text.steps", "1"],
        "text.steps=1: 2 or more, as the model's scheduler takes",
    ),
    "fill": ("fill", [], "it is a FluxFillPipeline; text-to-image takes"),
    "negative": (
        "dev",
        ["--negative_prompt", "x"],
        "negative_prompt='x': empty, as a FluxPipeline takes none",
    ),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_a_family_cannot_do_is_one_line(how, folders, tmp_path, capsys):
    name, said, words = REFUSED[how]
    assert words in refused(capsys, tmp_path / "o", "a cat", "--model.name", folders[name], *said)


def test_guidance_of_an_edit_is_refused_of_schnell(folders, photos, capsys):
    said = ["fuse", "a.png", "--model.name", str(folders["schnell"]), "--size", "32", "--output", "o"]
    with pytest.raises(SystemExit):
        cli.main([*said, "--prompt.target", "a dog", "--prompt.guidance_target", "4"])
    assert "prompt.guidance_target=4.0: 1, as the model was distilled" in error_line(capsys.readouterr().err)


def test_a_flux_without_t5_is_refused_and_an_sd3_does_without(folders, tmp_path, capsys):
    flux = shutil.copytree(folders["dev"], tmp_path / "flux")
    shutil.rmtree(flux / "text_encoder_2")
    said = refused(capsys, tmp_path / "o", "a cat", "--model.name", flux)
    assert "text_encoder_2/ is missing" in said
    change(flux / "model_index.json", text_encoder_2=[None, None])
    said = refused(capsys, tmp_path / "o", "a cat", "--model.name", flux)
    assert "a FluxPipeline without text_encoder_2, which it needs" in said
    sd3 = shutil.copytree(folders["sd3"], tmp_path / "sd3")
    shutil.rmtree(sd3 / "text_encoder_3")
    assert "text_encoder_3/ is missing" in refused(capsys, tmp_path / "o", "a cat", "--model.name", sd3)
    change(sd3 / "model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])
    assert drawn(tmp_path / "without", "a cat", "--model.name", sd3, *SMALL) == 0


def test_features_of_a_unet_are_refused_of_a_transformer(folders, tmp_path, capsys):
    storage.write(
        str(tmp_path / "in/s.tar"),
        shards.pack([("a", {"png": images.encode(np.zeros((32, 32, 3), np.uint8))})]),
    )
    with pytest.raises(SystemExit):
        inline(
            "augment",
            "--input",
            tmp_path / "in",
            "--output",
            tmp_path / "o",
            "--model.name",
            folders["dev"],
            "--size",
            "32",
            "--features.name",
            "unet",
        )
    assert "has no U-Net; name other features" in error_line(capsys.readouterr().err)
