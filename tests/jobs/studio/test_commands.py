"""A config as a command and as YAML: both are read back as the same config."""

import shlex

import pytest
import yaml

from noiseweave.engine.diffusion.recipes import InversionRecipe
from noiseweave.engine.fusion.recipes import EditRecipe, RegionRecipe
from noiseweave.engine.networks.recipes import ModelConfig, PromptRecipe
from noiseweave.jobs.arguments import parse
from noiseweave.jobs.fuse.config import Config, FuseRecipe
from noiseweave.jobs.studio.commands import command_of, said, yaml_of

MODEL = ModelConfig(name="digits-ddpm")
CONFIGS = {
    "plain": Config(images=("a.png", "b.png"), output="out", model=MODEL),
    "two": Config(
        images=("a b.png", "it's.png"),
        output="out/x",
        model=MODEL,
        seed=7,
        fusion=FuseRecipe(modes="linear", ratio=0.0, variation=0.25, region=RegionRecipe(source="saliency")),
        inversion=InversionRecipe(num_steps=20, skip=4, noise="shared"),
    ),
    "three": Config(images=("a.png", "b.png", "c.png"), output="out", model=MODEL, weights=(0.2, 0.3, 0.5)),
    "edit": Config(images=("a.png",), output="out", model=MODEL, edit=EditRecipe()),
    "strong edit": Config(
        images=("a.png",), output="out", model=MODEL, edit=EditRecipe(name="style", strength=1)
    ),
    "words": Config(
        images=("a.png",),
        output="out",
        model=MODEL,
        prompt=PromptRecipe(source='a "cat": [1, {x}]', target="true", guidance_target=7.5),
    ),
    "numbers": Config(
        images=("a.png",), output="out", model=MODEL, prompt=PromptRecipe(source="猫", target="12")
    ),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_command_is_read_back_as_the_config(config):
    first, job, *words = shlex.split(command_of("fuse", config, "images"))
    assert (first, job) == ("noiseweave", "fuse")
    assert parse("fuse", words) == config


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_yaml_is_read_back_as_the_config(config, tmp_path):
    (tmp_path / "fuse.yaml").write_text(yaml_of(config), encoding="utf-8")
    assert parse("fuse", ["--config", str(tmp_path / "fuse.yaml")]) == config


def test_what_is_as_it_is_by_default_is_not_said():
    assert said(CONFIGS["plain"]) == {
        "images": ["a.png", "b.png"],
        "output": "out",
        "model": {"name": "digits-ddpm"},
    }
    assert yaml.safe_load(yaml_of(CONFIGS["edit"]))["edit"] == {"name": "variation"}
