"""The fuse job: edits of one picture, and regions where the second of two shows."""

import hashlib
import json

import numpy as np
import pytest
import torch
from fusing import fused, picture, png

from noiseweave.cluster import storage
from noiseweave.engine.diffusion import inversion
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion import edits, groups, regions
from noiseweave.engine.networks import loading
from noiseweave.engine.networks.recipes import ModelConfig


@pytest.mark.parametrize("name", ["smooth", "contrast", "style", "variation"])
def test_an_edit_of_one_picture(digits, name):
    fused("a.png", "--output", "out", "--edit.name", name, "--edit.strength", "0.8")
    assert storage.names_in("out") == ["fuse.json", "fused.png", "input-0.png", "report.html", "sheet.png"]
    lineage = json.loads((digits / "out/fuse.json").read_text())
    assert lineage["edit"] == {"name": name, "strength": 0.8}
    assert [i["weight"] for i in lineage["inputs"]] == [1.0]
    model, key = (
        loading.load(ModelConfig(name="digits-ddpm")),
        hashlib.sha256((digits / "a.png").read_bytes()).hexdigest(),
    )
    image = picture("out/input-0.png")
    recipe = InversionRecipe(num_steps=8, skip=1)
    s, (maps,) = groups.invert_pictures(model, image[None, ..., None], [key], recipe, 0)
    wanted = edits.edit(maps, s, name, 0.8, edits.fresh_noise(maps, 0, key))
    x_BCHW = inversion.replay(model.denoise, s, [wanted])
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


@pytest.mark.parametrize(("grey", "parent"), [(0, 0), (255, 1)])
def test_a_mask_of_one_grey_is_a_parent(digits, grey, parent):
    (digits / "mask.png").write_bytes(png(np.full((8, 8), grey, np.uint8)))
    fused(
        "a.png",
        "b.png",
        "--output",
        "out",
        "--fusion.region.source",
        "file",
        "--fusion.region.mask",
        "mask.png",
    )
    assert np.abs(picture("out/fused.png").astype(int) - picture(f"out/input-{parent}.png")).max() <= 1
    region = json.loads((digits / "out/fuse.json").read_text())["region"]
    assert region["mask_sha256"] == hashlib.sha256((digits / "mask.png").read_bytes()).hexdigest()


def test_regions_are_the_engines(digits):
    half = np.zeros((16, 16), np.uint8)
    half[:, 8:] = 255
    (digits / "mask.png").write_bytes(png(half))
    fused(
        "a.png",
        "b.png",
        "--output",
        "file",
        "--fusion.region.source",
        "file",
        "--fusion.region.mask",
        "mask.png",
    )
    fused("a.png", "b.png", "--output", "own", "--fusion.region.source", "saliency", "--ratio", "0.7")
    model = loading.load(ModelConfig(name="digits-ddpm"))
    image_NHWC = np.stack([picture(f"own/input-{i}.png")[..., None] for i in range(2)])
    keys = [hashlib.sha256((digits / f"{n}.png").read_bytes()).hexdigest() for n in "ab"]
    s, maps = groups.invert_pictures(model, image_NHWC, keys, InversionRecipe(num_steps=8, skip=1), 0)
    wanted = [
        regions.blend(*maps, torch.from_numpy(half / 255)),
        regions.fuse_region(maps, [0.3, 0.7], "cross_fade", regions.saliency(maps[1])),
    ]
    for name, image in zip(
        ["file", "own"], model.decode(inversion.replay(model.denoise, s, wanted)), strict=True
    ):
        assert np.abs(picture(f"{name}/fused.png").astype(int) - image[..., 0]).max() <= 1
