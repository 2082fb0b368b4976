"""What the tab Sample draws: the pictures of ``noiseweave sample``, bit for bit."""

import io
from pathlib import Path

import numpy as np
import pytest
import sampling
from flows import inline
from PIL import Image

from noiseweave.engine.networks.facts import read_facts
from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.jobs.reading import class_names
from noiseweave.jobs.studio import commands, drawing
from noiseweave.jobs.studio.config import Config
from noiseweave.jobs.studio.models import Models

CONTROLS = {
    **{"classes": [], "sample_prompts": "", "sample_negative": "", "count": 5, "sample_guidance": 0},
    **{"sample_steps": 3, "sample_seed": 2, "kept": 2},
}


def page(name):
    return Config(output="out", model=ModelConfig(name=str(name)))


def drawn(name, **controls):
    """The config of the page's controls, and what the page draws."""
    models = Models(page(name).model, None)
    config = drawing.config_of(page(name), CONTROLS | controls, models.known().facts)
    return config, drawing.draw(models, config)


def batch(config, *more) -> list[np.ndarray]:
    """The pictures that the job writes, run by the YAML that the page gives."""
    Path("job.yaml").write_text(commands.yaml_of(config), encoding="utf-8")
    assert inline("sample", "--config", "job.yaml", *more) == 0
    files = sampling.read(Path(config.output)).values()
    found = [np.asarray(Image.open(io.BytesIO(file["png"]))) for file in files]
    return [x if x.ndim == 3 else x[..., None] for x in found]


CASES = {
    "ddpm": ("ddpm", 0, {}),
    "flow with classes": ("flow", 3, {"sample_guidance": 2, "classes": [2, 0]}),
    "all classes in turn": ("ddpm", 3, {"sample_guidance": 1.5}),
    "linear mixing": ("linear_mixing", 0, {}),
    "vae": ("vae", 0, {}),
    "dcgan": ("dcgan", 0, {}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_batchs_pictures_are_the_pages_bit_for_bit(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind, classes, controls = case
    folder = sampling.tiny(tmp_path / "model", kind, classes)
    if classes:
        class_names.write(folder, ["a", "b", "c"])
    config, shown = drawn(folder, **controls)
    found = batch(config)
    assert len(found) == len(shown.image_BHWC) == 5
    assert all((a == b).all() for a, b in zip(found, shown.image_BHWC, strict=True))
    if kind in ("vae", "dcgan"):
        assert shown.beliefs_KBHWC is None
    else:
        assert shown.beliefs_KBHWC.shape[:2] == (2, 5)
    wanted = ["c", "a", "c", "a", "c"] if controls.get("classes") else ["a", "b", "c", "a", "b"]
    assert list(shown.names) == (wanted if classes else [""] * 5)


def test_a_text_model_draws_as_the_job_does(kl_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = {
        "sample_prompts": " a cat \n\na dog\n",
        "sample_negative": "a horse",
        "count": 2,
        "sample_guidance": 3,
    }
    config, shown = drawn(kl_folder, **told)
    assert config.prompts == ("a cat", "a dog")
    assert list(shown.names) == ["a cat", "a cat", "a dog", "a dog"]
    assert shown.beliefs_KBHWC.shape[:2] == (2, 4)
    assert all((a == b).all() for a, b in zip(batch(config), shown.image_BHWC, strict=True))


def test_what_was_fused_and_repaired_before_changes_no_picture(tmp_path):
    folder = sampling.tiny(tmp_path / "model", "flow", 3)
    models = Models(page(folder).model, None)
    config = drawing.config_of(page(folder), CONTROLS | {"sample_guidance": 2}, models.known().facts)
    alone = drawing.draw(models, config).image_BHWC
    models.fusing()
    models.repairing()
    assert (drawing.draw(models, config).image_BHWC == alone).all()


@pytest.mark.parametrize(
    ("controls", "said"),
    [
        ({"count": 0}, "count=0: 1 to 64"),
        ({"count": 65}, "count=65: 1 to 64"),
        ({"classes": ["0"]}, "classes"),
        ({"sample_steps": 0}, "sampler.steps=0"),
        ({"sample_seed": -1}, "seed=-1"),
        ({"kept": "x"}, "kept='x': a number"),
    ],
)
def test_what_no_slider_sends_is_one_line(controls, said):
    with pytest.raises(ValueError, match=said):
        drawing.config_of(page("digits-ddpm"), CONTROLS | controls, read_facts("digits-ddpm"))


def test_a_class_that_the_model_does_not_know_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"labels='3': 0 to 2"):
        drawn(sampling.tiny(tmp_path / "model", "ddpm", 3), classes=[3])


def test_classes_are_chosen_by_name_where_they_have_names(tmp_path):
    folder = sampling.tiny(tmp_path / "model", "ddpm", 3)
    assert drawing.classes_of(read_facts(folder)) == [("0", 0), ("1", 1), ("2", 2)]
    class_names.write(folder, ["daisy", "rose"])
    assert drawing.classes_of(read_facts(folder)) == [("daisy", 0), ("rose", 1), ("2", 2)]
    assert drawing.classes_of(read_facts("digits-ddpm")) == []
