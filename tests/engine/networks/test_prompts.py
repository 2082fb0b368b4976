"""What a text-to-image model is asked for: each wrong value is named, and --help waits for no torch."""

import subprocess
import sys

import pytest

from noiseweave.engine.networks.prompts import Prompt
from noiseweave.engine.networks.recipes import TextRecipe


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"guidance": 0.5}, {"height": 60}, {"width": 0}, {"eta": 2.0}, {"eta": 0.5}],
    ids=str,
)
def test_a_wrong_recipe_names_the_field(wrong):
    with pytest.raises(ValueError, match=rf"text\.{next(iter(wrong))}="):
        TextRecipe(**wrong)


def test_a_wrong_prompt_names_the_field():
    for wrong in ({"mix": 0.5}, {"mix": 1.5, "other": "b"}, {"mix": -0.1, "other": "b"}):
        with pytest.raises(ValueError, match=r"prompt\.mix="):
            Prompt(text="a", key="k", **wrong)


def test_prompts_and_their_sources_load_no_heavy_library():
    code = "import sys, noiseweave.jobs.sample.prompts; print({'torch', 'ray', 'diffusers'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
