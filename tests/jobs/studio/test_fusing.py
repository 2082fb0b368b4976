"""The controls of the tab Fuse as fuse's config."""

import re

import numpy as np
import pytest

from noiseweave.engine.networks.recipes import ModelConfig
from noiseweave.jobs.studio import fusing
from noiseweave.jobs.studio.config import Config
from noiseweave.jobs.studio.pictures import Picture

PAGE = Config(output="out/studio", model=ModelConfig(name="digits-ddpm"))
CONTROLS = {
    **{"mode": "cross_fade", "ratio": 0.3, "region": "everywhere", "edit": "none", "strength": 0.5},
    **{"weight_1": 0.5, "weight_2": 0.25, "weight_3": 0.25, "weight_4": 0.0},
    **{"steps": 20, "skip": 4, "noise": "shared", "variation": 0, "seed": 3},
    **{"source": "", "target": "", "guidance_source": 0, "guidance_target": 0},
    **dict.fromkeys(fusing.LABELS),
}
FILES = ("a.png", "b.png", "c.png", "d.png")


def made(count=2, **controls):
    return fusing.config_of(PAGE, CONTROLS | controls, FILES[:count])


def test_two_pictures_have_a_ratio_and_more_have_weights():
    two, three = made(2, region="saliency", variation=0.25), made(3, region="saliency")
    assert (two.shares, two.fusion.region.source, two.fusion.variation) == ([0.7, 0.3], "saliency", 0.25)
    assert (three.weights, three.fusion.region.source) == ((0.5, 0.25, 0.25), "everywhere")
    assert (two.seed, two.inversion.num_steps, two.inversion.noise) == (3, 20, "shared")


def test_an_edit_is_of_the_first_picture_and_style_takes_the_second():
    assert made(3, edit="smooth").images == ("a.png",)
    assert made(3, edit="style").images == ("a.png", "b.png")
    assert made(1, edit="variation", strength=0.2).edit.strength == 0.2


def test_prompts_and_guidance_are_of_models_that_read_them():
    prompt = made(1, source=" a cat ", target="a dog", guidance_target=7.5).prompt
    assert (prompt.source, prompt.target, prompt.guidance_source, prompt.guidance_target) == (
        *("a cat", "a dog"),
        *(None, 7.5),
    )
    assert made(2, guidance_target=7.5).prompt.guidance_target is None


def test_the_first_class_is_of_all_pictures_or_each_has_one():
    assert made(3, label_1=2, guidance_target=2).labels == "2"
    assert made(3, label_1=2, guidance_target=2).prompt.guidance_target == 2
    assert made(2, label_1=2, label_2=0, label_3=1).labels == "2,0"
    with pytest.raises(ValueError, match="labels"):
        made(3, label_1=2, label_2=0)


def test_a_painted_region_is_a_file():
    config = fusing.config_of(PAGE, CONTROLS | {"region": "file"}, FILES[:2], mask="m.png")
    assert (config.fusion.region.source, config.fusion.region.mask) == ("file", "m.png")
    assert fusing.config_of(PAGE, CONTROLS, FILES[:2], mask="m.png").fusion.region.mask is None


def test_the_output_is_named_by_what_it_is():
    assert made().output.startswith("out/studio/fuse-")
    assert made() == made()
    assert made().output != made(ratio=0.31).output


@pytest.mark.parametrize(
    ("controls", "said"),
    [
        ({"ratio": 2}, "fusion.ratio=2.0: 0 to 1"),
        ({"ratio": "0.5"}, "ratio='0.5': a number"),
        ({"ratio": None}, "ratio=None: a number"),
        ({"steps": 2.5}, "steps=2.5: a whole number"),
        ({"skip": 20}, "inversion.skip=20"),
        ({"region": "file"}, "fusion.region.mask"),
        ({"region": "/etc"}, "fusion.region.source"),
        ({"edit": "none of ours"}, "edit.name"),
        ({"ratio": True}, "ratio=True: a number"),
    ],
)
def test_what_no_slider_sends_is_one_line(controls, said):
    with pytest.raises(ValueError, match=re.escape(said)) as raised:
        made(**controls)
    assert "\n" not in str(raised.value)


def test_a_picture_is_where_it_is_or_below_the_output():
    picture = Picture(path="/tmp/x", key="ab" * 32, image_HWC=np.zeros((1, 1, 1), np.uint8), extension=".jpg")
    assert fusing.place_of(PAGE, picture, {}) == "out/studio/pictures/abababababababab.jpg"
    assert fusing.place_of(PAGE, picture, {"ab" * 32: "photos/a.jpg"}) == "photos/a.jpg"
