"""Photos: the gate is on by default, asks the model too, and what it says is in the lineage; both scopes."""

import json

import numpy as np
import pytest
import torch
from augments import report, write_shard
from flows import inline
from PIL import Image
from skimage import data

from noiseweave.cluster import shards, storage
from noiseweave.engine.networks import base_models
from noiseweave.engine.pictures import images
from noiseweave.engine.training import systems
from noiseweave.engine.training.recipes import (
    Blueprint,
    ModelRecipe,
    ObjectiveRecipe,
    ScheduleRecipe,
    UnetRecipe,
)

HOW = (
    "--features.name=pixels",
    "--pairing.threshold=-1",
    "--pairing.upper=1",
    "--pairing.max_pairs=6",
    "--inversion.num_steps=4",
    "--inversion.skip=1",
    "--quality.redraw=1",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A DDPM of 64 x 64 in colour with random weights."""
    plan = Blueprint(
        model=ModelRecipe(),
        objective=ObjectiveRecipe(),
        schedule=ScheduleRecipe(),
        classes=0,
        unet=UnetRecipe(channels=(8, 8), attention=(), head=8, groups=4),
        size=64,
        channels=3,
        seed=0,
    )
    folder = tmp_path_factory.mktemp("photos") / "model"
    base_models.save(systems.build(plan).model, folder, torch.float32)
    return str(folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Eight crops of two photos, a class each, in two shards."""
    folder, rows = tmp_path_factory.mktemp("crops"), []
    for label, name in enumerate(("astronaut", "coffee")):
        photo = np.asarray(Image.fromarray(getattr(data, name)()).convert("RGB"))
        for k in range(4):
            crop = photo[40 * k : 40 * k + 200, 60 * k : 60 * k + 200]
            rows.append((f"{name}{k}", {"png": images.encode(crop), "cls": b"%d" % label}))
    write_shard(folder / "a.tar", rows[::2])
    write_shard(folder / "b.tar", rows[1::2])
    return folder


def lineages(output):
    found = sorted(map(str, [*output.glob("shards/augmented*.tar"), *output.glob("rejected/*.tar")]))
    members = [(s, e.members["json"]) for s in found for e in shards.index(s)[0]]
    return [json.loads(storage.read(s, m.offset, m.size)) for s, m in members]


@pytest.mark.parametrize("scope", ["dataset", "window"])
def test_photos_are_checked_by_default_and_the_model_is_asked(source, model, tmp_path, scope):
    out = tmp_path / "out"
    how = (*HOW, "--pairing.scope", scope, "--pairing.window=2")
    assert inline("augment", "--model.name", model, *how, "--input", source, "--output", out) == 0
    found, checks = report(out), [line["check"] for line in lineages(out)]
    assert found["config"]["gate"] is True
    assert found["config"]["quality"]["judge"] == "centroid"
    assert found["config"]["quality"]["sharpness"] == 0.05
    assert len(checks) == found["samples"] + sum(found["rejected"].values()) == 6
    for check in checks:
        assert check["strange"] > 0
        assert None not in (check["double"], check["traced"], check["bits"], check["speckle"], check["rough"])


def test_a_copy_is_rejected_by_its_detail_though_its_cosine_is_not_asked(source, model, tmp_path):
    how = (*HOW, "--fusion.ratio=0", "--fusion.variation=0", "--quality.copy=1", "--quality.strange=0")
    out = tmp_path / "out"
    assert inline("augment", "--model.name", model, *how, "--input", source, "--output", out) == 0
    assert (report(out)["samples"], report(out)["rejected"]) == (0, {"copy": 6})
    assert all(line["check"]["strange"] is None for line in lineages(out))
    assert all(line["check"]["traced"] > 0.95 for line in lineages(out))


def test_the_gate_can_be_left_out_and_digits_have_none(source, model, tmp_path):
    out = tmp_path / "out"
    how = (*HOW, "--gate=false", "--model.name", model)
    assert inline("augment", *how, "--input", source, "--output", out) == 0
    assert report(out)["rejected"] == {}
    assert all("check" not in line for line in lineages(out))
    grey = tmp_path / "grey"
    how = (*HOW, "--model.name=digits-ddpm")
    assert inline("augment", *how, "--input", source, "--output", grey) == 0
    assert report(grey)["config"]["gate"] is False
