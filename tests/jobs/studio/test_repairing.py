"""What the tab Repair paints: the files that ``noiseweave inpaint`` writes, byte for byte, and no pixel outside."""

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flows import inline
from inpaints import SAVED, block, lora, mask, noise, saved
from PIL import Image

from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.jobs.studio import commands, masking, repairing
from noiseweave.jobs.studio.config import Config
from noiseweave.jobs.studio.models import Models

CONTROLS = {
    **{
        "mask_mode": "black",
        "variants": 2,
        "repair_seed": 7,
        "crop_to_mask": False,
        "padding": 4,
        "feather": 2,
    },
    **{"repair_steps": 3, "repair_strength": 1, "resample": 1, "repair_prompt": "", "repair_negative": ""},
    **{"repair_guidance": 0, "lora_1": 1, "lora_2": 1, "lora_3": 1},
}
PAGE = Config(output="out", model=ModelConfig(name="digits-ddpm"))


def asked(picture: bytes, hole: bytes, page=PAGE, **controls):
    """The config of the page's controls, and its two files, written where it says."""
    names = [f"out/pictures/{masking.name_of(data)}" for data in (picture, hole)]
    for name, data in zip(names, (picture, hole), strict=True):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)
    return repairing.config_of(page, CONTROLS | controls, *names), names


def batch(config) -> list[bytes]:
    """What the job writes, run by the YAML that the page gives."""
    Path("job.yaml").write_text(commands.yaml_of(config), encoding="utf-8")
    assert inline("inpaint", "--config", "job.yaml") == 0
    key = Path(config.image).stem
    found = [next(Path(config.output, "restored").glob(f"{key}.*"))]
    found += sorted(Path(config.output, "restored").glob(f"{key}_*.*"))
    return [path.read_bytes() for path in found]


CASES = {
    "grey, black": ("PNG", "L", {}),
    "colour with a profile, white": ("PNG", "RGB", {"mask_mode": "white"}),
    "boxes around holes": ("PNG", "RGB", {"crop_to_mask": True, "variants": 3}),
    "a JPEG": ("JPEG", "RGB", {"feather": 0}),
    "alpha": ("WEBP", "RGBA", {"repair_strength": 0.7}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_batchs_files_are_the_pages_byte_for_byte(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind, mode, controls = case
    where = block((40, 30), 8, 10, 9, 11)
    profile = {"icc_profile": b"a profile"} if kind == "PNG" else {}
    picture = saved(noise(mode, (40, 30)), kind, **(SAVED[kind] | profile))
    hole = saved(mask(where, controls.get("mask_mode") == "white"), "PNG")
    config, files = asked(picture, hole, **controls)
    made = repairing.Repairs(Models(PAGE.model, None), 16).draw(config, *files)
    assert list(made.files) == batch(config)
    assert list(made.seeds) == [7, 8, 9][: config.rows]
    assert made.left_out == ()
    if kind == "PNG":
        after = np.asarray(Image.open(f"{config.output}/restored/{Path(config.image).name}"))
        before = np.asarray(Image.open(config.image))
        assert (after[~where] == before[~where]).all()
        assert (after[where] != before[where]).any()
        assert Image.open(f"{config.output}/restored/{Path(config.image).name}").info["icc_profile"]


def test_a_text_model_repairs_as_the_job_does(hole_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = Config(output="out", model=ModelConfig(name=str(hole_folder)))
    hole = saved(mask(block((40, 30), 8, 10, 9, 11)), "PNG")
    told = {"repair_prompt": "a horse", "repair_negative": "a dog", "repair_guidance": 3, "variants": 1}
    config, files = asked(saved(noise("RGB", (40, 30)), "PNG"), hole, page, **told)
    made = repairing.Repairs(Models(page.model, None), 16).draw(config, *files)
    assert list(made.files) == batch(config)


def test_a_loras_weight_is_the_jobs_and_the_other_tabs_keep_theirs(kl_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a b.safetensors", "c.safetensors"):
        Path(name).write_bytes(lora(len(name)))
    page = Config(
        output="out", model=ModelConfig(name=str(kl_folder), lora=("a b.safetensors", "c.safetensors"))
    )
    picture, hole = saved(noise("RGB", (40, 30)), "PNG"), saved(mask(block((40, 30), 8, 10, 9, 11)), "PNG")
    models = Models(page.model, None)
    repairs = repairing.Repairs(models, 16)
    made = {}
    for weights in ((1, 1), (0.5, 1), (1, 0.5), (1, 1)):
        told = {"lora_1": weights[0], "lora_2": weights[1], "variants": 1}
        config, files = asked(picture, hole, page, **told)
        found = tuple(repairs.draw(config, *files).files)
        assert made.setdefault(weights, found) == found
        assert config.model.lora_weights == weights
    assert len({*made.values()}) == 3
    assert list(made[1, 0.5]) == batch(asked(picture, hole, page, lora_2=0.5, variants=1)[0])
    half = commands.command_of("inpaint", asked(picture, hole, page, lora_1=0.5)[0], "images")
    assert "--model.lora_weight" in half
    assert models.repairing().text is models.drawing(), "with the weights that it was started with"
    assert models.repairing((1.0, 1.0)) is models.repairing()


def test_a_softer_edge_takes_no_painting(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hole = saved(mask(block((16, 16), 3, 3, 8, 8)), "PNG")
    config, files = asked(saved(noise("L", (16, 16)), "PNG"), hole, variants=1)
    repairs = repairing.Repairs(Models(PAGE.model, None), 16)
    hard = repairs.draw(replace(config, feather=0), *files)
    model = repairs.models.repairing()
    monkeypatch.setattr(model, "base", None)
    soft = repairs.draw(replace(config, feather=3), *files)
    assert soft.files != hard.files
    with pytest.raises(AssertionError):  # it has no network any more
        repairs.draw(replace(config, seed=8), *files)


def test_what_is_held_stays_within_its_bound(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hole = saved(mask(block((16, 16), 3, 3, 8, 8)), "PNG")
    config, files = asked(saved(noise("L", (16, 16)), "PNG"), hole, variants=1, repair_steps=1)
    repairs = repairing.Repairs(Models(PAGE.model, None), 4000 / 2**20)
    for seed in range(1, 20):
        repairs.draw(replace(config, seed=seed), *files)
        assert repairs.held.size <= repairs.held.limit
    assert 1 <= len(repairs.held) < 19


@pytest.mark.parametrize(
    ("controls", "said"),
    [
        ({"variants": 0}, "variants=0: 1 to 8"),
        ({"variants": 9}, "variants=9: 1 to 8"),
        ({"repair_seed": 0}, "seed=0: 1 or more"),
        ({"mask_mode": "red"}, "mask_mode='red': black or white"),
        ({"mask_mode": []}, "mask_mode=.*black or white"),
        ({"repair_steps": 0}, "inpaint.steps=0"),
        ({"feather": "x"}, "feather='x': a number"),
        ({"repair_strength": 0}, "inpaint.strength"),
    ],
)
def test_what_no_slider_sends_is_one_line(controls, said):
    with pytest.raises(ValueError, match=said):
        repairing.config_of(PAGE, CONTROLS | controls, "a.png", "b.png")


def test_the_command_is_inpaints():
    config = repairing.config_of(PAGE, CONTROLS, "a.png", "b.png")
    words = shlex.split(commands.command_of("inpaint", config, "images"))
    assert words[:2] == ["noiseweave", "inpaint"]
    assert "--image" in words
