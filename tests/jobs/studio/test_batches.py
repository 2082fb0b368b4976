"""The tabs' controls as augment's config: the command and the YAML are read back as it."""

import shlex

import pytest
from studios import FUSE

from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.engine.pairing.recipes import PairingRecipe
from noiseweave.jobs.arguments import parse
from noiseweave.jobs.studio import batches
from noiseweave.jobs.studio.commands import command_of, yaml_of
from noiseweave.jobs.studio.config import Config

PAGE = Config(input="my photos", output="out/studio", model=ModelConfig(name="digits-ddpm"), max_pixels=1000)
PAIRINGS = {
    "augment's own": None,
    "no bounds": PairingRecipe(threshold=-0.5, max_uses=None, per_class=None, draw="top", classes="any"),
    "a quota": PairingRecipe(per_class=12, max_pairs=100, top_k=9),
}


@pytest.mark.parametrize("pairing", PAIRINGS.values(), ids=PAIRINGS)
def test_the_command_and_the_yaml_are_read_back_as_the_config(pairing, tmp_path):
    config = batches.config_of(PAGE, FUSE, "out/studio/augment-001", pairing)
    first, job, *words = shlex.split(command_of("augment", config, "input"))
    assert (first, job, words[0]) == ("noiseweave", "augment", "my photos")
    assert parse("augment", words) == config
    (tmp_path / "a.yaml").write_text(yaml_of(config), encoding="utf-8")
    assert parse("augment", ["--config", str(tmp_path / "a.yaml")]) == config


def test_what_the_tab_fuse_says_is_carried_over():
    config = batches.config_of(PAGE, FUSE | {"region": "saliency"}, "out/a")
    assert (config.fusion.modes, config.fusion.ratio, config.fusion.variation) == ("linear", 0.3, 0.1)
    assert (config.inversion.num_steps, config.inversion.skip, config.inversion.noise) == (4, 1, "shared")
    assert (config.fusion.region.source, config.seed, config.max_pixels) == ("saliency", 7, 1000)
    assert (config.features.name, config.features.cache) == ("auto", "out/studio/features")


def test_a_painted_region_is_of_two_pictures_alone():
    with pytest.raises(ValueError, match="everywhere or saliency"):
        batches.config_of(PAGE, FUSE | {"region": "file"}, "out/a")


def test_the_guidance_is_that_of_the_pictures_own_classes():
    assert batches.config_of(PAGE, FUSE | {"guidance_target": 2}, "out/a").prompt.guidance_target == 2.0


def test_what_no_slider_sends_is_one_line():
    with pytest.raises(ValueError, match=r"fusion\.ratio"):
        batches.config_of(PAGE, FUSE | {"ratio": 2}, "out/a")
