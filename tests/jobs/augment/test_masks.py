"""augment with regions: masks that travel in the shards, saliency, and what the labels say of them."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from augments import through
from flows import DIGITS
from PIL import Image
from sklearn.datasets import load_digits

from noiseweave.cluster import shards, storage
from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion import groups
from noiseweave.engine.fusion.recipes import FusionRecipe, RegionRecipe
from noiseweave.engine.networks import loading
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.pictures import images
from noiseweave.jobs import cli
from noiseweave.jobs.augment import config as augment_config
from noiseweave.jobs.augment import job as augment
from noiseweave.jobs.augment import masks

QUICK = [
    *DIGITS,
    "--inversion.num_steps",
    "4",
    "--inversion.skip",
    "1",
    "--pairing.threshold",
    "0.5",
    "--pairing.classes",
    "any",
    "--pairing.max_uses",
    "3",
    "--cluster.gpus_per_worker",
    "0",
]
MODEL = ModelConfig(name="digits-ddpm")
KEYS = [f"d{i:02d}" for i in range(16)]
RIGHT = np.zeros((32, 32), np.uint8)
RIGHT[:, 16:] = 255
BAD_MASKS = {
    "d00": (None, "no_mask"),
    "d01": (b"", "bad_mask"),
    "d02": (images.encode(RIGHT[:10, :, None]), "mask_does_not_fit"),
    "d03": (images.encode(np.stack([RIGHT, RIGHT, 255 - RIGHT], 2)), "mask_has_colours"),
    "d04": (images.encode(RIGHT[..., None] // 255 * 100), "bad_mask"),
}


def picture(i):
    small = np.rint(load_digits().images[i] / 16 * 255).astype(np.uint8)
    return np.asarray(Image.fromarray(small).resize((32, 32), 3))


def encoded(i):
    """A picture's file; every fourth has a colour profile that is none."""
    if i % 4:
        return images.encode(picture(i)[..., None])
    buffer = io.BytesIO()
    Image.fromarray(picture(i)).save(buffer, "PNG", icc_profile=b"nonsense")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """16 digits, 32 x 32, in two shards; all but four have a mask whose right half is white."""
    folder = tmp_path_factory.mktemp("masked")
    rows = []
    for i, key in enumerate(KEYS):
        mask, _ = BAD_MASKS.get(key, (images.encode(RIGHT[..., None]), ""))
        files = {"png": encoded(i), "cls": str(load_digits().target[i]).encode()}
        rows.append((key, files | ({} if mask is None else {"mask.png": mask})))
    for k in range(2):
        storage.write(str(folder / f"s-{k}.tar"), shards.pack(rows[8 * k : 8 * k + 8]))
    return folder


def augmented(source, output, *more):
    return through(output, *QUICK, "--input", source, *more)


def test_masks_travel_with_the_second_picture(source, tmp_path):
    how = ["--fusion.region.source", "file", "--fusion.ratio", "1"]
    report, made = augmented(source, tmp_path / "o", *how, "--pairing.max_uses", "15")
    left_out = [json.loads(s) for s in (tmp_path / "o/quarantine.jsonl").read_text().splitlines()]
    assert {(b["key"], b["reason"]) for b in left_out} <= {(k, why) for k, (_, why) in BAD_MASKS.items()}
    assert {b["reason"] for b in left_out} == {why for _, why in BAD_MASKS.values()}
    assert len(left_out) == sum(report["quarantined"].values())
    planned = storage.read_json(str(tmp_path / "o/_run/groups.json"))["pairs"]
    assert report["samples"] == len(made) == planned - len(left_out) > 5
    assert (report["pairs"], report["asked"], report["not_made"]) == (planned, planned, len(left_out))
    assert report["pair_ends"] == 2 * len(made)
    label, mixed = dict(zip(KEYS, load_digits().target, strict=False)), 0
    for files in made.values():
        line = json.loads(files["json"])
        first, second = (p["key"] for p in line["parents"])
        assert second not in BAD_MASKS
        assert line["region"] == {"source": "file", "area": 0.5}
        assert [p["weight"] for p in line["parents"]] == [0.5, 0.5]
        if label[first] != label[second]:
            assert line["soft_label"] == {str(label[first]): 0.5, str(label[second]): 0.5}
            mixed += 1
    assert mixed


def test_saliency_weighs_the_label(source, tmp_path):
    _, made = augmented(source, tmp_path / "o", "--fusion.region.source", "saliency")
    soft = 0
    for files in made.values():
        line = json.loads(files["json"])
        area, share = line["region"]["area"], line["ratio"] * line["region"]["area"]
        assert 0.05 < area < 0.95
        assert line["region"]["smooth"] == 0.12
        assert line["parents"][1]["weight"] == pytest.approx(share, abs=1e-6)
        if "soft_label" in line:
            assert list(line["soft_label"].values()) == pytest.approx([1 - share, share], abs=1e-6)
            soft += 1
        else:
            assert files["cls"]
    assert soft
    files = next(iter(made.values()))
    assert_the_engines(tmp_path / "o", files)


def assert_the_engines(output, files):
    """The sample is what the engine makes of its two parents alone."""
    line = json.loads(files["json"])
    keys = [f"{p['shard']}#{p['key']}" for p in line["parents"]]
    numbers = [KEYS.index(p["key"]) for p in line["parents"]]
    image_BHWC = np.stack([images.fit(picture(i)[..., None], 16) for i in numbers])
    pair = groups.Pair(a=0, b=1, similarity=1.0, mode=line["mode"], ratio=line["ratio"], seed=0)
    fusion = FusionRecipe(region=RegionRecipe(source="saliency"))
    recipe = InversionRecipe(num_steps=4, skip=1)
    model = loading.load(ModelConfig(name="digits-ddpm"))
    parents = groups.Parents(image_BHWC=image_BHWC, keys=keys)
    made = groups.augment(model, parents, [pair], recipe, fusion, 0)
    wanted, (area,) = made.image_PHWC, made.areas
    assert np.abs(images.decode(files["png"], 1).astype(int) - wanted[0]).max() <= 1
    assert area == pytest.approx(line["region"]["area"], abs=2e-4)


def test_pairs_without_a_finite_picture_are_quarantined(source, tmp_path):
    whole = loading.load(ModelConfig(name="digits-ddpm"))
    folder = shutil.copytree(loading.describe("digits-ddpm").folder, tmp_path / "m")
    whole.unet.conv_out.bias.data[:] = torch.nan
    whole.unet.save_pretrained(folder / "unet")
    report, made = augmented(source, tmp_path / "o", "--model.name", folder)
    assert not made
    assert list(report["quarantined"]) == ["not_finite"]
    assert report["quarantined"]["not_finite"] > 5
    line = json.loads((tmp_path / "o/quarantine.jsonl").read_text().splitlines()[0])
    assert line["key"] in KEYS
    assert "gave no finite picture of it with d" in line["detail"]


def test_windows_see_the_same_masks(source, tmp_path):
    wide = ["--fusion.region.source", "file", "--pairing.scope", "window", "--pairing.window", "2"]
    report, made = augmented(source, tmp_path / "w", *wide)
    whole, same = augmented(source, tmp_path / "d", *wide[:2])
    assert made.keys() == same.keys()
    for key in made:
        assert json.loads(made[key]["json"]) == json.loads(same[key]["json"])
        assert (
            np.abs(images.decode(made[key]["png"]).astype(int) - images.decode(same[key]["png"])).max() <= 1
        )
    assert report["quarantined"] == whole["quarantined"]
    assert report["broken_profiles"] == whole["broken_profiles"] == 4
    assert report["images_inverted"] == whole["images_inverted"]


def test_a_mask_is_cut_as_its_picture_is(source, tmp_path):
    wide, mask = np.zeros((32, 64, 1), np.uint8), np.zeros((16, 32, 1), np.uint8)
    mask[:, 16:] = 255
    files = {"png": images.encode(wide), "mask.png": images.encode(mask)}
    storage.write(str(tmp_path / "s.tar"), shards.pack([("a", files)]))
    config = augment_config.Config(
        model=MODEL, input=str(tmp_path), output="o", fusion=FusionRecipe(region=RegionRecipe(source="file"))
    )
    task = augment._task(config, "o", shards.find(config.input))
    where, _ = shards.locate(str(tmp_path / "s.tar"))
    (found,) = masks.read(task, where, [0])
    assert found.shape == (16, 16)
    assert (found[:, :7] == 0).all()
    assert (found[:, 9:] == 255).all()


def test_another_region_makes_another_run(source, tmp_path):
    def same(**more):
        config = augment_config.Config(
            model=MODEL, input=str(source), output="o", fusion=FusionRecipe(**more)
        )
        found = shards.find(config.input)
        return augment.identity(augment._task(config, "o", found), found)

    assert same() != same(region=RegionRecipe(source="saliency"))
    assert same(region=RegionRecipe(source="saliency"))["fusion"]["region"]["smooth"] == 0.12


def test_a_mask_file_is_for_fuse(source, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(
            [
                "augment",
                *QUICK,
                "--input",
                str(source),
                "--output",
                str(tmp_path / "o"),
                "--fusion.region.source",
                "file",
                "--fusion.region.mask",
                "m.png",
            ]
        )
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert "fusion.region.mask='m.png': null for augment" in error
    assert error.count("\n") == 1
